"""Requests from event loops to a cluster whose time stands still.

Knows the baton and event loops. Must not know what is asked.

A test's own event loop knows nothing of the cluster's time. So whoever awaits an answer there lets
the cluster play in between: as far as it goes at this moment; then all other tasks get their turn;
and only if none of that has brought the answer, time passes to what comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from rqproc.backend import Asker
from rqproc.calls.call import Call
from rqproc.testing.memory.baton import Baton
from rqproc.testing.memory.ground import StillGround
from rqproc.testing.memory.loop import StillLoop

TURNS = 3
"""How often a test's other tasks go on before time passes in the cluster."""


async def awaited(baton: Baton, is_done: Callable[[], bool]) -> None:
    """Let the cluster play until something is done, in a test's own event loop."""
    await asyncio.sleep(0)  # whoever asks at the same moment, asks before anything moves
    while not is_done():
        baton.settle()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if not is_done():
            baton.let_time_pass()


class StillAsyncAsker:
    """In the place of ``Tasks``: it asks as threads do, on a thread of the baton's."""

    def __init__(self, asker: Asker, baton: Baton, ground: StillGround) -> None:
        self._asker = asker
        self._baton = baton
        self._ground = ground

    async def ask(self, call: Call) -> None:
        threads = self._ground.threads(1, name="rqproc-ask")
        answered = threads.submit(partial(self._asker.ask, call))
        if isinstance(asyncio.get_running_loop(), StillLoop):
            await asyncio.wrap_future(answered)
        else:
            await awaited(self._baton, answered.done)
            answered.result()

    async def close(self) -> None:
        self._asker.close()
