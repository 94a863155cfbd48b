"""RQ's own job objects for requests that were enqueued: the only module that makes them.

Knows ``rq.job.Job``. Imported only where a job is handed out, since RQ takes long to import.
"""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from pickle import PicklingError
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job, JobStatus

from rqproc.errors import ConfigError, RedisUnavailable
from rqproc.ids import parse_address
from rqproc.protocol.keys import Keys
from rqproc.protocol.pickles import PlainPickle

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from rqproc.calls.jobs import JobOptions
    from rqproc.protocol.messages import Sent


def queued(jobs: Sequence[Sent], keys: Keys, connection: redis.Redis) -> list[Job]:
    """Return jobs that were enqueued, much as ``Job.fetch`` would, without asking the server."""
    blank = Job(connection=connection, serializer=PlainPickle)
    blank.created_at = blank.enqueued_at = datetime.now(UTC)
    blank.origin = keys.ingress
    blank._status = JobStatus.QUEUED
    return [_job(job, blank) for job in jobs]


def enqueue(
    sent: Sent, options: JobOptions, keys: Keys, connection: redis.Redis, *, server: str,
    result_ttl: int | None,
) -> Job:  # fmt: skip
    """Enqueue a request by RQ's own code, which does what its options ask for.

    Raises:
        ConfigError: RQ refuses an option's value. RedisUnavailable.
        rq.exceptions.DuplicateJobError: with ``unique``.
    """
    data = sent.data.encode() if isinstance(sent.data, str) else sent.data
    function, _, args, kwargs = PlainPickle.loads(data)
    _, resource, id = parse_address(sent.address)
    wanted: dict[str, Any] = {"description": f"{resource}:{id}", **options}
    queue = Queue(keys.ingress, connection=connection, serializer=PlainPickle)
    try:
        return queue.enqueue_call(
            function, args, kwargs, timeout=-1, result_ttl=result_ttl, **wanted
        )
    except RedisError as error:
        raise RedisUnavailable(server, str(error)) from error
    except (TypeError, ValueError, AttributeError, PicklingError) as error:
        raise ConfigError(f"RQ refuses the job's options: {error}") from error


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
