"""Many requests at once from one process: how many are answered in a second."""

from __future__ import annotations

import asyncio
import time
from itertools import count

from rqproc.aio import AsyncClient
from rqproc.bench import rivals, timing
from rqproc.bench.asking import IDS, warm_nodes
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.work import KEPT

GROUP = range(IDS)
TASKS = 1000


def _threads(ground: Ground, seconds: float) -> Reading:
    ask = ground.have(warm_nodes).hit
    return {"per_s": timing.rate(ask, callers=ground.plan.callers, seconds=seconds)}


def _stock(ground: Ground, seconds: float) -> Reading:
    ask = ground.have(rivals.stock_rq)
    return {"per_s": timing.rate(ask, callers=ground.plan.callers, seconds=seconds)}


def _many(ground: Ground, seconds: float) -> Reading:
    client = ground.have(warm_nodes).nodes.client
    groups = timing.rate(lambda: client.request_many(GROUP, KEPT), callers=1, seconds=seconds)
    return {"per_s": groups * len(GROUP)}


def _tasks(ground: Ground, seconds: float) -> Reading:
    return asyncio.run(_awaited(ground, seconds))


async def _awaited(ground: Ground, seconds: float) -> Reading:
    """Ask with many tasks, each with one request in flight; counted as ``timing.rate`` does."""
    nodes = ground.have(warm_nodes).nodes
    before = _connections(ground)
    async with AsyncClient(nodes.url, namespace=nodes.namespace) as client:
        tasks = _Tasks(client)
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(tasks.ask())
            await asyncio.sleep(seconds * timing.LEAD_IN)
            opened = await asyncio.to_thread(_connections, ground) - before
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


def _connections(ground: Ground) -> set[str]:
    return {found["id"] for found in ground.redis.client_list()}


THREADS = Probe("threads", "hits, many threads", _threads)
MANY = Probe("many", f"groups of {IDS} hits", _many)
TASKS_AT_ONCE = Probe("async", f"hits, {TASKS:,} tasks", _tasks)
STOCK = Probe("stock-rq-threads", "stock RQ SimpleWorker, many threads", _stock, rival="rq")
