"""Where a node keeps the states of its stateful ids: at the server, behind a fencing token.

Knows the functions take_state and keep_state. Must not know what an object is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from rqproc.calls.functions import FunctionCalls
from rqproc.errors import RedisUnavailable, StateSuperseded
from rqproc.log_events import tell
from rqproc.node.held import HeldId
from rqproc.protocol.commands import Commands
from rqproc.runtime import Runtime

log = logging.getLogger("rqproc.node")

PAUSE_S = 1.0
"""Between two attempts to keep what cannot be had again."""


class ServerStates:
    """It is a ``States``. Used from any thread; what an event loop asks is done by another thread.

    Args:
        current: gives the incarnation at this moment.
        threads: those that ask for event loops.
    """

    def __init__(
        self, functions: FunctionCalls, commands: Commands, *, current: Callable[[], str],
        runtime: Runtime, threads: Callable[[], Executor],
    ) -> None:  # fmt: skip
        self._functions = functions
        self._commands = commands
        self._current = current
        self._runtime = runtime
        self._threads = threads

    @property
    def incarnation(self) -> str:
        return self._current()

    def take(self, held: HeldId, token: int) -> str:
        command = self._commands.take_state(
            held.incarnation, held.address, token=token, made=held.made
        )
        return self._commands.read_state(self._functions.run(command))

    def keep(self, held: HeldId, text: str, *, for_s: float = 0.0) -> None:
        command = self._commands.keep_state(
            held.incarnation, held.address, text, token=held.hold.token
        )
        end = self._runtime.monotonic() + for_s
        while True:
            try:
                kept = self._functions.run(command)
                break
            except RedisUnavailable as error:
                if self._runtime.monotonic() >= end:
                    raise
                tell(
                    log, "state_late", "%s: its state is not kept yet: %s", held.address, error,
                    address=held.address, error=error,
                )  # fmt: skip
                self._runtime.sleep(PAUSE_S)
        if not kept:
            raise StateSuperseded

    async def atake(self, held: HeldId, token: int) -> str:
        return await asyncio.wrap_future(self._threads().submit(self.take, held, token))

    async def akeep(self, held: HeldId, text: str, *, for_s: float = 0.0) -> None:
        await asyncio.wrap_future(self._threads().submit(self.keep, held, text, for_s=for_s))
