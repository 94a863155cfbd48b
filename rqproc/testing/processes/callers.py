"""Calls that go on beside a test, on threads, and the ways to wait for their ends.

Knows threads and event loops. Must not know what is called.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress


class Callers:
    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._ended = threading.Condition()
        self._tell: set[Callable[[], object]] = set()

    def start(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(work,), name="rqproc-caller", daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        thread.start()
        return thread

    def join(self, within_s: float) -> None:
        """Wait for the ends of all; those that take longer end by themselves."""
        until = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def wait(self, is_done: Callable[[], bool], within_s: float) -> bool:
        """Wait until a call has ended; return whether it has."""
        with self._ended:
            return self._ended.wait_for(is_done, within_s)

    async def awaited(self, is_done: Callable[[], bool]) -> None:
        """Wait until a call has ended, in an event loop."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(ended.set)

        self._tell.add(tell)
        try:
            while not is_done():
                await ended.wait()
                ended.clear()
        finally:
            self._tell.discard(tell)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._ended:
                self._ended.notify_all()
            for tell in list(self._tell):
                tell()
