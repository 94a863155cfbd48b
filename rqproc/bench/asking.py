"""One caller, one request at a time: how long it waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from rqproc.bench import rivals, timing
from rqproc.bench.clusters import Nodes, main_nodes
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.work import FRESH, KEPT

IDS = 64


@dataclass(frozen=True, slots=True)
class Asking:
    """Nodes that keep the values of some ids, and calls that ask for these in turn."""

    nodes: Nodes
    hit: rivals.Ask
    miss: rivals.Ask


@contextmanager
def warm_nodes(ground: Ground) -> Iterator[Asking]:
    nodes = ground.have(main_nodes)
    client, ids = nodes.client, count()
    client.request_many(range(IDS), KEPT)
    yield Asking(
        nodes,
        lambda: client.request(next(ids) % IDS, KEPT),
        lambda: client.request(next(ids) % IDS, FRESH),
    )


def _pair(ground: Ground, seconds: float) -> Reading:
    return timing.latency(ground.have(rivals.raw_pair), seconds=seconds)


def _hit(ground: Ground, seconds: float) -> Reading:
    return timing.latency(ground.have(warm_nodes).hit, seconds=seconds)


def _miss(ground: Ground, seconds: float) -> Reading:
    return timing.latency(ground.have(warm_nodes).miss, seconds=seconds)


def _stock(ground: Ground, seconds: float) -> Reading:
    return timing.latency(ground.have(rivals.stock_rq), seconds=seconds)


PAIR = Probe("pair", "a raw LPUSH/BLPOP pair there and back", _pair, rival="raw")
HIT = Probe("hit", "hits, one caller", _hit)
MISS = Probe("miss", "misses, one caller", _miss)
STOCK = Probe("stock-rq", "stock RQ SimpleWorker, one caller", _stock, rival="rq")
