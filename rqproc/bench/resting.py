"""What is left when nobody asks: a node's own needs, and what the server still remembers."""

from __future__ import annotations

import re
import time
from functools import cache
from itertools import count

from rqproc.bench import processes, timing
from rqproc.bench.asking import IDS
from rqproc.bench.clusters import Nodes, nodes
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.work import KEPT
from rqproc.protocol.library import library

WARM_REQUESTS = 1000


def _idle(ground: Ground, seconds: float) -> Reading:
    """What a node uses, less what the server does without it."""
    window_s = min(max(10 * seconds, 1.0), 10.0)
    without = _watched(ground, window_s, pid=None)
    with nodes(ground.url) as found:
        found.client.request_many(range(IDS), KEPT)
        time.sleep(1.0)
        reading = _watched(ground, window_s, pid=found.pid)
    return {name: max(value - without.get(name, 0.0), 0.0) for name, value in reading.items()}


def _watched(ground: Ground, window_s: float, *, pid: int | None) -> Reading:
    """Return commands per second, and a process's share of a core."""
    before, began = _used(ground, pid), time.perf_counter()
    time.sleep(window_s)
    after, took_s = _used(ground, pid), time.perf_counter() - began
    return {name: (after[name] - before[name]) / took_s for name in before if name in after}


def _used(ground: Ground, pid: int | None) -> Reading:
    """Commands that were sent to the server and that it ran so far, and a process's core seconds.

    What functions call, no node sends. (We send INFO, which is no command of a node either.)
    """
    used: dict[str, float] = {"sent_per_s": 0, "run_per_s": 0}
    for name, found in ground.redis.info("commandstats").items():
        command = name.removeprefix("cmdstat_")
        if command != "info":
            used["run_per_s"] += found["calls"]
            used["sent_per_s"] += 0 if command in _called_by_functions() else found["calls"]
    cpu_s = processes.cpu_s(pid) if pid else None
    return used if cpu_s is None else {**used, "cpu_share": cpu_s}


@cache
def _called_by_functions() -> frozenset[str]:
    found = re.findall(r"call\('([A-Z]+)'", library().text)
    return frozenset(command.lower() for command in found)


def _memory(ground: Ground, seconds: float) -> Reading:
    """What the server has more after very many requests, a while later."""
    with nodes(ground.url, 1, "--concurrency", "64") as found:
        _ask(found, ground.plan.callers, WARM_REQUESTS)
        before = _used_bytes(ground)
        _ask(found, ground.plan.callers, ground.plan.requests)
        time.sleep(ground.plan.settle_s)
        return {"grown_bytes": float(_used_bytes(ground) - before)}


def _ask(found: Nodes, callers: int, requests: int) -> None:
    ids = count()
    timing.repeat(
        lambda: found.client.request(next(ids) % IDS, KEPT), callers=callers, times=requests
    )


def _used_bytes(ground: Ground) -> int:
    return int(ground.redis.info("memory")["used_memory"])


IDLE = Probe("idle", "an idle node", _idle, alone=True)
MEMORY = Probe("memory", "the server's memory after very many requests", _memory, alone=True)
