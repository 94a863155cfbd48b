"""Runs that have ended: the latest of a node, whatever their ids, in bounded memory.

Pure: every moment is given. A hit costs nothing here, a run one tuple; who asks for those of an id
has all of them looked through, which takes less than a millisecond.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rqproc.node.runs import Done, Outcome, Overdue, Run

MOST_RUNS = 2048
MOST_ERRORS = 64
MOST_OF_AN_ID = 10
MAX_MESSAGE_CHARS = 300
MAX_TRACEBACK_CHARS = 8192


class PastRun(NamedTuple):
    """One run; moments on the dispatcher's clock.

    Attributes:
        error: type of what its handler raised; "" where it returned a value.
    """

    key: bytes
    queued_at: float
    began_at: float
    ended_at: float
    error: str = ""
    message: str = ""


class PastRuns:
    """The latest of one node; tracebacks of the latest that failed."""

    def __init__(self) -> None:
        self._runs: deque[PastRun] = deque(maxlen=MOST_RUNS)
        self._tracebacks: deque[tuple[PastRun, str]] = deque(maxlen=MOST_ERRORS)

    def note(self, run: Run, outcome: Outcome, now: float) -> None:
        """A run has ended; one that no handler made, or that closes an object, is left out."""
        if run.given is not None or run.closes:
            return
        moments = (run.queued_at, run.began_at)
        if isinstance(outcome, Done):
            self._runs.append(PastRun(run.key, *moments, max(run.began_at, min(outcome.at, now))))
            return
        type, message = _error(outcome)
        past = PastRun(run.key, *moments, now, type, message[:MAX_MESSAGE_CHARS])
        self._runs.append(past)
        self._tracebacks.append((past, outcome.text[-MAX_TRACEBACK_CHARS:]))

    def of(self, key: bytes) -> list[tuple[PastRun, str]]:
        """Return those of an address, the latest first, each with its traceback, or ""."""
        found = [past for past in reversed(self._runs) if past.key == key][:MOST_OF_AN_ID]
        texts = {id(past): text for past, text in self._tracebacks}
        return [(past, texts.get(id(past), "")) for past in found]


def _error(outcome: Outcome) -> tuple[str, str]:
    assert not isinstance(outcome, Done)
    if isinstance(outcome, Overdue):
        return "HandlerTimeout", f"not done after {outcome.timeout_s:g} s"
    return outcome.type, outcome.reason
