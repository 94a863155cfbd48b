"""How much is done in a second: many requests at once, jobs that nobody waits for, many cores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import cast

from rqproc.aio import AsyncClient
from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.lab.bench import rivals, timing
from rqproc.lab.bench.environment import Bench, members, nodes
from rqproc.lab.bench.latency import IDS, warm_nodes
from rqproc.lab.bench.rivals import forget_jobs
from rqproc.lab.bench.timing import Probe, Reading
from rqproc.lab.bench.work import BATCH, BURNT, FRESH, KEPT, TOGETHER
from rqproc.lab.processes import OwnCluster

GROUP = range(IDS)
TASKS = 1000


def _threads(bench: Bench, seconds: float) -> Reading:
    ask = bench.have(warm_nodes).hit
    return {"per_s": timing.rate(ask, callers=bench.plan.callers, seconds=seconds)}


def _stock(bench: Bench, seconds: float) -> Reading:
    ask = bench.have(rivals.stock_rq)
    return {"per_s": timing.rate(ask, callers=bench.plan.callers, seconds=seconds)}


def _many(bench: Bench, seconds: float) -> Reading:
    client = bench.have(warm_nodes).cluster.client
    groups = timing.rate(lambda: client.request_many(GROUP, KEPT), callers=1, seconds=seconds)
    return {"per_s": groups * len(GROUP)}


def _tasks(bench: Bench, seconds: float) -> Reading:
    return asyncio.run(_awaited(bench, seconds))


async def _awaited(bench: Bench, seconds: float) -> Reading:
    """Ask with many tasks, each with one request in flight; counted as ``timing.rate`` does."""
    cluster = bench.have(warm_nodes).cluster
    before = _connections(bench)
    async with AsyncClient(cluster.url, namespace=cluster.client.namespace) as client:
        tasks = _Tasks(client)
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(tasks.ask())
            await asyncio.sleep(seconds * timing.LEAD_IN)
            opened = await asyncio.to_thread(_connections, bench) - before
            per_s = await tasks.watch(seconds)
    return {"per_s": per_s, "connections": float(len(opened))}


class _Tasks:
    """What the tasks share."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._ids = count()
        self._answered = 0
        self._over = False

    async def ask(self) -> None:
        while not self._over:
            await self._client.request(next(self._ids) % IDS, KEPT)
            self._answered += 1

    async def watch(self, seconds: float) -> float:
        """Return requests per second from now on, and end it."""
        before, began = self._answered, time.perf_counter()
        await asyncio.sleep(seconds)
        while self._answered == before:
            await asyncio.sleep(seconds)
        self._over = True
        return (self._answered - before) / (time.perf_counter() - began)


def _connections(bench: Bench) -> set[str]:
    return {found["id"] for found in bench.redis.client_list()}


THREADS = Probe("threads", "hits, many threads", _threads)
MANY = Probe("many", f"groups of {IDS} hits", _many)
TASKS_AT_ONCE = Probe("async", f"hits, {TASKS:,} tasks", _tasks)
STOCK = Probe("stock-rq-threads", "stock RQ SimpleWorker, many threads", _stock, rival="rq")


def _batched(bench: Bench, seconds: float) -> Reading:
    client, firsts = bench.have(warm_nodes).cluster.client, bench.have(_new_ids)

    def ask() -> object:
        first = next(firsts)
        return client.request_many(range(first, first + BATCH), TOGETHER)

    return {"per_s": timing.rate(ask, callers=1, seconds=seconds) * BATCH}


def _single(bench: Bench, seconds: float) -> Reading:
    client, firsts = bench.have(warm_nodes).cluster.client, bench.have(_new_ids)

    def ask() -> object:
        return client.request(next(firsts), TOGETHER)

    return {"per_s": timing.rate(ask, callers=1, seconds=seconds)}


@contextmanager
def _new_ids(bench: Bench) -> Iterator[Iterator[int]]:
    """Ids that nobody has asked for yet, so far apart that an array may begin at each."""
    yield count(1_000_000, BATCH)


BATCHED = Probe("batches", f"arrays of {BATCH} new ids, batched", _batched)
SINGLE = Probe("single-misses", "new ids, one at a time", _single)


JOBS = 1000


@contextmanager
def _idle_member(bench: Bench) -> Iterator[Client]:
    """One member that works on nothing, as nobody works on the stock queue: what is enqueued stays.

    A worker would want the cores that the caller is measured on.
    """
    with members(bench, 1) as client:
        try:
            yield client
        finally:  # what was not forgotten, if we are interrupted
            keys = client.keys
            ids = cast("list[bytes]", bench.redis.lrange(keys.ingress_queue, 0, -1))
            forget_jobs(bench, [id.decode() for id in ids], keys.ingress_queue, keys.queue("m0"))


def _ours(bench: Bench, seconds: float) -> Reading:
    client = bench.have(_idle_member)
    queues = client.keys.ingress_queue, client.keys.queue("m0")

    def enqueue(count: int) -> list[str]:
        jobs = client.enqueue_many(range(count), FRESH)
        return [job.id for job in jobs if not isinstance(job, RqprocError)]

    return _enqueue_rate(bench, enqueue, seconds, *queues)


def _stock_enqueue(bench: Bench, seconds: float) -> Reading:
    return _enqueue_rate(bench, bench.have(rivals.stock_queue), seconds)


def _enqueue_rate(
    bench: Bench, enqueue: Callable[[int], list[str]], seconds: float, *queues: str
) -> Reading:
    spent_s, jobs = 0.0, 0
    while spent_s < seconds:
        began = time.perf_counter()
        ids = enqueue(JOBS)
        spent_s += time.perf_counter() - began
        jobs += len(ids)
        forget_jobs(bench, ids, *queues)
    return {"per_s": jobs / spent_s}


OURS = Probe("enqueue", f"enqueue_many of {JOBS:,} jobs", _ours)
STOCK_ENQUEUE = Probe(
    "stock-rq-enqueue", f"{JOBS:,} times stock Queue.enqueue", _stock_enqueue, rival="rq"
)


CALLERS = 4
BURNT_GROUP = 8
"""Callers ask for groups, half of each for either node: so they need little of the cores."""

ONE_CORE = ("--concurrency", "4")


@contextmanager
def _one(bench: Bench) -> Iterator[OwnCluster]:
    with nodes(bench.url, 1, *ONE_CORE) as found:
        yield found


@contextmanager
def _two(bench: Bench) -> Iterator[OwnCluster]:
    with nodes(bench.url, 2, *ONE_CORE) as found:
        yield found


def _burn_rate(found: OwnCluster, seconds: float) -> Reading:
    groups = count(0, BURNT_GROUP)

    def ask() -> object:
        first = next(groups)
        return found.client.request_many(range(first, first + BURNT_GROUP), BURNT)

    return {"per_s": timing.rate(ask, callers=CALLERS, seconds=seconds) * BURNT_GROUP}


ONE = Probe(
    "one-node", "handlers of 2 ms on one node", lambda bench, s: _burn_rate(bench.have(_one), s)
)
TWO = Probe(
    "two-nodes", "handlers of 2 ms on two nodes", lambda bench, s: _burn_rate(bench.have(_two), s)
)
