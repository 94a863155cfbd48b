"""The asyncio driver of calls: one connection that all tasks of a client share.

Knows tasks, futures and connections, and which calls go out together. Must not know how that is
said: see ``multiplexer``.

Whatever all tasks have asked for until the event loop comes around to it goes out in one packet.
What comes is taken in by the loop itself, without a task in between.

An exception from a signal's handler may come at any instruction, as in threads, and the loop goes
on: what was being sent or taken in is in an unknown state then, and its connection is given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from functools import partial
from typing import Any

from rqproc.calls.call import Call
from rqproc.calls.drive import adrive
from rqproc.calls.multiplexer import CALLER_ERRORS, Multiplexer, ReplyHandler
from rqproc.calls.retry import GRACE_S, NUDGE_S, SHORTEST_S, Look, Pause, first_look, persevere
from rqproc.calls.timers import Timers
from rqproc.protocol.commands import Commands
from rqproc.transport.async_connection import AsyncConnection
from rqproc.transport.connection import INTERRUPTED, Command, ConnectionLost, Refused
from rqproc.transport.connector import CONNECT_TIMEOUT_S, Connector

GONE_S = 1.0
"""So long after its deadline nobody waits for a call, even if its task ended without leaving it."""


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
        self._connecting_s = 0.0  # how long that may take
        self._outbox: dict[Call, Look] = {}
        self._sending = False
        self._tidy_above = 1  # so many calls that are waited for
        self._silent_since = 0.0  # since when the server could have said something and has not
        self._heard_at = 0.0  # when anything last came
        self._closing = False
        self._ending: asyncio.Task[None] | None = None  # held here: a loop holds no task
        self._end: AsyncGenerator[None, None] | None = None

    async def ask(self, call: Call) -> None:
        """Have a call answered, as far as there are answers by its deadline.

        Raises:
            RedisUnavailable. ConfigError: this server cannot be used: too old, for one.
        """
        if self._end is None:
            end = self._closed_at_the_end()
            await anext(end)
            self._end = end  # last: this may be interrupted
        began = self.loop.time()
        core, error = self._core, None
        core.pending.calls[call] = asyncio.current_task()
        try:
            if len(core.pending.calls) > self._tidy_above:
                self._tidy()
            try:
                await self._look(call, first_look(call))
            except (ConnectionLost, Refused) as failure:
                error = failure
            if call.left:
                await self._persevere(call, error, began)
        finally:
            core.pending.leave(call)
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
        return self._pause(call, step) if isinstance(step, Pause) else self._look(call, step)

    async def _pause(self, call: Call, pause: Pause) -> None:
        await asyncio.sleep(pause.seconds)
        call.error = None  # of what others have tried meanwhile

    async def _closed_at_the_end(self) -> AsyncGenerator[None, None]:
        """``asyncio.run`` ends by closing the loop's asynchronous generators: this is one."""
        try:
            yield
        finally:
            await self.close()

    def _tidy(self) -> None:
        """Look for tasks that were interrupted before they had left: now and then is enough."""
        gone_at = self.loop.time() - GONE_S
        for call, task in tuple(self._core.pending.calls.items()):
            if (task and task.done()) or call.deadline < gone_at:
                self._core.pending.leave(call)
        self._core.pending.tidy()
        self._tidy_above = 2 * len(self._core.pending.calls)

    async def close(self) -> None:
        """Close the connection, as soon as nobody needs it any more."""
        if self._connecting and not self._core.pending.calls:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._tidy()
        self._closing = bool(self._core.pending.calls)
        if self._closing:
            return
        if connection := self._connection:
            if goodbye := self._core.goodbye():
                connection.write(goodbye)
            connection.abort()
        self._core.expected = deque()
        self._connection = None
        await asyncio.sleep(0)

    def close_from_elsewhere(self) -> None:
        """Have the loop do so, from another thread or loop."""
        with suppress(RuntimeError):  # it is closed, and so is what it had
            self.loop.call_soon_threadsafe(self._begin_to_close)

    def _begin_to_close(self) -> None:
        self._ending = self.loop.create_task(self.close())

    # --- one look ---

    def _look(self, call: Call, look: Look) -> asyncio.Future[None]:
        """Have what is to be sent sent; return a future that ends with all answers, or when time is
        over.

        It ends with ConnectionLost or Refused where that is told meanwhile.
        """
        loop = self.loop
        awaited = loop.create_future()
        call.wake = partial(_wake, call, awaited)
        if call.error is not None:  # it came when the look before this one was over already
            call.wake()
            return awaited
        if look.again or not (call.names or call.groups):
            self._outbox[call] = look  # in the place of an earlier one that is still there
            self._flush_soon()
        self._timers.set(loop, look.wait_s, partial(self._end_look, call, look, awaited))
        return awaited

    def _end_look(self, call: Call, look: Look, awaited: asyncio.Future[None]) -> None:
        """Time is over, if this is still awaited."""
        if awaited.done():
            return
        if call not in self._outbox:
            self._check_silence(look.grace_s)
        elif not self._is_held_up(look):
            self._flush()
        else:
            self._outbox.pop(call, None)
            awaited.set_exception(ConnectionLost("it does not answer", spent_s=look.wait_s))
        if not awaited.done():
            awaited.set_result(None)

    def _is_held_up(self, look: Look) -> bool:
        """Whether an attempt to connect may take longer than one waits whose time is over; else it
        ends by itself, and tells why it has failed.
        """
        return self._connects and self._connecting_s > look.connect_s

    def _check_silence(self, grace_s: float) -> None:
        """Find the server silent for too long."""
        now = self.loop.time()
        silent_s, unheard_s = now - self._silent_since, now - self._heard_at
        if self._core.expected and silent_s >= grace_s and self._connection:
            spent_s = min(unheard_s, silent_s + NUDGE_S)  # it was perhaps gone before it was asked
            self._broken(self._connection, ConnectionLost("it does not answer", spent_s=spent_s))

    def _flush_soon(self) -> None:
        """Flush when all who ask at this moment have done so.

        One callback would be enough for all of them, if a signal's handler could not end it as it
        begins: so there are a few more, for the 1st, 2nd, 4th, 8th, ... call.
        """
        count = len(self._outbox)
        if count & (count - 1) == 0:
            self.loop.call_soon(self._flush)

    def _flush(self, *, late: bool = False) -> None:
        """Send all that waits to be sent, in one packet; ``late``: it took a while to connect."""
        try:
            connection = self._connection
            if connection and (lost := self._loss(connection)):
                self._broken(connection, lost)
                connection = None
            if connection:
                self._sending = True
                self._send(connection, late)
                self._sending = False
            elif self._outbox and not self._connects:
                self._connecting = asyncio.create_task(self._connect())
        except BaseException:
            self.loop.call_soon(self._flush)
            raise

    def _send(self, connection: AsyncConnection, late: bool) -> None:
        core, now = self._core, self.loop.time()
        if not core.expected:
            self._silent_since = now
        commands: list[Command] = core.housekeeping() if core.has_more else []
        commands += self._outgoing(now, late)
        if commands:
            connection.write(commands)

    def _loss(self, connection: AsyncConnection) -> Exception | None:
        """Return why a connection is of no use, if it is."""
        if self._sending:  # the last packet may have been composed and not sent
            return ConnectionLost(INTERRUPTED)
        return connection.lost_for

    def _outgoing(self, now: float, late: bool) -> list[Command]:
        """Empty the outbox."""
        core, commands = self._core, []
        opening: dict[float, list[Call]] = {}
        outbox, self._outbox = self._outbox, {}
        for call, look in outbox.items():
            if call not in core.pending.calls:
                continue  # it has gone
            if look.again:
                left_s = max(SHORTEST_S, call.deadline - now)
                commands += core.compose_again(call, left_s, withdraw=look.withdraw)
            else:
                opening.setdefault(call.timeout_s, []).append(call)
        for some in opening.values():
            left_s = max(SHORTEST_S, min(call.deadline for call in some) - now)
            commands += core.compose_new(some, left_s if late else None)
        return commands

    # --- the connection ---

    @property
    def _connects(self) -> bool:
        return self._connecting is not None and not self._connecting.done()

    async def _connect(self) -> None:
        try:
            await self._open()
        except CALLER_ERRORS as error:
            self._tell_all(error)
        except BaseException:
            self._tell_all(ConnectionLost(INTERRUPTED))
            raise
        finally:
            self._connecting = None
        if self._outbox:
            self._flush(late=True)

    async def _open(self) -> None:
        core, looks = self._core, self._outbox.values()
        within_s = min((CONNECT_TIMEOUT_S, *(look.connect_s for look in looks)))
        self._connecting_s = within_s
        connection = AsyncConnection()
        try:
            await connection.open(self._connector, within_s, pushes=True)
            await connection.listen(core.channels(), timeout_s=GRACE_S)
            if self._connection:  # whoever began to connect before was interrupted
                connection.abort()
                return
            heard = partial(self._heard, connection, core.expected)
            connection.hear(heard, partial(self._broken, connection))
            self._sending = False
            self._connection = connection
        except BaseException:
            connection.abort()
            raise

    def _heard(
        self, connection: AsyncConnection, expected: deque[ReplyHandler], found: list[Any]
    ) -> None:
        self._silent_since = self._heard_at = self.loop.time()
        try:
            self._core.take_in(found, expected)
        except Refused as error:
            self._broken(connection, error)
            return
        if self._core.is_urgent:
            self._flush_soon()

    def _broken(self, connection: AsyncConnection, error: Exception) -> None:
        """Give a connection up, and tell all who wait for it, unless that has been done."""
        try:
            connection.abort()
            if connection is self._connection:
                self._tell_all(error)
                self._connection = None  # last: else this is done once more
        except BaseException:
            self.loop.call_soon(self._flush)
            raise

    def _tell_all(self, error: Exception) -> None:
        """All who wait are told of a connection that has failed."""
        self._core.broken(error)
        self._outbox.clear()


def _wake(call: Call, awaited: asyncio.Future[None]) -> None:
    """There is something: all answers, or an error."""
    if awaited.done():
        return
    if call.left and call.error is not None:
        error, call.error = call.error, None
        awaited.set_exception(error)
    else:
        awaited.set_result(None)
