"""Locks, events, queues, threads and a waker in simulated time.

Knows the simulation. Must not know who waits for what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty
from typing import Any, TypeVar

from rqproc.runtime import Poller, Runtime, Thread, Waker
from rqproc.testing.memory.participants import Participant
from rqproc.testing.memory.simulation import Simulation

T = TypeVar("T")


class Waiters:
    """Threads that wait for one thing."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._participants: deque[Participant] = deque()

    def wait(self, until: float | None) -> bool:
        """Wait to be woken, after ``enlist``, and wait no more; return whether it was woken."""
        try:
            return self._simulation.park(until=until)
        finally:
            with self._simulation.mutex:
                self.leave()

    def enlist(self) -> None:
        self._participants.append(self._simulation.enlist())

    def wake_one(self) -> None:
        if self._participants:
            self._simulation.wake(self._participants.popleft())

    def wake_all(self) -> None:
        while self._participants:
            self.wake_one()

    def leave(self) -> None:
        """Wait no more."""
        me = self._simulation.me()
        if me in self._participants:
            self._participants.remove(me)


class SimLock:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._waiters = Waiters(simulation)
        self._taken = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        until = None if timeout < 0 else self._simulation.now + timeout
        while True:
            with self._simulation.mutex:
                if not self._taken:
                    self._taken = True
                    return True
                if not blocking or (until is not None and self._simulation.now >= until):
                    return False
                self._waiters.enlist()
            self._waiters.wait(until)

    def release(self) -> None:
        with self._simulation.mutex:
            self._taken = False
            self._waiters.wake_one()

    def locked(self) -> bool:
        return self._taken


class SimEvent:
    """Attributes: waiters: the threads that wait for it."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.waiters = Waiters(simulation)
        self._set = False

    def set(self) -> None:
        with self._simulation.mutex:
            self._set = True
            self.waiters.wake_all()

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        with self._simulation.mutex:
            if self._set:
                return True
            self.waiters.enlist()
        self.waiters.wait(None if timeout is None else self._simulation.now + max(0.0, timeout))
        return self._set


class SimQueue:
    """One thread takes what any put."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._waiters = Waiters(simulation)
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        with self._simulation.mutex:
            self._items.append(item)
            self._waiters.wake_all()

    def get(self, *, timeout: float | None = None) -> Any:
        with self._simulation.mutex:
            waits = not self._items
            if waits:
                self._waiters.enlist()
        if waits:
            self._waiters.wait(None if timeout is None else self._simulation.now + timeout)
        with self._simulation.mutex:
            if not self._items:
                raise Empty
            return self._items.popleft()


class SimThread:
    def __init__(self, simulation: Simulation, work: Callable[[], object], name: str) -> None:
        self._simulation = simulation
        self._work = work
        self._name = name
        self._over = SimEvent(simulation)
        self._participant: Participant | None = None

    def start(self) -> None:
        self._participant = self._simulation.start(self._run, name=self._name)

    def join(self, timeout: float | None = None) -> None:
        self._over.wait(timeout)

    def is_alive(self) -> bool:
        return self._participant is not None and not self._over.is_set()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._over.set()


class SimThreads(Executor):
    """An executor that gives each piece of work a thread."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
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
        thread = self._runtime.thread(work, name=self._name)
        self._threads.append(thread)
        thread.start()
        return found

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if wait:
            for thread in self._threads:
                thread.join()


class SimWaker(Waker):
    """Attributes: woken: set while a wake-up is pending."""

    def __init__(self, simulation: Simulation) -> None:
        self.woken = SimEvent(simulation)

    def wake(self) -> None:
        self.woken.set()

    def clear(self) -> None:
        self.woken.clear()

    def wait(self, timeout_s: float) -> None:
        self.woken.wait(timeout_s)
        self.clear()

    def close(self) -> None:
        """There is nothing to be given back."""


class SimPoller(Poller):
    def __init__(self, simulation: Simulation, connection: Any, waker: SimWaker | None) -> None:
        self._simulation = simulation
        self._connection = connection
        self._woken = waker.woken if waker else SimEvent(simulation)  # that nobody sets

    def wait(self, timeout_s: float) -> tuple[bool, bool]:
        sources = [self._connection.waiters, self._woken.waiters]
        with self._simulation.mutex:
            waits = not self._connection.readable and not self._woken.is_set()
            for waiters in sources if waits else ():
                waiters.enlist()
        if waits:
            self._simulation.park(until=self._simulation.now + max(0.0, timeout_s))
        with self._simulation.mutex:
            for waiters in sources:
                waiters.leave()
            woken = self._woken.is_set()
            self._woken.clear()
            return woken, self._connection.readable
