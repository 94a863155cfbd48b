"""Which threads take part in a simulation, in which group, and what happens at which moment.

Knows nothing but their state: see ``simulation`` for what becomes of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ended(BaseException):
    """This thread's part is over: its node was killed, or the cluster is gone."""


class Group:
    """Threads that are stopped and killed together, as those of a process are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.dead = False
        self._deferred: list[Participant] = []

    def defer(self, participant: Participant) -> None:
        self._deferred.append(participant)

    def deferred(self) -> list[Participant]:
        found, self._deferred = self._deferred, []
        return found


class Participant:
    """A thread that runs only when the simulation lets it."""

    def __init__(self, group: Group, *, guest: bool) -> None:
        self.group = group
        self.guest = guest
        self.thread: threading.Thread | None = None
        self.go = threading.Semaphore(0)
        self.parked = False
        self.woken = False
        self.ended = False
        self.over = False
        self.turn = 0


class Timer:
    """Something that happens at a moment, unless it is taken back."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None
