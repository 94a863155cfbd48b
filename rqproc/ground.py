"""What everything else stands on: clocks, threads, and the ways to wait.

Knows the machine. Must not know what anyone waits for. Clients and nodes reach it through their
dial, so that there can be another ground under the very same code: the test kit has one whose time
stands still until it is told to pass.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Protocol

from rqproc.clock import suspend_proof

if TYPE_CHECKING:
    from rqproc.bell import Bell, Poll, Readable

Clock = Callable[[], float]


class Lock(Protocol):
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...


class Event(Protocol):
    def set(self) -> None: ...
    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class Thread(Protocol):
    def start(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


class Ground:
    """The machine's own.

    Attributes:
        now: seconds since 1970, for people and other systems.
        monotonic: seconds, for what is waited for.
        suspend_proof: seconds, for what is good for a while only; see ``clock``.
        sleep: does nothing for some seconds.
        chance: a number from 0 to 1, for pauses that should not fall together.
    """

    now: Clock = staticmethod(time.time)
    monotonic: Clock = staticmethod(time.monotonic)
    suspend_proof: Clock = staticmethod(suspend_proof)
    sleep: Callable[[float], None] = staticmethod(time.sleep)
    chance: Clock = staticmethod(random.random)

    def lock(self) -> Lock:
        """One that threads wait for each other with. What is held for microseconds needs none."""
        return threading.Lock()

    def event(self) -> Event:
        return threading.Event()

    def thread(self, work: Callable[[], None], *, name: str) -> Thread:
        """One that does not keep the process from ending; it is still to be started."""
        return threading.Thread(target=work, name=name, daemon=True)

    def threads(self, most: int, *, name: str) -> Executor:
        return ThreadPoolExecutor(most, thread_name_prefix=name)

    def wait(self, future: Future[Any], timeout_s: float) -> bool:
        """Wait for a future; return whether it is done."""
        return bool(wait([future], timeout_s).done)

    def event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def bell(self) -> Bell:
        from rqproc.bell import Bell  # it needs what only nodes and subscriptions need

        return Bell()

    def poll(self, link: Readable, bell: Bell | None = None) -> Poll:
        from rqproc.bell import Poll

        return Poll(link, bell)


MACHINE = Ground()
