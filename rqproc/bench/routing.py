"""What the route script takes in the server, with few members and with many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice

from rqproc import calls
from rqproc.bench.clusters import members
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.rivals import forget_jobs
from rqproc.bench.work import KEPT
from rqproc.client import Client
from rqproc.cluster import Cluster
from rqproc.model import Request

CROWD = 500
BATCH = 200


class Router:
    """Routes requests, one a call, to members that answer nobody."""

    def __init__(self, ground: Ground, client: Client, size: int) -> None:
        self._ground = ground
        self._cluster = Cluster(client.keys)
        self._queues = [client.keys.queue(f"m{number}") for number in range(size)]
        self._ids = count()

    def measure(self, seconds: float) -> Reading:
        """Return the server's own time for a call: the way there would hide the difference."""
        end = time.perf_counter() + seconds
        times: list[float] = []
        while time.perf_counter() < end or not times:
            times.append(self._batch())
        return {"script_s": statistics.median(times)}

    def _batch(self) -> float:
        orders = [
            calls.batch([Request(KEPT, id)], kind="call", timeout_s=10.0).order
            for id in islice(self._ids, BATCH)
        ]
        us, count = self._spent()
        for order in orders:
            self._ground.say(self._cluster.route(order))
        now_us, now_count = self._spent()
        forget_jobs(self._ground, [order.jobs[0].id for order in orders], *self._queues)
        return (now_us - us) / (now_count - count) / 1e6

    def _spent(self) -> tuple[int, int]:
        """The server's microseconds in scripts, and their calls, so far."""
        found = self._ground.redis.info("commandstats")["cmdstat_evalsha"]
        return found["usec"], found["calls"]


@contextmanager
def _alone(ground: Ground) -> Iterator[Router]:
    with members(ground, 1) as client:
        yield Router(ground, client, 1)


@contextmanager
def _crowd(ground: Ground) -> Iterator[Router]:
    with members(ground, CROWD) as client:
        yield Router(ground, client, CROWD)


ALONE = Probe("route-1", "route with one member", lambda g, s: g.have(_alone).measure(s))
MANY = Probe("route-500", f"route with {CROWD} members", lambda g, s: g.have(_crowd).measure(s))
