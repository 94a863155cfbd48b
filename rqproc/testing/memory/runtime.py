"""The runtime of a cluster in memory: clocks, locks and threads in simulated time.

Knows what stands for what. Must not know clients, nodes or servers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from rqproc.locks import Lock
from rqproc.runtime import Poller, Queue, Readable, Runtime, Thread, ThreadEvent, Waker
from rqproc.testing.memory.event_loop import SimEventLoop
from rqproc.testing.memory.primitives import (
    SimEvent,
    SimLock,
    SimPoller,
    SimQueue,
    SimThread,
    SimThreads,
    SimWaker,
)
from rqproc.testing.memory.simulation import Simulation


class SimRuntime(Runtime):
    """Args: seed: of what is left to chance, so that it is the same in every run."""

    def __init__(self, simulation: Simulation, *, seed: int = 0) -> None:
        self._simulation = simulation
        # A whole number, so that what is rounded is rounded alike in every run.
        self.began = float(int(time.time()))
        self.now = lambda: self.began + simulation.now
        self.monotonic = self.suspend_proof = lambda: simulation.now
        self.sleep = simulation.sleep
        self.chance = random.Random(seed).random  # noqa: S311

    def lock(self) -> Lock:
        return SimLock(self._simulation)

    def event(self) -> ThreadEvent:
        return SimEvent(self._simulation)

    def queue(self) -> Queue[Any]:
        return SimQueue(self._simulation)

    def thread(self, work: Callable[[], object], *, name: str) -> Thread:
        return SimThread(self._simulation, work, name)

    def threads(self, most: int, *, name: str) -> Executor:
        return SimThreads(self, name)

    def wait(self, future: Future[Any], timeout_s: float) -> bool:
        done = SimEvent(self._simulation)
        future.add_done_callback(lambda _: done.set())
        return done.wait(timeout_s)

    def event_loop(self) -> asyncio.AbstractEventLoop:
        return SimEventLoop(self, self._simulation)

    def waker(self) -> Waker:
        return SimWaker(self._simulation)

    def poller(self, connection: Readable, waker: Waker | None = None) -> Poller:
        assert waker is None or isinstance(waker, SimWaker)
        return SimPoller(self._simulation, connection, waker)
