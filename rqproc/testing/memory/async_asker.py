"""Requests from event loops to a cluster whose time stands still.

Knows the simulation and event loops. Must not know what is asked.

A test's own event loop knows nothing of the cluster's time. So whoever awaits an answer there lets
the cluster run in between: as far as it goes at this moment; then all other tasks get their turn;
and only if none of that has brought the answer, time passes to what comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from rqproc.calls.call import Call
from rqproc.calls.loops import running_loop
from rqproc.connect import Asker
from rqproc.testing.memory.event_loop import SimEventLoop
from rqproc.testing.memory.runtime import SimRuntime
from rqproc.testing.memory.simulation import Simulation

T = TypeVar("T")

TURNS = 3
"""How often a test's other tasks go on before time passes in the cluster."""


async def awaited(simulation: Simulation, is_done: Callable[[], bool]) -> None:
    """Let the cluster run until something is done, in a test's own event loop."""
    await asyncio.sleep(0)  # whoever asks at the same moment, asks before anything moves
    while not is_done():
        simulation.settle()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if not is_done():
            simulation.let_time_pass()


class SimAsyncAsker:
    """In the place of ``Tasks``: it asks as threads do, on a thread of the simulation's."""

    def __init__(self, asker: Asker, simulation: Simulation, runtime: SimRuntime) -> None:
        self._asker = asker
        self._simulation = simulation
        self._runtime = runtime

    async def ask(self, call: Call) -> None:
        await self.run(partial(self._asker.ask, call))

    async def run(self, work: Callable[[], T]) -> T:
        loop, threads = running_loop(), self._runtime.threads(1, name="rqproc-ask")
        done = threads.submit(work)
        if isinstance(loop, SimEventLoop):
            return await asyncio.wrap_future(done)
        await awaited(self._simulation, done.done)
        return done.result()

    async def close(self) -> None:
        self._asker.close()
