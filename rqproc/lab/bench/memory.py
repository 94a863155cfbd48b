"""What it costs to keep much, and what is left when nobody asks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count

from rqproc.lab.bench import rivals, timing
from rqproc.lab.bench.environment import Bench, nodes
from rqproc.lab.bench.latency import IDS
from rqproc.lab.bench.timing import Probe, Reading
from rqproc.lab.bench.work import KEPT
from rqproc.lab.processes import OwnCluster
from rqproc.lab.usage import cpu_s, usage
from rqproc.protocol.library import library

FEW = 1000
GROUP = 500
FILLERS = 4
STRIDE = 7919
"""Ids are asked for in no order that memory has: what lies far apart is in no processor's cache."""


@contextmanager
def _few(bench: Bench) -> Iterator[rivals.Ask]:
    with nodes(bench.url) as found:
        _fill(found, FEW)
        yield _spread(found, FEW)


@contextmanager
def _many(bench: Bench) -> Iterator[tuple[rivals.Ask, Reading]]:
    entries = bench.plan.entries
    with nodes(bench.url, 1, "--max-entries", str(entries + FEW)) as found:
        # What the requests themselves need, the first half has made the node take already.
        half = entries // 2
        _fill(found, half)
        before = usage(found.nodes[0].pid)
        _fill(found, entries, first=half)
        after = usage(found.nodes[0].pid)
        size: Reading = {}
        if before and after:
            size = {"entry_bytes": (after.rss_bytes - before.rss_bytes) / (entries - half)}
        yield _spread(found, entries), size


def _fill(found: OwnCluster, entries: int, *, first: int = 0) -> None:
    """Have the values of ids ``first`` to ``entries`` kept."""

    firsts = count(first, GROUP)

    def ask() -> object:
        first = next(firsts)
        return found.client.request_many(range(first, first + GROUP), KEPT)

    timing.repeat(ask, callers=FILLERS, times=(entries - first) // GROUP)


def _spread(found: OwnCluster, entries: int) -> Callable[[], object]:
    ids = count(0, STRIDE)
    return lambda: found.client.request(next(ids) % entries, KEPT)


def _hit_of_few(bench: Bench, seconds: float) -> Reading:
    return timing.latency(bench.have(_few), seconds=seconds)


def _hit_of_many(bench: Bench, seconds: float) -> Reading:
    ask, size = bench.have(_many)
    return {**timing.latency(ask, seconds=seconds), **size}


HIT_OF_FEW = Probe("few-entries", f"hits of a node with {FEW:,} entries", _hit_of_few)
HIT_OF_MANY = Probe("many-entries", "hits of a node with very many entries", _hit_of_many)


def _flush(bench: Bench, seconds: float) -> Reading:
    """The time of the one flush of very many entries, beside that of dropping one id's."""
    entries = bench.plan.entries
    with nodes(bench.url, 1, "--max-entries", str(entries + FEW)) as found:
        _fill(found, entries)
        ids = count()
        one = timing.latency(lambda: found.client.invalidate(next(ids), KEPT), seconds=seconds)
        began = time.perf_counter()
        found.client.invalidate_all(KEPT)
        return {"flush_s": time.perf_counter() - began, "drop_s": one["p50_s"]}


FLUSH = Probe("flush", "a flush of very many entries", _flush, alone=True)


WARM_REQUESTS = 1000


def _idle(bench: Bench, seconds: float) -> Reading:
    """What a node uses, less what the server does without it."""
    window_s = min(max(10 * seconds, 1.0), 10.0)
    without = _watched(bench, window_s, pid=None)
    with nodes(bench.url) as found:
        found.client.request_many(range(IDS), KEPT)
        time.sleep(1.0)
        reading = _watched(bench, window_s, pid=found.nodes[0].pid)
    return {name: max(value - without.get(name, 0.0), 0.0) for name, value in reading.items()}


def _watched(bench: Bench, window_s: float, *, pid: int | None) -> Reading:
    """Return commands per second, and a process's share of a core."""
    before, began = _used(bench, pid), time.perf_counter()
    time.sleep(window_s)
    after, took_s = _used(bench, pid), time.perf_counter() - began
    return {name: (after[name] - before[name]) / took_s for name in before if name in after}


def _used(bench: Bench, pid: int | None) -> Reading:
    """Commands that were sent to the server and that it ran so far, and a process's core seconds.

    What functions call, no node sends. (We send INFO, which is no command of a node either.)
    """
    used: dict[str, float] = {"sent_per_s": 0, "run_per_s": 0}
    for name, found in bench.redis.info("commandstats").items():
        command = name.removeprefix("cmdstat_")
        if command != "info":
            used["run_per_s"] += found["calls"]
            used["sent_per_s"] += 0 if command in _called_by_functions() else found["calls"]
    core_s = cpu_s(pid) if pid else None
    return used if core_s is None else {**used, "cpu_share": core_s}


@cache
def _called_by_functions() -> frozenset[str]:
    found = re.findall(r"call\('([A-Z]+)'", library().text)
    return frozenset(command.lower() for command in found)


def _memory(bench: Bench, seconds: float) -> Reading:
    """What the server has more after very many requests, a while later."""
    with nodes(bench.url, 1, "--concurrency", "64") as found:
        _ask(found, bench.plan.callers, WARM_REQUESTS)
        before = _used_bytes(bench)
        _ask(found, bench.plan.callers, bench.plan.requests)
        time.sleep(bench.plan.settle_s)
        return {"grown_bytes": float(_used_bytes(bench) - before)}


def _ask(found: OwnCluster, callers: int, requests: int) -> None:
    ids = count()
    timing.repeat(
        lambda: found.client.request(next(ids) % IDS, KEPT), callers=callers, times=requests
    )


def _used_bytes(bench: Bench) -> int:
    return int(bench.redis.info("memory")["used_memory"])


IDLE = Probe("idle", "an idle node", _idle, alone=True)
MEMORY = Probe("memory", "the server's memory after very many requests", _memory, alone=True)
