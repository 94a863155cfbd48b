"""Runs whose turn it is in their lane: they may begin, or their job is to be claimed first.

Pure. A call was claimed when it came; a job lies in RQ's list until it is started, so it is claimed
when its turn has come.
"""

from __future__ import annotations

from collections import deque

from rqproc.node.lanes import Lanes
from rqproc.node.outbox import Outbox
from rqproc.node.runs import HandlerRun, RefusedRun, Taken
from rqproc.node.unacknowledged import Unacknowledged
from rqproc.runtime import Clock


class Turns:
    """Whose turn it is among the runs of one node.

    Attributes:
        unclaimed: by the id of a job, runs that have their lane and begin when it is claimed.
    """

    def __init__(
        self, lanes: Lanes[HandlerRun], unacknowledged: Unacknowledged, outbox: Outbox, clock: Clock
    ) -> None:
        self._lanes = lanes
        self._unacknowledged = unacknowledged
        self._outbox = outbox
        self._clock = clock
        self._ready: deque[HandlerRun] = deque()
        self.unclaimed: dict[bytes, HandlerRun] = {}

    def give(self) -> None:
        """Give lanes to the runs that may begin; those of jobs do when these are claimed."""
        while run := self._lanes.next():
            self.let_expire(run)
            if (job := run.unclaimed) and not run.hold:
                self.unclaimed[job.id] = run
            else:
                self._ready.append(run)

    def take(self) -> HandlerRun | None:
        """Return a run that may begin, once, None if there is none."""
        return self._ready.popleft() if self._ready else None

    def claimed(self, id: bytes, token: int, failure: RefusedRun | None = None) -> None:
        """A job whose turn had come was claimed; or not, with the token 0: it waits no more, and
        has failed where a ``failure`` says why.
        """
        run = self.unclaimed.pop(id)
        (job,) = (taken for taken in run.waiting if taken.id == id)
        job.token = token
        if not token:
            run.waiting.remove(job)
            if failure:
                self._outbox.failure(job, failure)
            else:
                self._unacknowledged.remove(id)
            if other := run.unclaimed:
                self.unclaimed[other.id] = run
                return
        self._ready.append(run)

    def take_lowest_token(self, first: Taken) -> None:
        """Tokens rise from one run of an id to the next. A job is claimed when its turn has come,
        and so after calls that run behind it: of all their tokens it takes the lowest.
        """
        behind = (
            taken
            for run in self._lanes.behind(first.key)
            for taken in (run.hold, *run.waiting)
            if taken and taken.token and not run.closes  # an object's is that of its last call
        )
        lowest = min(behind, key=lambda taken: taken.token, default=first)
        if lowest.token < first.token:
            lowest.token, first.token = first.token, lowest.token

    def let_expire(self, run: HandlerRun) -> None:
        """Leave out who has given up by now."""
        now = self._clock()
        for taken in run.waiting:
            if taken.due is not None and taken.due <= now and not taken.ended:
                self._outbox.nothing(taken, ":expired")
        run.waiting = [taken for taken in run.waiting if not taken.ended]

    def clear(self) -> list[HandlerRun]:
        """Forget all; return what had its turn."""
        left = [*self._ready, *self.unclaimed.values()]
        self._ready.clear()
        self.unclaimed.clear()
        return left
