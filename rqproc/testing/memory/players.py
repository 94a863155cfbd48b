"""Who plays by the baton, in which group, and what happens at which moment.

Knows nothing but their state: see ``baton`` for what becomes of it.
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
        self._deferred: list[Player] = []

    def defer(self, player: Player) -> None:
        self._deferred.append(player)

    def deferred(self) -> list[Player]:
        found, self._deferred = self._deferred, []
        return found


class Player:
    """A thread that plays by the baton."""

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


class Alarm:
    """Something that happens at a moment, unless it is taken back."""

    __slots__ = ("ring",)

    def __init__(self, ring: Callable[[], None]) -> None:
        self.ring: Callable[[], None] | None = ring

    def cancel(self) -> None:
        self.ring = None
