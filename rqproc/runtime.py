"""What code needs of the machine: clocks, locks, threads, wake-ups, and what a forked child does.

Knows the machine. Must not know what anyone waits for. Clients and nodes reach it through their
connector, so that there can be another one under the very same code: the test kit has one whose
time stands still until it is told to pass.
"""

from __future__ import annotations

import os
import queue
import random
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from rqproc.locks import Latch, Lock

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

Clock = Callable[[], float]

Chance = Callable[[], float]
"""Gives numbers from 0 up to 1."""

suspend_proof: Clock = time.monotonic
"""Return seconds since some moment before this process began, the time asleep included.

For what is good for a while only, as a lease is. ``time.monotonic`` stands still during suspend on
Linux, so a laptop or VM that wakes would find its leases and its entries young. CLOCK_BOOTTIME does
not (clock_gettime(2)); elsewhere ``time.monotonic`` is the best.
"""

if hasattr(time, "CLOCK_BOOTTIME"):
    # No function of ours around it: a node looks at it many times for each request.
    suspend_proof = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


GREEN = ("gevent", "eventlet")


def patched_by(*makers: object) -> str:
    """Return which of ``GREEN`` has put its own in the place of Python's locks or sockets, or of
    these; "" for none.
    """
    for maker in makers or (threading.Lock, socket.socket):
        name = str(getattr(maker, "__module__", "")).partition(".")[0]
        if name in GREEN:
            return name
    return ""


class ThreadEvent(Protocol):
    def set(self) -> None: ...
    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class Queue(Protocol[T]):
    def put(self, item: T) -> None: ...
    def get(self, *, timeout: float | None = None) -> T:
        """Wait for an item. Raises: queue.Empty: there was none in time."""


class Thread(Protocol):
    def start(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


DRAINED_BYTES = 4096


class Readable(Protocol):
    """What has a file that becomes readable, as a connection has."""

    def fileno(self) -> int: ...


class _SelectPoll:
    """``select.poll`` where there is none: eventlet takes it away."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    def register(self, file: int, events: int) -> None:
        self._events[file] = events

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        reads = [file for file, events in self._events.items() if events & select.POLLIN]
        writes = [file for file, events in self._events.items() if events & select.POLLOUT]
        readable, writable, _ = select.select(reads, writes, (), timeout_ms / 1000)
        return [(file, self._events[file]) for file in (*readable, *writable)]


def _poll() -> Any:
    return select.poll() if hasattr(select, "poll") else _SelectPoll()


def wait_for_file(file: int, timeout_s: float, *, writable: bool = False) -> bool:
    """Wait for a file to be readable, or ``writable``; return whether it is.

    Where gevent or eventlet has patched Python, other greenlets run meanwhile.
    """
    poll = _poll()
    poll.register(file, select.POLLOUT if writable else select.POLLIN)
    return bool(poll.poll(ceil(timeout_s * 1000)))


class Waker:
    """Wakes a thread that is blocked in ``poll``; wake-ups that are pending coalesce.

    Woken from any thread; one thread waits for ``fileno`` to be readable.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._woken = False
        # Reentrant: a signal handler may wake in the very thread that clears.
        self._lock = threading.RLock()
        renew_after_fork(self)

    def forget_parent(self) -> None:
        """In a forked child: what would be woken is its parent."""
        self._lock = threading.RLock()  # a thread that is not here may have held the other
        self.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        with self._lock:
            if not self._woken and self._reader.fileno() >= 0:
                self._writer.send(b"\0")
                self._woken = True  # last: whoever wakes may be interrupted

    def clear(self) -> None:
        """Take the wake-up back: what it was for is looked at after this."""
        with self._lock, suppress(BlockingIOError):
            self._woken = False
            # All that is there, whoever wrote it: else the next wait ends at once, for ever.
            found = DRAINED_BYTES
            while found == DRAINED_BYTES:
                found = len(self._reader.recv(DRAINED_BYTES))

    def wait(self, timeout_s: float) -> None:
        """Wait to be woken, for so many seconds at the most."""
        if wait_for_file(self.fileno(), timeout_s):
            self.clear()

    def close(self) -> None:
        """To wake it afterwards does nothing."""
        with self._lock:
            self._reader.close()
            self._writer.close()


class Poller:
    """Waits for a connection to be readable, or to be woken."""

    def __init__(self, connection: Readable, waker: Waker | None = None) -> None:
        self._waker = waker
        self._file = connection.fileno()
        self._poll = _poll()
        self._poll.register(self._file, select.POLLIN)
        if waker:
            self._poll.register(waker.fileno(), select.POLLIN)

    def wait(self, timeout_s: float) -> tuple[bool, bool]:
        """Return whether it was woken, which is cleared, and whether there is to be read."""
        ready = self._poll.poll(timeout_s * 1000)
        if not ready:
            return False, False
        woken = readable = False
        for file, _ in ready:
            if file == self._file:
                readable = True
            else:
                woken = True
        if woken and self._waker:
            self._waker.clear()
        return woken, readable


class Runtime:
    """The machine's own.

    Attributes:
        now: seconds since 1970, for people and other systems.
        monotonic: seconds, for what is waited for.
        suspend_proof: seconds, for what is good for a while only; see there.
        sleep: does nothing for some seconds.
        chance: a number from 0 to 1, for pauses that should not fall together.
    """

    now: Clock = staticmethod(time.time)
    monotonic: Clock = staticmethod(time.monotonic)
    suspend_proof: Clock = staticmethod(suspend_proof)
    # What gevent and eventlet patch is looked up when it is used: they may come after us.
    sleep: Callable[[float], None] = staticmethod(lambda seconds: time.sleep(seconds))
    chance: Chance = staticmethod(random.random)

    def lock(self) -> Lock:
        """One that threads wait for each other with. What is held for microseconds needs none."""
        return threading.Lock()

    def event(self) -> ThreadEvent:
        return Latch()

    def queue(self) -> Queue[Any]:
        return queue.SimpleQueue()

    def thread(self, work: Callable[[], None], *, name: str) -> Thread:
        """One that does not keep the process from ending; it is still to be started."""
        return threading.Thread(target=work, name=name, daemon=True)

    def threads(self, most: int, *, name: str) -> Executor:
        return ThreadPoolExecutor(most, thread_name_prefix=name)

    def wait(self, future: Future[Any], timeout_s: float) -> bool:
        """Wait for a future; return whether it is done."""
        return bool(wait([future], timeout_s).done)

    def event_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio  # takes a while, and few need it

        return asyncio.new_event_loop()

    def waker(self) -> Waker:
        return Waker()

    def poller(self, connection: Readable, waker: Waker | None = None) -> Poller:
        return Poller(connection, waker)


MACHINE = Runtime()


def resolve(found: Future[T], work: Callable[[], T]) -> None:
    """Give a future what comes of some work, be it an error."""
    try:
        found.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
        found.set_exception(error)


class Inherited(Protocol):
    """What a forked child must not go on with as it is: threads, locks and sockets in it are the
    parent's.
    """

    def forget_parent(self) -> None: ...


_inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


def renew_after_fork(thing: Inherited) -> None:
    """Have a thing's ``forget_parent`` called in each forked child, as long as it lives."""
    _inherited.add(thing)


class Once(Generic[T]):
    """A thing that is made at its first use: one, however many threads come at once.

    Who comes while it is being made waits for it. What fails is tried again by who comes next. A
    forked child has what its parent has made.

    Attributes:
        made: the thing; None before its first use.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self.made: T | None = None
        self.forget_parent()
        renew_after_fork(self)

    def __call__(self) -> T:
        """Return it. Raises: what making it raises."""
        if self.made is None:
            with self._making:
                if self.made is None:
                    made = self._make()
                    self.made = self.made or made  # a signal's handler may have been here
        return self.made

    def forget_parent(self) -> None:
        """In a forked child: a thread that is not here may have held the lock."""
        self._making = threading.RLock()


def after_fork(renew: Callable[[], None]) -> None:
    """Have each forked child do something at once."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


def _renew_all() -> None:
    for thing in list(_inherited):
        thing.forget_parent()


after_fork(_renew_all)
