"""RQ's own job objects for requests that were enqueued: the only module that makes them.

Knows ``rq.job.Job``. Imported only where a job is handed out, since RQ takes long to import.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from rqproc.keys import Keys

if TYPE_CHECKING:
    import redis

    from rqproc.calls import Batch
    from rqproc.cluster import Job as OrderJob


def queued(sent: Batch, keys: Keys, connection: redis.Redis) -> list[Job]:
    """Return the jobs of an order, much as ``Job.fetch`` would, without asking the server."""
    now = datetime.now(UTC)
    return [_job(job, keys.ingress, now, connection) for job in sent.order.jobs]


def _job(sent: OrderJob, origin: str, now: datetime, connection: redis.Redis) -> Job:
    """Fields are set one by one: ``Job.restore`` takes as long as all else that is done."""
    job = Job(sent.id, connection=connection, serializer=JSONSerializer)
    job.data = sent.data
    job.created_at = job.enqueued_at = now
    job.origin = origin
    job.description = sent.address.partition("|")[2]
    job._status = JobStatus.QUEUED
    return job
