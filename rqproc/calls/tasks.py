"""The asyncio driver of calls: one connection that all tasks of a client share.

Knows tasks, futures and connections. Must not know what is being said: see ``multiplexer``.

Whatever all tasks have asked for until the event loop comes around to it goes out in one packet.
What comes is taken in by the loop itself, without a task in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from rqproc.calls.call import Call
from rqproc.calls.drive import adrive
from rqproc.calls.multiplexer import TOLD, Multiplexer, ReplyHandler
from rqproc.calls.retry import GRACE_S, NUDGE_S, SHORTEST_S, Look, Pause, first_look, persevere
from rqproc.protocol.commands import Commands
from rqproc.transport.async_connection import AsyncConnection, connect
from rqproc.transport.connection import Command, ConnectionLost, Refused
from rqproc.transport.connector import CONNECT_TIMEOUT_S, Connector

TICK_S = 0.01
"""Timers call back up to so much late."""


class Tasks:
    """What the requests of a client go over, in one event loop; see ``loops``."""

    def __init__(
        self, connector: Connector, commands: Commands, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.loop = loop
        self._connector = connector
        self._core = Multiplexer(commands)
        self._timers = Timers()
        self._connection: AsyncConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._outbox: dict[Call, Look] = {}
        self._flushing = False
        self._silent_since = self._heard_at = 0.0
        self._closing = False
        self._ending: asyncio.Task[None] | None = None
        self._end: AsyncGenerator[None, None] | None = None

    async def ask(self, call: Call) -> None:
        """Have a call answered, as far as there are answers by its deadline.

        Raises:
            RedisUnavailable.
        """
        if self._end is None:
            self._end = self._closed_at_the_end()
            await anext(self._end)
        began = self.loop.time()
        core, error = self._core, None
        core.calls[call] = None
        try:
            try:
                await self._look(call, first_look(call))
            except (ConnectionLost, Refused) as failure:
                error = failure
            if call.left:
                await self._persevere(call, error, began)
        finally:
            core.leave(call)
            call.wake = None
            if self._closing:
                await self.close()

    async def _persevere(
        self, call: Call, error: ConnectionLost | Refused | None, began: float
    ) -> None:
        steps = persevere(
            call, error, began=began, server=self._connector.server, clock=self.loop.time,
            chance=self._connector.runtime.chance,
        )  # fmt: skip
        await adrive(steps, partial(self._step, call), failures=(ConnectionLost, Refused))

    def _step(self, call: Call, step: Look | Pause) -> Awaitable[None]:
        if isinstance(step, Pause):
            return self._pause(call, step)
        return self._look(call, step)

    async def _pause(self, call: Call, pause: Pause) -> None:
        await asyncio.sleep(pause.seconds)
        call.error = None  # of what others have tried meanwhile

    async def _closed_at_the_end(self) -> AsyncGenerator[None, None]:
        """``asyncio.run`` ends by closing the loop's asynchronous generators: this is one."""
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connection, as soon as nobody needs it any more."""
        self._closing = bool(self._core.calls)
        if self._closing:
            return
        if self._connecting:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        connection, self._connection = self._connection, None
        self._core.expected = deque()
        goodbye = self._core.goodbye()
        if connection:
            if goodbye:
                connection.write(goodbye)
            connection.abort()
            await asyncio.sleep(0)

    def close_from_elsewhere(self) -> None:
        """Have the loop do so, from another thread or loop."""
        with suppress(RuntimeError):  # it is closed, and so is what it had
            self.loop.call_soon_threadsafe(self._begin_to_close)

    def _begin_to_close(self) -> None:
        self._ending = self.loop.create_task(self.close())

    # --- one look ---

    def _look(self, call: Call, look: Look) -> asyncio.Future[None]:
        """Send what is to be sent.

        Returns what is done when all answers are there or time is over.
        """
        loop = self.loop
        awaited = loop.create_future()
        call.wake = partial(_wake, call, awaited)
        if call.error is not None:  # it came when the look before this one was over already
            call.wake()
            return awaited
        if look.send or not (call.names or call.groups):
            self._outbox[call] = look  # in the place of an earlier one that is still there
            if not self._flushing:
                self._flushing = True
                loop.call_soon(self._flush)
        self._timers.set(loop, look.wait_s, partial(self._fire, call, look, awaited))
        return awaited

    def _fire(self, call: Call, look: Look, awaited: asyncio.Future[None]) -> None:
        """Time is over, if this is still awaited."""
        if awaited.done():
            return
        core, loop = self._core, self.loop
        silent_s = loop.time() - self._silent_since
        unsent = call in self._outbox and not self._connecting  # which ends by itself, and is told
        if unsent and look.wait_s >= look.grace_s:
            del self._outbox[call]
            awaited.set_exception(ConnectionLost("it does not answer", spent_s=look.wait_s))
        elif core.expected and silent_s >= look.grace_s and self._connection:
            unheard_s = loop.time() - self._heard_at
            spent_s = min(unheard_s, silent_s + NUDGE_S)  # it was perhaps gone before it was asked
            self._broken(self._connection, ConnectionLost("it does not answer", spent_s=spent_s))
        if not awaited.done():
            awaited.set_result(None)

    def _flush(self, *, late: bool = False) -> None:
        """Send all that waits to be sent, in one packet; ``late``: it took a while to connect."""
        self._flushing = False
        connection = self._connection
        if connection is None:
            if self._connecting is None and self._outbox:
                self._connecting = asyncio.create_task(self._connect())
            return
        core, now = self._core, self.loop.time()
        if not core.expected:
            self._silent_since = now
        commands: list[Command] = core.housekeeping() if core.has_more else []
        commands += self._outgoing(now, late)
        if commands:
            connection.write(commands)

    def _outgoing(self, now: float, late: bool) -> list[Command]:
        """Empty the outbox."""
        core, commands = self._core, []
        outbox, self._outbox = self._outbox, {}
        opening: dict[float, list[Call]] = {}
        for call, look in outbox.items():
            if call not in core.calls:
                continue  # it has gone
            if look.send:
                left_s = max(SHORTEST_S, call.deadline - now)
                commands += core.compose_again(call, left_s, withdraw=look.withdraw)
            else:
                opening.setdefault(call.timeout_s, []).append(call)
        for some in opening.values():
            left_s = max(SHORTEST_S, min(call.deadline for call in some) - now)
            commands += core.compose_new(some, left_s if late else None)
        return commands

    # --- the connection ---

    async def _connect(self) -> None:
        core = self._core
        looks = self._outbox.values()
        within_s = min(
            (max(look.wait_s, look.grace_s) for look in looks), default=CONNECT_TIMEOUT_S
        )
        try:
            connection = await connect(
                self._connector, min(CONNECT_TIMEOUT_S, within_s), pushes=True
            )
            try:
                await connection.listen(core.channels(), timeout_s=GRACE_S)
            except BaseException:
                connection.abort()
                raise
            expected = core.expected
            self._connection = connection  # first: it may be lost by now, and is told so
            connection.hear(
                partial(self._heard, connection, expected), partial(self._broken, connection)
            )
        except TOLD as error:
            self._outbox.clear()
            core.broken(error)
        finally:
            self._connecting = None
        if self._outbox and not self._flushing:
            self._flush(late=True)

    def _heard(
        self, connection: AsyncConnection, expected: deque[ReplyHandler], found: list[Any]
    ) -> None:
        self._silent_since = self._heard_at = self.loop.time()
        try:
            self._core.take_in(found, expected)
        except Refused as error:
            self._broken(connection, error)
            return
        if self._core.is_urgent and not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _broken(self, connection: AsyncConnection, error: Exception) -> None:
        """Begin anew: tell everyone."""
        connection.abort()
        if connection is not self._connection:
            return  # it has been told
        self._connection = None
        self._outbox.clear()
        self._core.broken(error)


def _wake(call: Call, awaited: asyncio.Future[None]) -> None:
    """There is something: all answers, or an error."""
    if awaited.done():
        return
    if call.left and call.error is not None:
        error, call.error = call.error, None
        awaited.set_exception(error)
    else:
        awaited.set_result(None)


class Timers:
    """Calls back after some time: many at once, since a timer for each takes longer than its use.

    A timer is not taken back: whoever is called looks whether it still matters.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: dict[int, list[Callable[[], None]]] = {}

    def set(
        self, loop: asyncio.AbstractEventLoop, after_s: float, callback: Callable[[], None]
    ) -> None:
        tick = int((loop.time() + after_s) / TICK_S) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = []
            loop.call_at(tick * TICK_S, self._fire, tick)
        due.append(callback)

    def _fire(self, tick: int) -> None:
        for callback in self._due.pop(tick):
            callback()
