"""How much a worker takes from its queue, how long it may wait, and when it counts.

Knows limits and clocks. Must not know sessions.
"""

from __future__ import annotations

from collections.abc import Callable

from rqproc.node.connections import PATIENCE_S
from rqproc.node.dispatcher import Dispatcher
from rqproc.node.lease import Term
from rqproc.protocol.messages import Tally
from rqproc.runtime import Clock
from rqproc.stats import NodeStats

TALLY_S = 0.25
TAKE_MOST = 256


class Pace:
    """How fast one worker goes.

    Args:
        max_held: requests that may be held.
        term: gives the present term.
        clock: the one that counts are published by.

    Attributes:
        tally, stats: the counts as they were, up to a quarter of a second ago; for other threads,
            which may not look into the dispatcher.
    """

    def __init__(
        self, dispatcher: Dispatcher, max_held: int, *, term: Callable[[], Term], clock: Clock
    ) -> None:
        self._dispatcher = dispatcher
        self._max_held = max_held
        self._term = term
        self._clock = clock
        self._counted_at = 0.0
        self.tally: Tally = dispatcher.figures.tally()
        self.stats: NodeStats = dispatcher.figures.stats()

    def count(self) -> None:
        """Publish the counts."""
        now = self._clock()
        if now - self._counted_at >= TALLY_S:
            figures = self._dispatcher.figures
            self._counted_at, self.tally, self.stats = now, figures.tally(), figures.stats()

    @property
    def most(self) -> int:
        """How many ids may be taken now: the rest wait in the queue.

        What waits for handlers that do nothing themselves must not fill this node: these may wait
        for what is in the queue.
        """
        room = self._max_held - self._dispatcher.held
        if room < TAKE_MOST:
            room += self._dispatcher.scheduler.held_by_paused
        return min(TAKE_MOST, max(0, room))

    def look_again_s(self, now: float) -> float:
        """Return in how many seconds something must be looked at even if nothing happens.

        Args:
            now: by the term's clock.
        """
        term, scheduler = self._term(), self._dispatcher.scheduler
        left_s = TALLY_S if scheduler.running else PATIENCE_S
        if (due_at := scheduler.due_at) is not None:
            soonest_s = 0.0 if term.trusted else TALLY_S  # nothing begins before it is
            left_s = min(left_s, max(soonest_s, due_at - now))
        if self._dispatcher.figures.changed_since(self.tally):
            left_s = min(left_s, TALLY_S)
        if (trusted_s := term.trusted_until - now) > 0:
            left_s = min(left_s, trusted_s)
        return left_s
