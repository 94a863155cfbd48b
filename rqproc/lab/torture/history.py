"""The judgement: does a history keep the promises? Each law finds the records that break it.

Pure: it is given records and gives violations. What is checked, and with which bounds, is told at
each law. ``runs`` has those of handlers, ``limits`` of those that take too long, ``nesting`` of
those that ask for other ids; ``answers`` has those of callers, ``losses`` of callers that do not
want to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rqproc.lab.torture import answers, limits, losses, nesting, runs
from rqproc.lab.torture.records import Breach, TortureHistory
from rqproc.lab.torture.timeline import Line, lines

Law = Callable[[TortureHistory], Iterator[Breach]]


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise broken: which, how, and the records that show it, in order of time."""

    law: str
    text: str
    lines: tuple[Line, ...]


def check(history: TortureHistory) -> list[Violation]:
    """Return every violation, those with the shortest history first."""
    found = [
        Violation(breach.law, breach.text, lines(history, breach.records))
        for law in LAWS
        for breach in law(history)
    ]
    return sorted(found, key=lambda violation: len(violation.lines))


def recovered(history: TortureHistory) -> Iterator[Breach]:
    """After each fault every id is answered again, by itself."""
    for fault in history.faults:
        if fault.recovered is None:
            text = f"after {fault.kind} of {fault.target} not every id was answered again"
            yield Breach("recovers", text, (fault,))


def ended_when_told(history: TortureHistory) -> Iterator[Breach]:
    """A node ends when it is killed or drained; strict ones also end themselves, for a reason.

    An undisturbed drain ends with 0.
    """
    for death in history.deaths:
        about = (death.seen - 2 * history.lease_s, death.seen)
        if death.killed is not None or (death.drained and death.code == 0):
            continue
        if history.strict and history.explained(*about):
            continue
        if death.drained and history.explained(*about):
            continue
        asked = "asked to drain" if death.drained else "asked nothing"
        yield Breach("ends when told", f"{death.node}, {asked}, ended with {death.code}", (death,))


def left_nothing(history: TortureHistory) -> Iterator[Breach]:
    """No key stays but those that expire or that the design keeps, and no process."""
    if history.left_keys:
        yield Breach("leaves nothing", f"keys left in Redis: {', '.join(history.left_keys)}", ())
    if history.left_pids:
        told = ", ".join(str(pid) for pid in history.left_pids)
        yield Breach("leaves nothing", f"processes left: {told}", ())


LAWS: tuple[Law, ...] = (
    runs.serial,
    runs.tokens_rise,
    runs.bounded_attempts,
    runs.no_needless_repeats,
    limits.overdue_told,
    limits.only_overdue,
    limits.coroutines_cancelled,
    nesting.true_circles,
    nesting.no_deadlocks,
    answers.in_time,
    answers.named,
    answers.explained,
    answers.true_values,
    answers.jobs_answered,
    answers.fresh,
    answers.never_back,
    answers.refreshed,
    answers.counted,
    losses.local_answers,
    losses.local_for_a_reason,
    losses.owner_granted_time,
    losses.withdrawn_not_begun,
    recovered,
    ended_when_told,
    left_nothing,
)
