"""Runs that have ended, as a node remembers them: the latest, the slowest, and what they failed by.

Pure: every moment is given, on the node's clock. All of it has a bound. Used by whoever holds the
worker's lock. A hit costs nothing here, a run a record of a few fields; who asks for those of an id
has all of them looked through, which takes less than a millisecond.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappush, heappushpop
from itertools import count, islice
from typing import NamedTuple

from rqproc.ids import parse_address
from rqproc.node.runs import Done, Failed, HandlerRun, Outcome, Overdue
from rqproc.stats import PastError, PastRun

MOST_RUNS = 2048
MOST_OF_AN_ID = 10
MOST_TRACEBACKS = 64
TRACEBACK_CHARS = 8192
MESSAGE_CHARS = 300

MOST_TOLD = 32
"""Of the latest runs so many are told of without having been asked for by their id."""

MOST_ERRORS = 16
TOLD_TRACEBACK_CHARS = 1500
TYPE_CHARS = 60

MOST_SLOW = 12
SLOW_WINDOW_S = 150.0


class _Ended(NamedTuple):
    key: bytes
    run: PastRun
    message: str


class _Slowest:
    """The slowest runs of the present window and the one before it."""

    def __init__(self, now: float) -> None:
        self._numbers = count()  # what is as slow is not compared further
        self._runs: list[tuple[float, int, PastRun]] = []
        self._before: list[tuple[float, int, PastRun]] = []
        self._began_at = now

    def add(self, past: PastRun) -> None:
        self._turn(past.at_s)
        push = heappush if len(self._runs) < MOST_SLOW else heappushpop
        push(self._runs, (past.run_s, next(self._numbers), past))

    def taken(self, now: float) -> tuple[PastRun, ...]:
        self._turn(now)
        both = sorted((*self._runs, *self._before), reverse=True)
        return tuple(past for _, _, past in both[:MOST_SLOW])

    def _turn(self, now: float) -> None:
        if (lasted_s := now - self._began_at) >= SLOW_WINDOW_S:
            self._before = self._runs if lasted_s < 2 * SLOW_WINDOW_S else []
            self._runs, self._began_at = [], now


class PastRuns:
    """Remembers runs of one node that have ended, since a moment."""

    def __init__(self, now: float) -> None:
        self._runs: deque[_Ended] = deque(maxlen=MOST_RUNS)
        self._tracebacks: deque[tuple[PastRun, str]] = deque(maxlen=MOST_TRACEBACKS)
        self._slowest = _Slowest(now)
        self._errors: deque[PastError] = deque(maxlen=MOST_ERRORS)

    def ended(self, run: HandlerRun, outcome: Outcome, ended_at: float) -> None:
        """A handler has returned, or raised; a run that closes an object is left out."""
        if run.closes:
            return
        failure = None if isinstance(outcome, Done) else outcome
        _, name, id = parse_address(run.address)
        asked_at = min((run.queued_at, *(taken.since for taken in run.waiting)))
        queued_s, run_s = max(0.0, run.began_at - asked_at), max(0.0, ended_at - run.began_at)
        past = PastRun(name, id, ended_at, queued_s, run_s, failure.kind if failure else "")
        self._runs.append(_Ended(run.key, past, failure.reason[:MESSAGE_CHARS] if failure else ""))
        self._slowest.add(past)
        if failure:
            self._tracebacks.append((past, failure.traceback[-TRACEBACK_CHARS:]))

    def failed(self, run: HandlerRun, failure: Failed | Overdue, now: float) -> None:
        """Callers are told of an error of a handler, be it that the run has not ended in time."""
        _, name, id = parse_address(run.address)
        self._errors.appendleft(
            PastError(
                name, id, now, failure.kind[:TYPE_CHARS], failure.reason[:MESSAGE_CHARS],
                failure.traceback[-TOLD_TRACEBACK_CHARS:],
            )
        )  # fmt: skip

    def of(self, key: bytes) -> Iterator[tuple[PastRun, str, str]]:
        """Return those of an address, the latest first, each with the message of its error and its
        traceback; "" where there is none.
        """
        texts = {id(past): text for past, text in self._tracebacks}
        found = (ended for ended in reversed(self._runs) if ended.key == key)
        for _, past, message in islice(found, MOST_OF_AN_ID):
            yield past, message, texts.get(id(past), "")

    def latest(self) -> tuple[PastRun, ...]:
        """Return the latest first."""
        return tuple(ended.run for ended in islice(reversed(self._runs), MOST_TOLD))

    def slowest(self, now: float) -> tuple[PastRun, ...]:
        """Return those of the last minutes, the slowest first."""
        return self._slowest.taken(now)

    def errors(self) -> tuple[PastError, ...]:
        """Return the latest first."""
        return tuple(self._errors)
