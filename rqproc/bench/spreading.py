"""Handlers that need a core each: what a second node adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from rqproc.bench import timing
from rqproc.bench.clusters import Nodes, nodes
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.work import BURNT

CALLERS = 4
GROUP = 8
"""Callers ask for groups, half of each for either node: so they need little of the cores."""

ONE_CORE = ("--concurrency", "4")


@contextmanager
def _one(ground: Ground) -> Iterator[Nodes]:
    with nodes(ground.url, 1, *ONE_CORE) as found:
        yield found


@contextmanager
def _two(ground: Ground) -> Iterator[Nodes]:
    with nodes(ground.url, 2, *ONE_CORE) as found:
        yield found


def _rate(found: Nodes, seconds: float) -> Reading:
    groups = count(0, GROUP)

    def ask() -> object:
        first = next(groups)
        return found.client.request_many(range(first, first + GROUP), BURNT)

    return {"per_s": timing.rate(ask, callers=CALLERS, seconds=seconds) * GROUP}


ONE = Probe("one-node", "handlers of 2 ms on one node", lambda g, s: _rate(g.have(_one), s))
TWO = Probe("two-nodes", "handlers of 2 ms on two nodes", lambda g, s: _rate(g.have(_two), s))
