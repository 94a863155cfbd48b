"""What the function route takes in the server, with few members and with many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice

from rqproc.bench.clusters import members
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.rivals import forget_jobs
from rqproc.bench.work import KEPT
from rqproc.calls.call import plain
from rqproc.client import Client
from rqproc.protocol.commands import Commands, Sent

CROWD = 500
BATCH = 200


class Router:
    """Routes requests, one a call, to members that answer nobody."""

    def __init__(self, ground: Ground, client: Client, size: int) -> None:
        self._ground = ground
        self._commands = Commands(client.keys)
        self._queues = [client.keys.queue(f"m{number}") for number in range(size)]
        self._ids = count()

    def measure(self, seconds: float) -> Reading:
        """Return the server's own time for a call: the way there would hide the difference."""
        end = time.perf_counter() + seconds
        times: list[float] = []
        while time.perf_counter() < end or not times:
            times.append(self._batch())
        return {"function_s": statistics.median(times)}

    def _batch(self) -> float:
        calls = [_call(number) for number in islice(self._ids, BATCH)]
        us, count = self._spent()
        for call in calls:
            self._ground.say(self._commands.route((call,), timeout_s=10.0))
        now_us, now_count = self._spent()
        forget_jobs(self._ground, [call.id for call in calls], *self._queues)
        return (now_us - us) / (now_count - count) / 1e6

    def _spent(self) -> tuple[int, int]:
        """The server's microseconds in functions, and their calls, so far."""
        found = self._ground.redis.info("commandstats")["cmdstat_fcall"]
        return found["usec"], found["calls"]


def _call(number: int) -> Sent:
    _, address, data = plain(KEPT, number)
    return Sent(f"r0-c{number:x}-{address}", address, data)


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
