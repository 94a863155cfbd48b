"""What is written down while the cluster is tortured, as it was seen. All moments are of one clock.

Pure. A time that bounds something is taken on the side that can be proved: a run begins at the
handler's first line and ends at its last, so that what overlaps on paper did overlap; a question is
asked before it leaves and answered after it has come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

How = Literal[
    "request", "many", "async", "enqueue", "invalidate", "flush", "refresh", "set", "nested",
    "on_lost=local", "on_lost=error",
]  # fmt: skip
"""``nested``: by a handler, from within its run. The last two: by callers that do not want to wait
where no node can answer."""
DROPPING: frozenset[How] = frozenset({"invalidate", "flush", "refresh", "set"})
"""After these nothing is given that was made before they were asked."""
PUT = -1
"""In the place of a token: no run, but a value that a caller has put."""
Kind = Literal[
    "kill", "pause", "drain", "join", "restart", "wipe", "stall", "delay", "drop", "half-close",
    "mute",
]  # fmt: skip

HARMLESS = frozenset({"join", "drain"})
"""Kinds that may cost a caller nothing, and no run may be repeated for them."""


OF_SERVER = frozenset({"restart", "wipe", "stall"})
SILENCING = frozenset({"drop", "mute"})
"""Kinds that make a server that runs seem to be away."""

DETAIL_CHARS = 300

END_SEEN_WITHIN_S = 0.1
"""A process that ends by itself has ended up to this much before that is seen."""


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """One run of a handler, by the handler's own word; ``ended`` is None if it never said so.

    Attributes:
        key: RESOURCE:ID.
        tag: the request that it was for, empty where one run may serve several.
        token: 0 where a caller ran the handler in its own process; PUT where there was no run.
    """

    id: str
    key: str
    tag: str
    token: int
    pid: int
    node: str
    began: float
    ended: float | None = None

    @property
    def local(self) -> bool:
        """A caller ran it in its own process, where no node could answer."""
        return self.token == 0

    @property
    def was_put(self) -> bool:
        """A caller has put its value; nothing was run."""
        return self.token == PUT

    @property
    def resource(self) -> str:
        return self.key.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Value:
    """What a handler returned: the run that made it, and the run's last moment.

    Attributes:
        stale: whoever asked was told that it is an old one.
        count: of an id's object, how many calls it had with this one, all kept; 0 where the last
            is not surely kept, or there is no object.
    """

    run: str
    key: str
    tag: str
    pid: int
    at: float
    stale: bool = False
    count: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as its caller saw it.

    Attributes:
        timeout_s: 0 for an enqueued job, which has none.
        accepted: when an enqueued job was handed over.
        answered: None where no end was seen.
        error: the error's class, empty for an answer.
        by: the run whose handler asked, empty for a caller.
    """

    how: How
    key: str
    tag: str
    asked: float
    timeout_s: float = 0.0
    accepted: float | None = None
    answered: float | None = None
    value: Value | None = None
    error: str = ""
    detail: str = ""
    by: str = ""

    @property
    def resource(self) -> str:
        return self.key.partition(":")[0]

    def ends(
        self, answered: float, *, value: Mapping[str, Any] | None = None, error: str = "",
        detail: str = "",
    ) -> Ask:  # fmt: skip
        """Return it with its end, as ``said_of`` tells that."""
        made = Value(**value) if value else None
        return replace(self, answered=answered, value=made, error=error, detail=detail)


def said_of(outcome: object) -> dict[str, Any]:
    """Return what is written down of a request's end: what a handler of the torture's app has
    returned, or the error that was raised.
    """
    if isinstance(outcome, BaseException):
        return {"error": type(outcome).__name__, "detail": str(outcome)[:DETAIL_CHARS]}
    return {"value": dict(outcome)} if isinstance(outcome, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a run of a resource may take; ``cancels``: it is ended then, being a coroutine."""

    s: float
    cancels: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """A process stood still: from before SIGSTOP was sent until SIGCONT was."""

    pid: int
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Death:
    """A node's process ended.

    Attributes:
        seen: when its end was noticed.
        killed: when SIGKILL was sent, None if it was not.
        drained: it had been asked to drain.
    """

    pid: int
    node: str
    seen: float
    code: int
    killed: float | None = None
    drained: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something was done to the cluster.

    Attributes:
        healed: when it was undone, or had happened.
        recovered: when each id was answered again; None if that never came.
        owned: keys that were the victim's.
        told: the cluster was told of the death, as a supervisor does.
        alone: no other fault was under way.
        total: no node was left that it did not touch.
    """

    kind: Kind
    target: str
    began: float
    healed: float = 0.0
    recovered: float | None = None
    detail: str = ""
    pids: tuple[int, ...] = ()
    owned: tuple[str, ...] = ()
    told: bool = False
    alone: bool = True
    total: bool = False


def _may_cost(fault: Fault, error: str) -> bool:
    if error == "NoLiveNode":
        return fault.total or fault.kind in OF_SERVER
    if error == "RedisUnavailable":
        return fault.kind in OF_SERVER | SILENCING
    return fault.kind not in HARMLESS


ByTag = dict[str, list[ObservedRun]]


@dataclass(frozen=True, slots=True)
class TortureHistory:
    """Everything.

    Attributes:
        stale_s: by resource, for how long after its ttl an old value may be given, marked.
        lanes: by resource, the lane that it shares with others.
        limits: by resource, of those that have one.
        left_keys, left_pids: what stayed when all nodes had ended.
        by_pid, by_run, by_tag: the same records, to be looked up; runs by their starts.
        puts: by run, what was asked where a value was put.
    """

    lease_s: float
    ttl_s: float
    strict: bool = False
    max_attempts: int = 3
    stale_s: Mapping[str, float] = field(default_factory=dict)
    lanes: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    runs: tuple[ObservedRun, ...] = ()
    asks: tuple[Ask, ...] = ()
    stops: tuple[Stop, ...] = ()
    deaths: tuple[Death, ...] = ()
    faults: tuple[Fault, ...] = ()
    left_keys: tuple[str, ...] = ()
    left_pids: tuple[int, ...] = ()
    by_pid: dict[int, Death] = field(default_factory=dict, init=False, repr=False, compare=False)
    by_run: dict[str, ObservedRun] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    by_tag: ByTag = field(default_factory=dict, init=False, repr=False, compare=False)
    puts: dict[str, Ask] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.puts.update((a.value.run, a) for a in self.asks if a.how == "set" and a.value)
        self.by_pid.update((death.pid, death) for death in self.deaths)
        self.by_run.update((run.id, run) for run in self.runs)
        for run in sorted(self.runs, key=lambda run: run.began):
            if run.tag:
                self.by_tag.setdefault(run.tag, []).append(run)

    def lane(self, key: str) -> str:
        """What runs of a key have in common with those that they must not overlap."""
        resource, _, id = key.partition(":")
        return f"{self.lanes.get(resource, resource)}:{id}"

    def kept_from(self, value: Value) -> float:
        """When a value began to be kept, at the latest: one that was put travels first."""
        if value.run not in self.puts and (run := self.by_run.get(value.run)) and run.was_put:
            return float("inf")  # its caller has not heard
        put = self.puts.get(value.run)
        return value.at if put is None or put.answered is None else put.answered

    def explained(self, began: float, ended: float, error: str = "") -> bool:
        """Whether a fault was about between two moments that may cost something: this error."""
        return any(
            fault.began <= ended and began <= self._over(fault)
            for fault in self.faults
            if _may_cost(fault, error)
        )

    def _over(self, fault: Fault) -> float:
        """A lease after all was well again."""
        return (fault.recovered or float("inf")) + self.lease_s

    def wipes(self, began: float, ended: float) -> int:
        """How often the server lost its data between two moments."""
        return sum(f.kind == "wipe" and f.began <= ended and began <= f.healed for f in self.faults)

    def end_of_process(self, pid: int) -> float | None:
        """When a process ended, at the earliest; None where nobody saw that."""
        death = self.by_pid.get(pid)
        if death is None:
            return None
        return death.seen - END_SEEN_WITHIN_S if death.killed is None else death.killed

    def end_of_run(self, run: ObservedRun) -> float:
        """When a run ended: by its own word, else when its process did."""
        if run.ended is not None:
            return run.ended
        gone = self.end_of_process(run.pid)
        return float("inf") if gone is None else max(run.began, gone)

    def stopped_s(self, pid: int, began: float, ended: float) -> float:
        """For how long a process stood still between two moments."""
        stops = (stop for stop in self.stops if stop.pid == pid)
        return sum(max(0.0, min(s.ended, ended) - max(s.began, began)) for s in stops)

    def ran_locally(self, ask: Ask) -> bool:
        """Whether a request's value was made in a caller's own process."""
        run = self.by_run.get(ask.value.run) if ask.value else None
        return run is not None and run.local


Record = ObservedRun | Ask | Stop | Death | Fault


@dataclass(frozen=True, slots=True)
class Breach:
    """A law, how it was broken, and the records that show it."""

    law: str
    text: str
    records: tuple[Record, ...]
