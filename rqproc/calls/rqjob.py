"""RQ's own job objects for requests that were enqueued: the only module that makes them.

Knows ``rq.job.Job``. Imported only where a job is handed out, since RQ takes long to import.
"""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rq.job import Job, JobStatus

from rqproc.ids import parse_address
from rqproc.protocol.keys import Keys
from rqproc.protocol.pickles import PlainPickle

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from rqproc.protocol.messages import Sent


def queued(jobs: Sequence[Sent], keys: Keys, connection: redis.Redis) -> list[Job]:
    """Return jobs that were enqueued, much as ``Job.fetch`` would, without asking the server."""
    blank = Job(connection=connection, serializer=PlainPickle)
    blank.created_at = blank.enqueued_at = datetime.now(UTC)
    blank.origin = keys.ingress
    blank._status = JobStatus.QUEUED
    return [_job(job, blank) for job in jobs]


def _job(sent: Sent, blank: Job) -> Job:
    """A copy, with fields set one by one: ``Job()`` and ``Job.restore`` each take as long as all
    else that is done for a job.
    """
    job = copy(blank)
    job.meta, job.webhooks, job._dependency_ids = {}, [], []
    job.id = sent.id
    job.data = sent.data.encode() if isinstance(sent.data, str) else sent.data
    _, resource, id = parse_address(sent.address)
    job.description = f"{resource}:{id}"
    return job
