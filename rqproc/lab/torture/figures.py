"""What a history amounts to, in numbers. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rqproc.lab.torture.limits import is_overdue
from rqproc.lab.torture.records import Ask, Fault, TortureHistory
from rqproc.lab.torture.runs import outlived


@dataclass(frozen=True, slots=True)
class Times:
    """A distribution, in seconds."""

    count: int
    p50_s: float
    p99_s: float

    @classmethod
    def of(cls, found: Sequence[float]) -> Times | None:
        if not found:
            return None
        ordered = sorted(found)
        return cls(len(ordered), _at(ordered, 0.5), _at(ordered, 0.99))


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts.

    Attributes:
        outcomes: requests by what they ended in.
        ways: requests by how they were asked.
        cut_short: runs whose process ended in them.
        outlived: runs that went on in a process that had been stopped past its lease.
        overdue: runs that took longer than their resource allows.
        local: runs in a caller's own process.
        failover: from a kill to the first answer of each id that the killed node owned: by the end
            of its lease, and where the cluster was told.
    """

    requests: int
    outcomes: dict[str, int]
    ways: dict[str, int]
    faults: dict[str, int]
    runs: int
    cut_short: int
    outlived: int
    overdue: int
    local: int
    ended_themselves: int
    failover: Times | None
    failover_told: Times | None


def figures(history: TortureHistory) -> Figures:
    return Figures(
        requests=len(history.asks),
        outcomes=dict(Counter(map(_outcome, history.asks)).most_common()),
        ways=dict(Counter(ask.how for ask in history.asks).most_common()),
        faults=dict(Counter(fault.kind for fault in history.faults).most_common()),
        runs=len(history.runs),
        cut_short=sum(run.ended is None for run in history.runs),
        outlived=len(outlived(history)),
        overdue=sum(is_overdue(run, history) for run in history.runs),
        local=sum(run.local for run in history.runs),
        ended_themselves=sum(e.killed is None and not e.drained for e in history.deaths),
        failover=Times.of(list(_failovers(history, told=False))),
        failover_told=Times.of(list(_failovers(history, told=True))),
    )


def _outcome(ask: Ask) -> str:
    if ask.error or ask.answered is not None:
        return ask.error or "value"
    return "cut short with who asked" if ask.by else "lost with the server's data"


def _failovers(history: TortureHistory, *, told: bool) -> Iterator[float]:
    for fault in history.faults:
        if fault.kind == "kill" and fault.alone and fault.told == told:
            yield from _answered_after(history, fault)


def _answered_after(history: TortureHistory, kill: Fault) -> Iterator[float]:
    """For each id that was the victim's: until another process's value came."""
    for key in kill.owned:
        came = [
            ask.answered
            for ask in history.asks
            if ask.key == key and ask.answered and ask.answered > kill.began
            if ask.value and ask.value.pid not in kill.pids and ask.value.at > kill.began
            if not history.ran_locally(ask)
        ]
        if came:
            yield min(came) - kill.began


def _at(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]
