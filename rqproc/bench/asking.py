"""One caller, one request at a time: how long it waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from rqproc.bench import processes, rivals, timing
from rqproc.bench.clusters import Nodes, main_nodes
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.work import FRESH, KEPT, TOLD

IDS = 64


@dataclass(frozen=True, slots=True)
class Asking:
    """Nodes that keep the values of some ids, and calls that ask for these in turn."""

    nodes: Nodes
    hit: rivals.Ask
    miss: rivals.Ask
    told: rivals.Ask


@contextmanager
def warm_nodes(ground: Ground) -> Iterator[Asking]:
    nodes = ground.have(main_nodes)
    client, ids = nodes.client, count()
    client.request_many(range(IDS), KEPT)
    yield Asking(
        nodes,
        lambda: client.request(next(ids) % IDS, KEPT),
        lambda: client.request(next(ids) % IDS, FRESH),
        lambda: client.request(next(ids) % IDS, TOLD, args=(5,)),
    )


def _with_cost(ground: Ground, ask: rivals.Ask, pid: int, seconds: float) -> Reading:
    """Return the latency of calls and, for each, the processor time of caller, server and
    answerer.
    """
    before, began, calls = _spent(ground, pid), time.process_time(), count()

    def counted() -> None:
        next(calls)
        ask()

    reading = dict(timing.latency(counted, seconds=seconds))
    times, caller_s = next(calls), time.process_time() - began
    after = _spent(ground, pid)
    reading["caller_s"] = caller_s / times
    for name in before.keys() & after.keys():
        reading[name] = (after[name] - before[name]) / times
    return reading


def _spent(ground: Ground, pid: int) -> dict[str, float]:
    """The processor time of the server and of a process so far."""
    found = ground.redis.info("cpu")
    spent = {"server_s": float(found["used_cpu_user"]) + float(found["used_cpu_sys"])}
    cpu_s = processes.cpu_s(pid)
    return spent if cpu_s is None else {**spent, "answerer_s": cpu_s}


def _pair(ground: Ground, seconds: float) -> Reading:
    pair = ground.have(rivals.raw_pair)
    return _with_cost(ground, pair.ask, pair.pid, seconds)


def _hit(ground: Ground, seconds: float) -> Reading:
    asking = ground.have(warm_nodes)
    return _with_cost(ground, asking.hit, asking.nodes.pid, seconds)


def _miss(ground: Ground, seconds: float) -> Reading:
    return timing.latency(ground.have(warm_nodes).miss, seconds=seconds)


def _told(ground: Ground, seconds: float) -> Reading:
    return timing.latency(ground.have(warm_nodes).told, seconds=seconds)


def _stock(ground: Ground, seconds: float) -> Reading:
    return timing.latency(ground.have(rivals.stock_rq), seconds=seconds)


PAIR = Probe("pair", "a raw LPUSH/BLPOP pair there and back", _pair, rival="raw")
HIT = Probe("hit", "hits, one caller", _hit)
MISS = Probe("miss", "misses, one caller", _miss)
CALL = Probe("call", "calls with an argument, one caller", _told)
STOCK = Probe("stock-rq", "stock RQ SimpleWorker, one caller", _stock, rival="rq")
