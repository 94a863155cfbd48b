"""How a worker ends: told to stop, it finishes what it has taken and gives away what it keeps.

Knows what is held, entries that are on their way, and how long all of that may take. Must not know
sessions, nor who has told it.
"""

from __future__ import annotations

import math

from rqproc.node.dispatcher import Dispatcher
from rqproc.node.executor import Executor
from rqproc.node.handoff import GIVE_S
from rqproc.node.lease import Term
from rqproc.runtime import Clock

HAND_OVER_S = GIVE_S + 0.5
"""A drain takes no longer for the entries that it gives away."""


class NodeDrain:
    """Whether one node drains, and when that is over. But for ``stop``, used by whoever holds the
    worker's lock.

    Args:
        most_s: seconds that it may take where only the term says that its node drains.
    """

    def __init__(
        self, dispatcher: Dispatcher, executor: Executor, *, most_s: float, clock: Clock
    ) -> None:
        self._dispatcher = dispatcher
        self._executor = executor
        self._most_s = most_s
        self._clock = clock
        self._stop_by: float | None = None
        self._hand_over_by: float | None = None

    def stop(self, *, within_s: float) -> None:
        """Begin; what is not finished in ``within_s`` seconds is given up. From any thread."""
        self._stop_by = self._clock() + within_s

    def is_on(self, term: Term) -> bool:
        """Whether nothing new is to be taken any more."""
        return term.draining or (self._stop_by is not None and not self._lingers)

    @property
    def _lingers(self) -> bool:
        """Whether it is told to stop, but entries are on their way since the last change of
        members: until then it serves as it did.
        """
        handoff, stop_by = self._dispatcher.handoff, self._stop_by
        if handoff is None or stop_by is None or self._clock() >= stop_by:
            return False
        return handoff.settles_s > 0

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be finished, or no time; to be asked once it is on."""
        if self._stop_by is None:  # by a word from elsewhere
            self._stop_by = self._clock() + self._most_s
        if self._clock() >= self._stop_by:
            return True
        return (
            self._dispatcher.idle and not self._executor.has_news and not self._has_to_hand_over()
        )

    def _has_to_hand_over(self) -> bool:
        """Whether entries are left for the next owners, and time. Until the server knows that this
        node drains, all count as left.
        """
        if self._dispatcher.handoff is None:
            return False
        now = self._clock()
        self._hand_over_by = self._hand_over_by or now + HAND_OVER_S
        return now < self._hand_over_by and self._dispatcher.has_entries_to_give

    @property
    def look_again_s(self) -> float:
        """In how many seconds it is to be looked at, or at the entries, if nothing happens."""
        stop_by, handoff = self._stop_by, self._dispatcher.handoff
        left_s = math.inf if stop_by is None else max(0.0, stop_by - self._clock())
        if handoff is None:
            return left_s
        return min(left_s, handoff.look_again_s(is_stopping=stop_by is not None))
