"""RQ's own job objects for requests that were enqueued: the only module that makes them.

Knows ``rq.job.Job``. Imported only where a job is handed out, since RQ takes long to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from rqproc import wire
from rqproc.keys import Keys

if TYPE_CHECKING:
    import redis

    from rqproc.calls import Batch


def queued(sent: Batch, keys: Keys, connection: redis.Redis) -> Job:
    """Return the job of an order of one, as ``Job.fetch`` would, without asking the server."""
    (order_job,) = sent.order.jobs
    job = Job(order_job.id, connection=connection, serializer=JSONSerializer)
    job.restore(
        {
            b"data": order_job.data,
            b"created_at": wire.utc().encode(),
            b"enqueued_at": wire.utc().encode(),
            b"origin": keys.ingress.encode(),
            b"status": JobStatus.QUEUED.value.encode(),
            b"description": order_job.address.partition("|")[2].encode(),
        }
    )
    return job
