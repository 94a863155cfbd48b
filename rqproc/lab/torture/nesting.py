"""The laws of handlers that ask for other ids: circles are found, and nothing else is one. Pure.

A wait is the request of a run: until it is answered, that run's key waits for the one that it asks
for. The server drops a wait when it is answered, else at its deadline: so a wait of a process that
has died may close a circle until then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rqproc.lab.torture.answers import SLACK_S
from rqproc.lab.torture.records import Ask, Breach, ObservedRun, TortureHistory
from rqproc.lab.torture.timeline import name_of

UNNOTICED_LEASES, UNNOTICED_S = 2.0, 3.0
"""For how long a circle may stand: whoever waits asks again every two seconds, and may find the
server away or its node's lease run out."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A run waits for a key."""

    ask: Ask
    run: ObservedRun
    began: float
    ended: float


Waits = dict[str, list[Wait]]
"""By the key that waits."""


def true_circles(history: TortureHistory) -> Iterator[Breach]:
    """A request ends in RequestCycle only where what it asks for waits for its own run meanwhile.

    Of those who ask in a circle one is told so: a wait that was refused closes no other circle.
    """
    waits = _waits(history)
    noted = _by_key(_noted(wait) for wait in waits if _is_accepted(wait, history))
    for wait in waits:
        if wait.ask.error == "RequestCycle" and not _leads_back(wait, noted):
            text = f"{name_of(wait.ask)} of {wait.run.key} was refused as a circle, and closes none"
            yield Breach("true circles", text, (wait.run, wait.ask))


def no_deadlocks(history: TortureHistory) -> Iterator[Breach]:
    """No runs wait for each other for long, unless the server has lost what it knew of that."""
    limit_s = UNNOTICED_LEASES * history.lease_s + UNNOTICED_S
    long_ones = [wait for wait in _waits(history) if wait.ended - wait.began > limit_s]
    by_key = _by_key(long_ones)
    for wait in long_ones:
        way = _circle([wait], by_key, limit_s)
        if not way or wait is not min(way, key=lambda other: (other.began, other.run.id)):
            continue  # it is told once, by the first of them
        began, ended = max(w.began for w in way), min(w.ended for w in way)
        if history.wipes(began, ended):
            continue
        keys = " waits for ".join([*(other.run.key for other in way), wait.run.key])
        text = f"{keys}: for {ended - began:.1f} s"
        records = [record for other in way for record in (other.run, other.ask)]
        yield Breach("no deadlocks", text, tuple(records))


def _waits(history: TortureHistory) -> list[Wait]:
    """Return every wait, until its answer or the end of its process."""
    return [
        Wait(ask, run, ask.asked, _end(ask, run, history))
        for ask in history.asks
        if (run := history.by_run.get(ask.by))
    ]


def _end(ask: Ask, run: ObservedRun, history: TortureHistory) -> float:
    if ask.answered is not None:
        return ask.answered
    gone = history.end_of_process(run.pid)
    return float("inf") if gone is None else max(ask.asked, gone)


def _is_accepted(wait: Wait, history: TortureHistory) -> bool:
    """Whether the server may have noted it, be it before it forgot that."""
    return wait.ask.error != "RequestCycle" or history.wipes(wait.began, wait.ended) > 0


def _noted(wait: Wait) -> Wait:
    """Return a wait as the server has it noted: until its deadline, where no value came."""
    if wait.ask.value:
        return wait
    deadline = wait.ask.asked + wait.ask.timeout_s + SLACK_S
    return replace(wait, ended=max(wait.ended, deadline))


def _by_key(waits: Iterable[Wait]) -> Waits:
    found: Waits = defaultdict(list)
    for wait in waits:
        found[wait.run.key].append(wait)
    return found


def _leads_back(wait: Wait, noted: Waits) -> bool:
    """Whether there is a way from what is asked for to who asks, over waits of the same time."""
    goal, todo, seen = wait.run.key, [wait.ask.key], set[str]()
    while todo:
        key = todo.pop()
        if key == goal:
            return True
        if key in seen:
            continue
        seen.add(key)
        todo += [
            other.ask.key
            for other in noted.get(key, ())
            if other.began <= wait.ended and wait.began <= other.ended
        ]
    return False


def _circle(way: list[Wait], waits: Waits, over_s: float) -> list[Wait]:
    """Return a way that leads back to its beginning, all of it at once for so long; or none."""
    if min(wait.ended for wait in way) - max(wait.began for wait in way) <= over_s:
        return []
    if way[-1].ask.key == way[0].run.key:
        return way
    for wait in waits.get(way[-1].ask.key, ()):
        if wait not in way and (found := _circle([*way, wait], waits, over_s)):
            return found
    return []
