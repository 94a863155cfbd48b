"""Locks, events, threads and a bell that are played by the baton: what waits, waits in its time.

Knows the baton. Must not know who waits for what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from rqproc.bell import Bell, Poll
from rqproc.ground import Ground, Thread
from rqproc.testing.memory.baton import Baton
from rqproc.testing.memory.players import Player

T = TypeVar("T")


class Waiters:
    """Threads that wait for one thing."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._players: deque[Player] = deque()

    def wait(self, until: float | None) -> bool:
        """Wait to be woken, after ``enlist``, and wait no more; return whether it was woken."""
        try:
            return self._baton.park(until=until)
        finally:
            with self._baton.mutex:
                self.leave()

    def enlist(self) -> None:
        self._players.append(self._baton.enlist())

    def wake_one(self) -> None:
        if self._players:
            self._baton.wake(self._players.popleft())

    def wake_all(self) -> None:
        while self._players:
            self.wake_one()

    def leave(self) -> None:
        """Wait no more."""
        me = self._baton.me()
        if me in self._players:
            self._players.remove(me)


class StillLock:
    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._waiters = Waiters(baton)
        self._taken = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        until = None if timeout < 0 else self._baton.now + timeout
        while True:
            with self._baton.mutex:
                if not self._taken:
                    self._taken = True
                    return True
                if not blocking or (until is not None and self._baton.now >= until):
                    return False
                self._waiters.enlist()
            self._waiters.wait(until)

    def release(self) -> None:
        with self._baton.mutex:
            self._taken = False
            self._waiters.wake_one()

    def locked(self) -> bool:
        return self._taken


class StillEvent:
    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._waiters = Waiters(baton)
        self._set = False

    def set(self) -> None:
        with self._baton.mutex:
            self._set = True
            self._waiters.wake_all()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        with self._baton.mutex:
            if self._set:
                return True
            self._waiters.enlist()
        self._waiters.wait(None if timeout is None else self._baton.now + max(0.0, timeout))
        return self._set


class StillThread:
    def __init__(self, baton: Baton, work: Callable[[], object], name: str) -> None:
        self._baton = baton
        self._work = work
        self._name = name
        self._over = StillEvent(baton)
        self._player: Player | None = None

    def start(self) -> None:
        self._player = self._baton.start(self._run, name=self._name)

    def join(self, timeout: float | None = None) -> None:
        self._over.wait(timeout)

    def is_alive(self) -> bool:
        return self._player is not None and not self._over.is_set()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._over.set()


class StillThreads(Executor):
    """An executor that gives each piece of work a thread."""

    def __init__(self, ground: Ground, name: str) -> None:
        self._ground = ground
        self._name = name
        self._threads: list[Thread] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        found: Future[T] = Future()

        def work() -> None:
            try:
                found.set_result(fn(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                found.set_exception(error)

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = self._ground.thread(work, name=self._name)
        self._threads.append(thread)
        thread.start()
        return found

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if wait:
            for thread in self._threads:
                thread.join()


class StillBell(Bell):
    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self.waiters = Waiters(baton)
        self.rung = False

    def ring(self) -> None:
        with self._baton.mutex:
            self.rung = True
            self.waiters.wake_all()

    def clear(self) -> None:
        self.rung = False

    def wait(self, timeout_s: float) -> None:
        with self._baton.mutex:
            waits = not self.rung
            if waits:
                self.waiters.enlist()
        if waits:
            self.waiters.wait(self._baton.now + timeout_s)
        self.clear()

    def close(self) -> None:
        """There is nothing to be given back."""


class StillPoll(Poll):
    def __init__(self, baton: Baton, link: Any, bell: StillBell | None) -> None:
        self._baton = baton
        self._link = link
        self._still_bell = bell

    def wait(self, timeout_s: float) -> tuple[bool, bool]:
        sources = [self._link.waiters]
        if self._still_bell:
            sources.append(self._still_bell.waiters)
        with self._baton.mutex:
            waits = not self._link.readable and not (self._still_bell and self._still_bell.rung)
            for waiters in sources if waits else ():
                waiters.enlist()
        if waits:
            self._baton.park(until=self._baton.now + max(0.0, timeout_s))
        with self._baton.mutex:
            for waiters in sources:
                waiters.leave()
            rung = bool(self._still_bell and self._still_bell.rung)
            if self._still_bell:
                self._still_bell.clear()
            return rung, self._link.readable
