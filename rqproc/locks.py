"""Locks that nobody who is interrupted can leave taken.

Knows threads. Must not know what the locks are for.

An exception from a signal's handler, or from another thread, may come between any two instructions
of Python code: between taking a lock and the ``try`` whose end lets go of it, and in that end too.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from sys import _getframe
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from types import FrameType


T = TypeVar("T")


class Lock(Protocol):
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...


def opener(lock: Lock) -> Callable[[], None]:
    """Return what opens a lock that is taken: it wakes who waits for it, and waits for nobody."""

    def wake() -> None:
        if lock.locked():
            with suppress(RuntimeError):  # another thread has opened it just now
                lock.release()

    return wake


def has_ended(frame: FrameType) -> bool:
    """Whether a call of a function is over, whichever way it went; not for generators, which this
    would end.
    """
    try:
        frame.clear()  # of one that is being executed, in whichever thread, it is refused
    except RuntimeError:
        return False
    return True


def snapshot(shared: Collection[T]) -> list[T]:
    """Return what is in a collection that other threads add to, and take from, without a lock.

    ``list`` alone may fail: where it allocates, garbage collection may run code of Python's, and so
    another thread.
    """
    while True:
        try:
            return list(shared)
        except RuntimeError as error:
            if "during iteration" not in str(error):  # a signal's handler may raise one too
                raise


class TryLock:
    """A lock that nobody waits for, and that nobody can leave taken.

    It is held by a call of a function. When that is over without having let go, whoever comes next
    has the lock, and is told that what it guards is in an unknown state.

    Attributes:
        lost: a holder has not let go. Whoever has the lock mends what it guards, and then says so:
            ``lost = False``.
    """

    def __init__(self) -> None:
        # The last holder: its frame, None when it has let go; then who came after it. Of several
        # who come at once the first to be appended there is the next holder.
        self._last: list[Any] = [None]
        self.lost = False

    @property
    def locked(self) -> bool:
        return self._last[0] is not None

    def acquire(self) -> bool:
        """Take it for the calling function, if nobody has it."""
        mine = [_getframe(1)]
        last = self._last
        while True:
            if len(last) > 1:  # there is a later one
                last = last[1]
            elif last[0] is not None and self._is_held(last):
                return False
            else:
                last.append(mine)
                if last[1] is mine:
                    self._last = mine
                    return True

    def _is_held(self, last: list[Any]) -> bool:
        holder = last[0]
        if holder is None:
            return False
        if not has_ended(holder):
            return True
        if last[0] is not None:  # else it has let go just now, before its end
            self.lost = True
        return False

    def release(self) -> None:
        """Let go, in the function that has taken it."""
        self._last[0] = None


LATCH_LOOK_S = 1.0
"""How often one who waits looks for itself: who was to wake it may have been interrupted."""


class Latch:
    """An event that is never cleared.

    That of ``threading`` is Python code around a lock: one who is interrupted in it may leave the
    lock taken, for whoever sets the event or waits for it, and a signal's handler that sets it may
    wait for the very thread that it has interrupted.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: deque[Callable[[], None]] = deque()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for wake in snapshot(self._waiting):
            wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether it is set, at once or in ``timeout`` seconds."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        turn = threading.Lock()
        wake = opener(turn)
        self._waiting.append(wake)
        try:
            turn.acquire()
            while not self._is_set and (left_s := end - time.monotonic()) > 0:
                turn.acquire(timeout=min(left_s, LATCH_LOOK_S))
        finally:
            self._waiting.remove(wake)
        return self._is_set
