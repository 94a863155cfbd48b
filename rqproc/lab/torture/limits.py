"""The laws of runs that take longer than their resource allows. Pure.

A node counts from when it starts a run, which is before the handler's first line; a thread is given
up a moment later than a coroutine, which is cancelled first. That a thread which is given up keeps
its id until it ends is the law of serial runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rqproc.lab.torture.answers import RETURN_S
from rqproc.lab.torture.records import Ask, Breach, ObservedRun, TortureHistory
from rqproc.lab.torture.timeline import name_of

STUCK_AFTER_S = 0.2
"""A thread is given up so long after its time is over."""
SOON_S = 1.0
"""What may pass on a busy machine until it is, and its callers are told."""
EARLY_S = 0.05
"""So much of a run's time may lie before its handler's first line."""


def overdue_told(history: TortureHistory) -> Iterator[Breach]:
    """Who waits for a run that takes too long is told so by then; who comes later, at once."""
    asks = _by_key(history)
    for run in history.runs:
        limit = history.limits.get(run.resource)
        if limit is None or run.local:
            continue
        due, ended = run.began + limit.s + STUCK_AFTER_S, history.end_of_run(run)
        for ask in asks[run.key] if ended > due + SOON_S else ():
            latest = max(due, ask.asked) + SOON_S
            until = min(ended, ask.asked + ask.timeout_s, ask.answered or float("inf"))
            if until <= latest or history.explained(min(run.began, ask.asked), latest):
                continue
            text = f"{name_of(ask)} was not told in time that run {run.id} takes too long"
            yield Breach("overdue told", text, (run, ask))


def only_overdue(history: TortureHistory) -> Iterator[Breach]:
    """A request ends in HandlerTimeout only if a run of its key took too long meanwhile."""
    runs: dict[str, list[ObservedRun]] = defaultdict(list)
    for run in history.runs:
        runs[run.key].append(run)
    for ask in history.asks:
        if ask.error != "HandlerTimeout" or ask.answered is None:
            continue
        if not any(_was_overdue(run, ask, history) for run in runs[ask.key]):
            text = f"{name_of(ask)} ended in HandlerTimeout though no run took too long"
            yield Breach("only overdue", text, (ask, *_about(runs[ask.key], ask, history)))


def coroutines_cancelled(history: TortureHistory) -> Iterator[Breach]:
    """A coroutine ends when its time is over."""
    for run in history.runs:
        limit = history.limits.get(run.resource)
        if limit is None or not limit.cancels:
            continue
        ended = history.end_of_run(run)
        took_s = ended - run.began - history.stopped_s(run.pid, run.began, ended)
        if took_s > limit.s + SOON_S and not history.explained(run.began, ended):
            text = f"run {run.id} of {run.key} took {took_s:.1f} s, {limit.s:g} s are allowed"
            yield Breach("coroutines cancelled", text, (run,))


def is_overdue(run: ObservedRun, history: TortureHistory) -> bool:
    """Whether a run took longer than its resource allows."""
    limit = history.limits.get(run.resource)
    return limit is not None and history.end_of_run(run) - run.began >= limit.s - EARLY_S


def _was_overdue(run: ObservedRun, ask: Ask, history: TortureHistory) -> bool:
    """Whether a run was under way while a request waited, and had taken too long by its answer.

    Its process may have been stopped between the start and the first line, or after the last one.
    """
    limit = history.limits.get(run.resource)
    if limit is None or ask.answered is None or run.began > ask.answered:
        return False
    ended = history.end_of_run(run)
    known = ended + RETURN_S + history.stopped_s(run.pid, ended, ask.asked)
    if known < ask.asked:
        return False
    before_s = history.stopped_s(run.pid, run.began - limit.s - STUCK_AFTER_S, run.began)
    return min(ended, ask.answered) - run.began + before_s >= limit.s - EARLY_S


def _about(runs: list[ObservedRun], ask: Ask, history: TortureHistory) -> list[ObservedRun]:
    """The runs that were under way while a request waited, or a lease before."""
    answered, before = ask.answered or float("inf"), ask.asked - history.lease_s
    return [r for r in runs if r.began <= answered and before <= history.end_of_run(r)]


def _by_key(history: TortureHistory) -> dict[str, list[Ask]]:
    found: dict[str, list[Ask]] = defaultdict(list)
    for ask in history.asks:
        if ask.how != "enqueue":
            found[ask.key].append(ask)
    return found
