"""The rounds, and what they come to: each thing's figures, and its ratio to the floor or to RQ."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from rqproc.bench import measure, rivals
from rqproc.bench.measure import Latency
from rqproc.errors import ConfigError
from rqproc.sentinel import is_url as is_sentinel
from rqproc.stage import Doing, PrivateServer

HIT, MISS, PAIR, RQ = "rqproc hit", "rqproc miss", "raw LPUSH/BLPOP pair", "stock RQ SimpleWorker"
WARM_S = 0.3


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """One caller: medians over the rounds, and the median of the rounds' ratios to the pair."""

    what: str
    p50_us: float
    p99_us: float
    p50_to_pair: float
    p99_to_pair: float


@dataclass(frozen=True, slots=True)
class ThroughputRow:
    """Many callers: median over the rounds, and the median of the rounds' ratios to stock RQ."""

    what: str
    callers: int
    per_s: float
    to_rq: float


Row = LatencyRow | ThroughputRow


def run(url: str | None, *, seconds: float, rounds: int, callers: int) -> Iterator[Doing | Row]:
    """Measure, on a private embedded server or on ``url``; yields rows as they are known.

    Raises:
        ConfigError: the URL names sentinels; a stock RQ worker, for one, cannot ask them.
    """
    if url and is_sentinel(url):
        raise ConfigError("bench needs the primary's own address: --url redis://HOST:PORT")
    with ExitStack() as stack:
        yield Doing("starting a server, an echo process, a node and an RQ worker")
        where = url or stack.enter_context(PrivateServer())
        pair = stack.enter_context(rivals.raw_pair(where))
        hit, miss = stack.enter_context(rivals.rqproc_node(where))
        rq = stack.enter_context(rivals.stock_rq(where))
        calls = {PAIR: pair, HIT: hit, MISS: miss, RQ: rq}
        yield from _latencies(calls, seconds, rounds)
        yield from _throughputs({HIT: hit, RQ: rq}, seconds, rounds, callers)


def _latencies(calls: dict[str, rivals.Ask], seconds: float, rounds: int) -> Iterator[Doing | Row]:
    for call in calls.values():
        measure.latency(call, seconds=WARM_S)
    found: dict[str, list[Latency]] = {what: [] for what in calls}
    for number in range(1, rounds + 1):
        for what, call in calls.items():
            yield Doing(f"one caller, round {number} of {rounds}: {what}")
            found[what].append(measure.latency(call, seconds=seconds))
    for what, latencies in found.items():
        middle = measure.median_latency(latencies)
        pairs = list(zip(latencies, found[PAIR], strict=True))
        yield LatencyRow(
            what,
            middle.p50_s * 1e6,
            middle.p99_s * 1e6,
            statistics.median(mine.p50_s / floor.p50_s for mine, floor in pairs),
            statistics.median(mine.p99_s / floor.p99_s for mine, floor in pairs),
        )


def _throughputs(
    calls: dict[str, rivals.Ask], seconds: float, rounds: int, callers: int
) -> Iterator[Doing | Row]:
    found: dict[str, list[float]] = {what: [] for what in calls}
    for number in range(1, rounds + 1):
        for what, call in calls.items():
            yield Doing(f"{callers} callers, round {number} of {rounds}: {what}")
            found[what].append(measure.throughput(call, callers=callers, seconds=seconds))
    for what, rates in found.items():
        ratios = [mine / rq for mine, rq in zip(rates, found[RQ], strict=True)]
        yield ThroughputRow(what, callers, statistics.median(rates), statistics.median(ratios))
