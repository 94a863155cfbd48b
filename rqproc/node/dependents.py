"""What RQ's own code does after jobs: it enqueues those that wait for one that has ended, which
depend on it or are the next under its rate limit, and maintains the registries.

Knows ``rq.Queue``; imported with the first such job.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.group import Group
from rq.job import Job, JobStatus
from rq.rate_limit import RateLimitRegistry, release_slot
from rq.registry import clean_registries
from rq.serializers import JSONSerializer

from rqproc.log_events import tell
from rqproc.transport.backoff import Backoff

if TYPE_CHECKING:
    import redis

log = logging.getLogger("rqproc.node")

PATIENCE_S = 20.0
GROUPS_S = 599
"""For so long no other cleans the groups; RQ's interval between two times, but for a second."""


def enqueue(job_ids: Sequence[str], connection: redis.Redis) -> None:
    """Enqueue all that wait for these jobs alone; once each.

    Raises:
        redis.RedisError: the server was away for long.
    """
    backoff = Backoff(shortest_s=0.05, longest_s=2.0, chance=random.random)
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return _enqueue(job_ids, connection)
        except (RedisConnectionError, RedisTimeoutError):  # nobody else will do it
            if time.monotonic() > end:
                raise
            time.sleep(backoff.next_s())


def _enqueue(job_ids: Sequence[str], connection: redis.Redis) -> None:
    for job_id in job_ids:
        try:
            job = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
        except NoSuchJobError:  # deleted, but for its place under a rate limit if it ran then
            for limit in RateLimitRegistry.all(connection):
                limit.release_stale_and_enqueue(job_id)
            continue
        runs_again = job.get_status(refresh=False) in (JobStatus.QUEUED, JobStatus.SCHEDULED)
        if not runs_again or job.repeats_left is not None:  # one that is retried has not ended
            Queue(job.origin, connection=connection).enqueue_dependents(job)
        release_slot(job)


def maintain(queue_name: str, connection: redis.Redis) -> None:
    """Do what RQ's workers do for their queues every ten minutes, one of them at a time: free
    places under rate limits that nobody gave back, since a node died; enqueue dependents whose job
    ended on such a one; forget what has expired.

    Raises:
        redis.RedisError: the server is away.
    """
    queue = Queue(queue_name, connection=connection)
    try:
        if queue.acquire_maintenance_lock():
            clean_registries(queue)
            queue.release_maintenance_lock()  # type: ignore[no-untyped-call]
        if Group.acquire_maintenance_lock(connection, GROUPS_S):
            Group.clean_registries(connection)
    except NoPermissionError as error:
        text = "RQ's maintenance of %r is left to others: %s"
        tell(log, "maintenance_left", text, queue_name, error, queue=queue_name, error=error)
