"""Enqueues the jobs that wait for a finished one, by RQ's own rules.

Knows ``rq.Queue``; imported with the first job that anyone depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

if TYPE_CHECKING:
    import redis


def enqueue(job_ids: Sequence[str], connection: redis.Redis) -> None:
    """Enqueue all dependents of these jobs whose other dependencies are met."""
    for job_id in job_ids:
        job = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
        Queue(job.origin, connection=connection).enqueue_dependents(job)
