"""The table: each row's figure, made of what its probes read, and the target to be met."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from rqproc.lab.bench import latency, memory, rolling, throughput
from rqproc.lab.bench.environment import BenchPlan, Rival
from rqproc.lab.bench.timing import FormulaTerm, Probe, Readings, median
from rqproc.lab.bench.work import BATCH

PROBES = {
    probe.name: probe
    for probe in (
        memory.IDLE,
        memory.MEMORY,
        memory.FLUSH,
        latency.PAIR,
        latency.HIT,
        latency.MISS,
        latency.CALL,
        latency.STOCK,
        throughput.STOCK,
        throughput.THREADS,
        throughput.MANY,
        throughput.TASKS_AT_ONCE,
        throughput.OURS,
        throughput.STOCK_ENQUEUE,
        throughput.BATCHED,
        throughput.SINGLE,
        latency.NEAR,
        latency.GET,
        latency.EMBEDDED,
        latency.ALONE,
        latency.MANY,
        memory.HIT_OF_FEW,
        memory.HIT_OF_MANY,
        latency.COMMANDS,
        rolling.WITH,
        rolling.WITHOUT,
        throughput.ONE,
        throughput.TWO,
    )
}
"""In the order in which a round goes through them: what is compared lies side by side."""


ONE = FormulaTerm("", "")
"""Over another term: so many of that in a second, or whatever its unit is."""


@dataclass(frozen=True, slots=True)
class Formula:
    """``over / under``, or ``over`` alone, times ``scale``."""

    over: FormulaTerm
    under: FormulaTerm | None = None
    scale: float = 1.0

    @property
    def terms(self) -> tuple[FormulaTerm, ...]:
        return tuple(term for term in (self.over, self.under) if term and term != ONE)

    def rounds(self, readings: Readings) -> list[float]:
        """Return the figure of each round: only what lay side by side is compared."""
        unders = self.under.of(readings) if self.under else []
        overs = [1.0] * len(unders) if self.over == ONE else self.over.of(readings)
        if self.under is None:
            return [over * self.scale for over in overs]
        pairs = zip(overs, unders, strict=True)
        return [over / under * self.scale for over, under in pairs]

    def figure(self, readings: Readings) -> float | None:
        """Return the median of the rounds' figures; None where nothing could be measured."""
        return median(self.rounds(readings))


Verdict = Literal["met", "missed", "n/a", ""]
"""``n/a``: could not be measured here; empty: the row has no target."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound: figures are to be at least that, or at most."""

    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.bound:g}"

    def score(self, figure: float) -> float:
        """Return how many times better than asked for a figure is: 1.0 just meets the target.

        A figure of nothing, where little is good, has no such number: it is as good as can be.
        """
        good, bad = (figure, self.bound) if self.at_least else (self.bound, figure)
        return good / bad if bad > 0 else float("inf")


def at_most(bound: float) -> Goal:
    return Goal(bound)


def at_least(bound: float) -> Goal:
    return Goal(bound, at_least=True)


def judge(figure: float | None, target: Goal | None) -> Verdict:
    """Say whether a figure meets its target."""
    if figure is None:
        return "n/a"
    if target is None:
        return ""
    return "met" if target.score(figure) >= 1.0 else "missed"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, and what it should be.

    Attributes:
        what: what is compared, with the plan's quantities in braces.
        unit: the figure's; "x" for a ratio.
    """

    name: str
    what: str
    formula: Formula
    target: Goal | None = None
    unit: str = "x"

    def title(self, plan: BenchPlan) -> str:
        return self.what.format(
            callers=plan.callers,
            entries=plan.entries,
            requests=plan.requests,
            settle_s=plan.settle_s,
        )

    @property
    def probes(self) -> tuple[Probe, ...]:
        return tuple(PROBES[term.probe] for term in self.formula.terms)

    @property
    def rivals(self) -> frozenset[Rival]:
        """Whom it is compared with."""
        return frozenset(probe.rival for probe in self.probes if probe.rival)


def _ratio(name: str, what: str, over: FormulaTerm, under: FormulaTerm, target: Goal | None) -> Row:
    return Row(name, what, Formula(over, under), target)


def _alone(
    name: str, what: str, term: FormulaTerm, target: Goal | None, *, unit: str, scale: float = 1.0
) -> Row:
    return Row(name, what, Formula(term, scale=scale), target, unit)


def _inverse(name: str, what: str, term: FormulaTerm, *, unit: str) -> Row:
    return Row(name, what, Formula(ONE, term), None, unit)


ROWS = (
    _ratio(
        "hit", "a hit to the raw LPUSH/BLPOP pair, p50",
        latency.HIT["p50_s"], latency.PAIR["p50_s"], at_most(0.75),
    ),
    _ratio(
        "hit-p99", "the same, p99",
        latency.HIT["p99_s"], latency.PAIR["p99_s"], at_most(0.9),
    ),
    _ratio(
        "hit-caller", "processor time of a hit to the raw pair's, of the caller",
        latency.HIT["caller_s"], latency.PAIR["caller_s"], None,
    ),
    _ratio(
        "hit-server", "the same, of the server",
        latency.HIT["server_s"], latency.PAIR["server_s"], at_most(1.5),
    ),
    _ratio(
        "hit-node", "the same, of the node to that of the pair's other end",
        latency.HIT["answerer_s"], latency.PAIR["answerer_s"], None,
    ),
    _inverse(
        "hit-capacity", "hits that one server could carry by its processor time alone",
        latency.HIT["server_s"], unit="/s",
    ),
    _ratio(
        "miss", "a miss with a no-op handler to the raw pair, p50",
        latency.MISS["p50_s"], latency.PAIR["p50_s"], at_most(1.2),
    ),
    _ratio(
        "call", "a call of a ttl=0 resource with an argument to the raw pair, p50",
        latency.CALL["p50_s"], latency.PAIR["p50_s"], at_most(1.2),
    ),
    _ratio(
        "stock-rq", "stock RQ SimpleWorker to the raw pair, p50",
        latency.STOCK["p50_s"], latency.PAIR["p50_s"], None,
    ),
    _ratio(
        "threads", "hits with {callers} threads in flight, to stock RQ SimpleWorker",
        throughput.THREADS["per_s"], throughput.STOCK["per_s"], at_least(60),
    ),
    _ratio(
        "many", f"request_many of {latency.IDS} ids, per id, to stock RQ SimpleWorker",
        throughput.MANY["per_s"], throughput.STOCK["per_s"], at_least(500),
    ),
    _ratio(
        "async", f"{throughput.TASKS:,} concurrent awaits, to stock RQ SimpleWorker",
        throughput.TASKS_AT_ONCE["per_s"], throughput.STOCK["per_s"], at_least(90),
    ),
    _alone(
        "connections", f"connections of these {throughput.TASKS:,} awaits",
        throughput.TASKS_AT_ONCE["connections"], at_most(4), unit="",
    ),
    _ratio(
        "enqueue", f"enqueue_many of {throughput.JOBS:,} jobs, to stock Queue.enqueue",
        throughput.OURS["per_s"], throughput.STOCK_ENQUEUE["per_s"], at_least(15),
    ),
    _ratio(
        "batch", f"an array of {BATCH} new ids by a batch handler, per id, to a single miss of it",
        throughput.BATCHED["per_s"], throughput.SINGLE["per_s"], at_least(5),
    ),
    _ratio(
        "flush", "invalidate_all of {entries:,} entries to invalidate of one",
        memory.FLUSH["flush_s"], memory.FLUSH["drop_s"], at_most(10),
    ),
    _alone(
        "near", "a near-cache hit in the caller",
        latency.NEAR["call_s"], at_most(2), unit="µs", scale=1e6,
    ),
    _ratio(
        "near-get", "near-cache hits to a redis-py GET",
        latency.GET["call_s"], latency.NEAR["call_s"], at_least(50),
    ),
    _alone(
        "embedded", "an own id, of a node in the caller's process",
        latency.EMBEDDED["call_s"], at_most(20), unit="µs", scale=1e6,
    ),
    _ratio(
        "members", f"route with {latency.CROWD} members to route with 1",
        latency.MANY["function_s"], latency.ALONE["function_s"], at_most(1.2),
    ),
    _ratio(
        "entries", f"a hit with {{entries:,}} entries in the node to {memory.FEW:,}, p50",
        memory.HIT_OF_MANY["p50_s"], memory.HIT_OF_FEW["p50_s"], at_most(1.1),
    ),
    _alone(
        "entry", "a node's memory per entry, the second half of {entries:,} small ones",
        memory.HIT_OF_MANY["entry_bytes"], at_most(350), unit="bytes",
    ),
    _alone(
        "memory", "growth of the server {settle_s:g} s after {requests:,} requests",
        memory.MEMORY["grown_bytes"], at_most(64), unit="MB", scale=1e-6,
    ),
    _alone(
        "idle-cpu", "an idle node's share of a core",
        memory.IDLE["cpu_share"], at_most(1), unit="%", scale=100,
    ),
    _alone(
        "idle-commands", "commands that an idle node sends",
        memory.IDLE["sent_per_s"], at_most(5), unit="/s",
    ),
    _alone(
        "idle-work", "commands that the server runs for it, its functions' own included",
        memory.IDLE["run_per_s"], None, unit="/s",
    ),
    _ratio(
        "command", "rqproc request 1, to python -c 'import redis, rq, click' and a request",
        latency.COMMANDS["command_s"], latency.COMMANDS["floor_s"], at_most(1.3),
    ),
    _alone(
        "rolling", f"hits kept over a rolling restart of {rolling.NODES} nodes with --handoff",
        rolling.WITH["kept_share"], at_least(90), unit="%", scale=100,
    ),
    _alone(
        "rolling-without", "the same without it",
        rolling.WITHOUT["kept_share"], None, unit="%", scale=100,
    ),
    _ratio(
        "two-nodes", "2 nodes to 1, with a handler that burns 2 ms of CPU",
        throughput.TWO["per_s"], throughput.ONE["per_s"], at_least(1.8),
    ),
)  # fmt: skip

NAMES = tuple(row.name for row in ROWS)


def choose(names: Collection[str], rivals: Collection[Rival]) -> tuple[Row, ...]:
    """Return the rows of these names, or of all, that need no other rivals."""
    return tuple(
        row for row in ROWS if row.rivals <= set(rivals) and (not names or row.name in names)
    )


def probes_of(rows: Iterable[Row]) -> tuple[Probe, ...]:
    """Return what must be measured for these rows, once each, in the table's order."""
    wanted = {probe.name for row in rows for probe in row.probes}
    return tuple(probe for name, probe in PROBES.items() if name in wanted)
