"""Runs whose resource says how long they may take, and when each is over that.

Pure: every moment is given.
"""

from __future__ import annotations

from rqproc.node.runs import Run
from rqproc.runtime import Clock

STUCK_AFTER_S = 0.2
"""Past its timeout a coroutine has been cancelled: what still runs then is stuck."""


class Timed:
    """Runs by the moment at which each counts as stuck."""

    def __init__(self) -> None:
        self._until: dict[Run, float] = {}

    def add(self, run: Run, now: float) -> None:
        """It begins; one that may take as long as it wants is left alone."""
        if run.resource.timeout_s is not None:
            self._until[run] = now + run.resource.timeout_s + STUCK_AFTER_S

    def discard(self, run: Run) -> None:
        self._until.pop(run, None)

    def take(self, clock: Clock) -> list[Run]:
        """Return those that are stuck by now, once; the clock is looked at where any might be."""
        if not self._until:
            return []
        now = clock()
        found = [run for run, until in self._until.items() if until <= now]
        for run in found:
            del self._until[run]
        return found

    @property
    def overdue_at(self) -> float | None:
        """When the next one is; None where none will be."""
        return min(self._until.values(), default=None)
