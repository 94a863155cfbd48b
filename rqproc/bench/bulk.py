"""Jobs that nobody waits for: how many are enqueued in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from rqproc.bench import rivals
from rqproc.bench.clusters import members
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.rivals import forget_jobs
from rqproc.bench.work import FRESH
from rqproc.client import Client
from rqproc.errors import RqprocError

JOBS = 1000


@contextmanager
def _idle_member(ground: Ground) -> Iterator[Client]:
    """One member that works on nothing, as nobody works on the stock queue: what is enqueued stays.

    A worker would want the cores that the caller is measured on.
    """
    with members(ground, 1) as client:
        try:
            yield client
        finally:  # what was not forgotten, if we are interrupted
            queue = client.keys.queue("m0")
            ids = cast("list[bytes]", ground.redis.lrange(queue, 0, -1))
            forget_jobs(ground, [id.decode() for id in ids], queue)


def _ours(ground: Ground, seconds: float) -> Reading:
    client = ground.have(_idle_member)
    queue = client.keys.queue("m0")

    def enqueue(count: int) -> list[str]:
        jobs = client.enqueue_many(range(count), FRESH)
        return [job.id for job in jobs if not isinstance(job, RqprocError)]

    return _rate(ground, enqueue, seconds, queue)


def _stock(ground: Ground, seconds: float) -> Reading:
    return _rate(ground, ground.have(rivals.stock_queue), seconds)


def _rate(
    ground: Ground, enqueue: Callable[[int], list[str]], seconds: float, *queues: str
) -> Reading:
    spent_s, jobs = 0.0, 0
    while spent_s < seconds:
        began = time.perf_counter()
        ids = enqueue(JOBS)
        spent_s += time.perf_counter() - began
        jobs += len(ids)
        forget_jobs(ground, ids, *queues)
    return {"per_s": jobs / spent_s}


OURS = Probe("enqueue", f"enqueue_many of {JOBS:,} jobs", _ours)
STOCK = Probe("stock-rq-enqueue", f"{JOBS:,} times stock Queue.enqueue", _stock, rival="rq")
