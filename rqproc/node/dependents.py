"""Enqueues the jobs that wait for a finished one, by RQ's own rules.

Knows ``rq.Queue``; imported with the first job that anyone depends on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from rqproc.transport.backoff import Backoff

if TYPE_CHECKING:
    import redis


PATIENCE_S = 20.0


def enqueue(job_ids: Sequence[str], connection: redis.Redis) -> None:
    """Enqueue all dependents of these jobs whose other dependencies are met; once each.

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
        job = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
        Queue(job.origin, connection=connection).enqueue_dependents(job)
