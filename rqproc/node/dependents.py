"""Enqueues the jobs that wait for one that has ended, by RQ's own rules: those that depend on it,
and the next ones under its rate limit.

Knows ``rq.Queue``; imported with the first such job.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.rate_limit import RateLimitRegistry, release_slot
from rq.serializers import JSONSerializer

from rqproc.transport.backoff import Backoff

if TYPE_CHECKING:
    import redis


PATIENCE_S = 20.0


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
