"""Who may go on, and who waits for whom, among threads and event loops of one process.

Knows futures and a lock. Must not know handlers, requests or clocks: a turn is a future on which
threads and tasks alike can wait, for as long as they please.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

Turn = Future[None]


class Turns:
    """Lets up to ``limit`` in at once, the others in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Turn] = deque()
        self._lock = threading.Lock()

    def ask(self) -> Turn:
        """Return a turn. It is done as soon as its owner is in, at once if there is room."""
        turn = _running()
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                turn.set_result(None)
            else:
                self._waiting.append(turn)
        return turn

    def leave(self, turn: Turn) -> None:
        """Give a turn back, or give it up: whoever is next goes in."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif self._waiting:
                self._waiting.popleft().set_result(None)
            else:
                self._free += 1


class Lanes:
    """One at a time for each key."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, tuple[Turns, list[Turn]]] = {}
        self._lock = threading.Lock()

    def ask(self, key: Hashable) -> Turn:
        with self._lock:
            lane, inside = self._lanes.setdefault(key, (Turns(1), []))
            turn = lane.ask()
            inside.append(turn)
        return turn

    def leave(self, key: Hashable, turn: Turn) -> None:
        with self._lock:
            lane, inside = self._lanes[key]
            inside.remove(turn)
            lane.leave(turn)
            if not inside:
                del self._lanes[key]


class Flights:
    """One run for each key, and everyone who asks for it meanwhile shares its end."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()

    def board(self, key: Hashable) -> tuple[Future[Any], bool]:
        """Return the run of a key as a future, and whether the caller is to begin it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = _running()
            return flight, True

    def land(self, key: Hashable, end: Any) -> None:
        """The run has ended: tell everyone."""
        with self._lock:
            flight = self._flights.pop(key)
        flight.set_result(end)


def _running() -> Future[Any]:
    """A future that those who wait for it cannot cancel."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
