"""What it costs to keep much: the time of a hit, and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from rqproc.bench import processes, rivals, timing
from rqproc.bench.clusters import Nodes, nodes
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.work import KEPT

FEW = 1000
GROUP = 500
FILLERS = 4
STRIDE = 7919
"""Ids are asked for in no order that memory has: what lies far apart is in no processor's cache."""


@contextmanager
def _few(ground: Ground) -> Iterator[rivals.Ask]:
    with nodes(ground.url) as found:
        _fill(found, FEW)
        yield _spread(found, FEW)


@contextmanager
def _many(ground: Ground) -> Iterator[tuple[rivals.Ask, Reading]]:
    entries = ground.plan.entries
    with nodes(ground.url, 1, "--max-entries", str(entries + FEW)) as found:
        _fill(found, FEW)
        before = processes.rss_bytes(found.pid)
        _fill(found, entries)
        after = processes.rss_bytes(found.pid)
        size: Reading = {}
        if before is not None and after is not None:
            size = {"entry_bytes": (after - before) / (entries - FEW)}
        yield _spread(found, entries), size


def _fill(found: Nodes, entries: int) -> None:
    """Have the values of ids 0 to ``entries`` kept."""

    firsts = count(0, GROUP)

    def ask() -> object:
        first = next(firsts)
        return found.client.request_many(range(first, first + GROUP), KEPT)

    timing.repeat(ask, callers=FILLERS, times=entries // GROUP)


def _spread(found: Nodes, entries: int) -> Callable[[], object]:
    ids = count(0, STRIDE)
    return lambda: found.client.request(next(ids) % entries, KEPT)


def _hit_of_few(ground: Ground, seconds: float) -> Reading:
    return timing.latency(ground.have(_few), seconds=seconds)


def _hit_of_many(ground: Ground, seconds: float) -> Reading:
    ask, size = ground.have(_many)
    return {**timing.latency(ask, seconds=seconds), **size}


HIT_OF_FEW = Probe("few-entries", f"hits of a node with {FEW:,} entries", _hit_of_few)
HIT_OF_MANY = Probe("many-entries", "hits of a node with very many entries", _hit_of_many)
