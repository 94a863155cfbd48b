"""The table: each row's figure, made of what its probes read, and the target to be met."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from rqproc.lab.bench import latency, memory, throughput
from rqproc.lab.bench.environment import BenchPlan, Rival
from rqproc.lab.bench.figures import ONE, Formula, FormulaTerm, Goal, at_least, at_most
from rqproc.lab.bench.timing import Probe

PROBES = {
    probe.name: probe
    for probe in (
        memory.IDLE,
        memory.MEMORY,
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
        latency.NEAR,
        latency.GET,
        latency.EMBEDDED,
        latency.ALONE,
        latency.MANY,
        memory.HIT_OF_FEW,
        memory.HIT_OF_MANY,
        latency.COMMANDS,
        throughput.ONE,
        throughput.TWO,
    )
}
"""In the order in which a round goes through them: what is compared lies side by side."""


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
