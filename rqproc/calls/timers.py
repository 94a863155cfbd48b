"""Timers of an event loop, many at once.

Knows asyncio's loops. Must not know what is done when time is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

TICK_S = 0.01
"""They call back up to so much late."""


class Timers:
    """Calls back after some time: many at once, since a timer for each takes longer than its use.

    A timer is not taken back: whoever is called looks whether it still matters, and may be called
    once more.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: dict[int, deque[Callable[[], None]]] = {}

    def set(
        self, loop: asyncio.AbstractEventLoop, after_s: float, callback: Callable[[], None]
    ) -> None:
        tick = int((loop.time() + after_s) / TICK_S) + 1
        due = self._due.get(tick)
        if due is None:
            loop.call_at(tick * TICK_S, self._fire, loop, tick)
            due = self._due[tick] = deque()
        due.append(callback)

    def _fire(self, loop: asyncio.AbstractEventLoop, tick: int) -> None:
        """Call back all that are due, those too that an interrupted one has left."""
        try:
            for earlier in [each for each in self._due if each <= tick]:
                due = self._due[earlier]
                while due:
                    due[0]()
                    due.popleft()
                self._due.pop(earlier)
        except BaseException:
            loop.call_soon(self._fire, loop, tick)
            raise
