"""RQ's own job objects for requests that were enqueued: the only module that makes them.

Knows ``rq.job.Job``. Imported only where a job is handed out, since RQ takes long to import.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from rqproc.placement import parse_address
from rqproc.protocol.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from rqproc.protocol.commands import Sent


def queued(jobs: Sequence[Sent], keys: Keys, connection: redis.Redis) -> list[Job]:
    """Return jobs that were enqueued, much as ``Job.fetch`` would, without asking the server."""
    now = datetime.now(UTC)
    return [_job(job, keys.ingress, now, connection) for job in jobs]


def _job(sent: Sent, origin: str, now: datetime, connection: redis.Redis) -> Job:
    """Fields are set one by one: ``Job.restore`` takes as long as all else that is done."""
    job = Job(sent.id, connection=connection, serializer=JSONSerializer)
    job.data = sent.data.encode() if isinstance(sent.data, str) else sent.data
    job.created_at = job.enqueued_at = now
    job.origin = origin
    _, resource, id = parse_address(sent.address)
    job.description = f"{resource}:{id}"
    job._status = JobStatus.QUEUED
    return job
