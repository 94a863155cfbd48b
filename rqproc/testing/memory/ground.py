"""The ground of a cluster in memory: the machine's clocks, locks and threads, played by the baton.

Knows what stands for what. Must not know clients, nodes or servers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from rqproc.bell import Bell, Poll, Readable
from rqproc.ground import Event, Ground, Lock, Thread
from rqproc.testing.memory.baton import Baton
from rqproc.testing.memory.loop import StillLoop
from rqproc.testing.memory.still import (
    StillBell,
    StillEvent,
    StillLock,
    StillPoll,
    StillThread,
    StillThreads,
)


class StillGround(Ground):
    """Args: seed: of what is left to chance, so that it is the same in every run."""

    def __init__(self, baton: Baton, *, seed: int = 0) -> None:
        self._baton = baton
        # A whole number, so that what is rounded is rounded alike in every run.
        self.began = float(int(time.time()))
        self.now = lambda: self.began + baton.now
        self.monotonic = self.suspend_proof = lambda: baton.now
        self.sleep = baton.sleep
        self.chance = random.Random(seed).random  # noqa: S311

    def lock(self) -> Lock:
        return StillLock(self._baton)

    def event(self) -> Event:
        return StillEvent(self._baton)

    def thread(self, work: Callable[[], object], *, name: str) -> Thread:
        return StillThread(self._baton, work, name)

    def threads(self, most: int, *, name: str) -> Executor:
        return StillThreads(self, name)

    def wait(self, future: Future[Any], timeout_s: float) -> bool:
        done = StillEvent(self._baton)
        future.add_done_callback(lambda _: done.set())
        return done.wait(timeout_s)

    def event_loop(self) -> asyncio.AbstractEventLoop:
        return StillLoop(self, self._baton)

    def bell(self) -> Bell:
        return StillBell(self._baton)

    def poll(self, link: Readable, bell: Bell | None = None) -> Poll:
        assert bell is None or isinstance(bell, StillBell)
        return StillPoll(self._baton, link, bell)
