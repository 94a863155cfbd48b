"""Runs that take longer than their resource allows: everyone is answered, and they go on.

Pure: it ends no handler. Knows lanes, and who waits in them. Must not know how runs begin, nor what
they come to in the end.
"""

from __future__ import annotations

import logging

from rqproc.ids import parse_address
from rqproc.log_events import tell
from rqproc.node.joinable import JoinableRuns
from rqproc.node.lanes import Lanes
from rqproc.node.outbox import Outbox
from rqproc.node.past_runs import PastRuns
from rqproc.node.results import Results
from rqproc.node.runs import HandlerRun, Overdue
from rqproc.runtime import Clock
from rqproc.stats import StuckRun

log = logging.getLogger("rqproc.node")

STUCK_AFTER_S = 0.2
"""Past its timeout a coroutine has been cancelled: what still runs then is stuck."""


class StuckRuns:
    """Finds runs of one node that are past their time, and refuses their addresses until they end;
    ``len`` tells how many there are.
    """

    def __init__(
        self, lanes: Lanes[HandlerRun], joinable: JoinableRuns, outbox: Outbox, results: Results, *,
        past: PastRuns, clock: Clock,
    ) -> None:  # fmt: skip
        self._lanes = lanes
        self._joinable = joinable
        self._outbox = outbox
        self._results = results
        self._past = past
        self._clock = clock
        self._until: dict[HandlerRun, float] = {}
        self._stuck: dict[bytes, tuple[HandlerRun, Overdue]] = {}

    def __len__(self) -> int:
        return len(self._stuck)

    def __contains__(self, key: bytes) -> bool:
        return key in self._stuck

    def get(self, key: bytes) -> Overdue | None:
        """Return what is told of the run of an address, if that is stuck."""
        _, overdue = self._stuck.get(key, (None, None))
        return overdue

    def watch(self, run: HandlerRun, now: float) -> None:
        """A run begins; one that may take as long as it wants is left alone."""
        if run.resource.timeout_s is not None:
            self._until[run] = now + run.resource.timeout_s + STUCK_AFTER_S

    def unwatch(self, run: HandlerRun) -> Overdue | None:
        """It has ended; return what was told of it before, None where it was in time."""
        self._until.pop(run, None)
        _, overdue = self._stuck.pop(run.key, (None, None))
        return overdue

    def mind_the_time(self) -> None:
        """Answer for runs that take too long. They go on, and keep their ids from all others."""
        if not self._until:
            return
        now = self._clock()
        for run in [run for run, until in self._until.items() if until <= now]:
            del self._until[run]
            self._give_up_on(run, Overdue(run.resource.timeout_s or 0.0, stuck=True), now)

    def _give_up_on(self, run: HandlerRun, overdue: Overdue, now: float) -> None:
        """Answer everyone who waits for it or behind it; the claim of the first stays its hold."""
        about = run.about
        self._stuck[run.key] = run, overdue
        run.keeps = False
        self._joinable.close(run)
        self._lanes.pause(run.key)
        told = list(run.waiting)
        if told and not run.hold:
            run.hold = told.pop(0)
            run.hold.holds = True
            self._outbox.failure(run.hold, overdue, ":stuck")
        for other in self._lanes.drop(run.key):
            self._joinable.close(other)
            told += other.waiting
            if other.closes:  # the object is there until that run has ended
                self._lanes.add(run.key, other)
            elif other.hold:
                self._results.release(other.hold, None)
        for taken in told:
            self._outbox.failure(taken, overdue)
        run.waiting.clear()
        self._past.failed(run, overdue, now)
        tell(
            log, "handler_stuck", "%s is stuck: it runs for more than %g s", run.address,
            overdue.timeout_s, **about, timeout_s=overdue.timeout_s,
        )  # fmt: skip

    @property
    def overdue_at(self) -> float | None:
        """When the next one is; None where none will be."""
        return min(self._until.values(), default=None)

    def snapshot(self) -> tuple[StuckRun, ...]:
        """Return them as others read of them, the oldest first."""
        runs = sorted((run for run, _ in self._stuck.values()), key=lambda run: run.began_at)
        return tuple(StuckRun(*parse_address(run.address)[1:], run.began_at) for run in runs)
