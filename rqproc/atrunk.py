"""The asyncio driver of requests: two connections that all tasks of a client share.

Knows tasks, futures and links. Must not know what is being said: see ``switchboard``.

While anyone waits for an answer a task reads for all; it sends what waits to be sent and a blocking
read in one packet. What comes up while that is at the server goes out on the other connection. A
packet carries whatever all tasks have asked for until the event loop came around to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from rqproc.alink import AsyncLink, connect
from rqproc.cluster import Cluster
from rqproc.conversation import NUDGE_S, REPLY_GRACE_S, Look, Pause, Request
from rqproc.drive import adrive
from rqproc.link import CONNECT_TIMEOUT_S, Dial, LinkLost, Refused
from rqproc.packets import Seat
from rqproc.switchboard import TOLD, Switchboard
from rqproc.wanted import Wanted

TICK_S = 0.01
"""Alarms ring up to so much late."""


class AsyncTrunk:
    """What the requests of a client go over, in one event loop at a time."""

    def __init__(self, dial: Dial, cluster: Cluster) -> None:
        self._dial = dial
        self._cluster = cluster
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: AsyncGenerator[None, None] | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._alarms = Alarms()
        self._board = Switchboard(self._cluster)
        self._reader: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._pull: AsyncLink | None = None
        self._push: AsyncLink | None = None
        self._closing = False

    async def ask(self, wanted: Wanted, talk: Request) -> None:
        """Carry out a conversation about these calls. Raises: what it raises."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # an earlier loop, and its connections, have ended
            self._loop = loop
            self._begin_anew()
            self._end = self._closed_at_the_end()
            await anext(self._end)
        seat = _AsyncSeat(self._board.sit(wanted, _nobody), self._board, loop, self._alarms)

        def do(step: Look | Pause) -> Awaitable[None]:
            if isinstance(step, Pause):
                return asyncio.sleep(step.seconds)
            self._board.post(seat.seat, step.demands, wait_s=step.wait_s, grace_s=step.grace_s)
            self._get_going()
            return seat.look(step)

        try:
            await adrive(talk, do, failures=(LinkLost, Refused))
        finally:
            self._board.leave(seat.seat)
            seat.end()
            if self._closing:
                await self.close()

    async def _closed_at_the_end(self) -> AsyncGenerator[None, None]:
        """``asyncio.run`` ends by closing the loop's asynchronous generators: this is one."""
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connections, as soon as nobody needs them any more."""
        if self._loop is not asyncio.get_running_loop():
            return
        self._closing = bool(self._board.seats)
        if self._closing:
            return
        push = self._push if self._sender is None else None
        if push:
            self._push = None
        tasks = [task for task in (self._reader, self._sender) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._say_goodbye(push)
        await self._hang_up()

    async def _say_goodbye(self, link: AsyncLink | None) -> None:
        """Over a connection that nobody reads on."""
        with suppress(*TOLD):  # the box expires by itself
            if goodbye := self._board.goodbye():
                link = link or await self._connect(1.0)
                await link.exchange_within((goodbye,), 1.0)
        if link:
            await link.close()

    # --- the two tasks ---

    def _get_going(self) -> None:
        if self._reader is None:
            self._reader = self._start(self._read())
        elif self._sender is None and self._board.outbox:
            self._sender = self._start(self._send())

    @staticmethod
    def _start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    async def _read(self) -> None:
        """Read while anyone waits."""
        try:
            # Who has asked since a failure was told counts on this one.
            while self._board.seats and (await self._exchange_as_reader() or self._board.outbox):
                await asyncio.sleep(0)  # who has been answered may have gone, or asked again
        finally:
            self._reader = None

    async def _send(self) -> None:
        """Send until there is nothing left to be sent."""
        try:
            while self._board.outbox and self._reader and not self._board.first:
                await self._exchange_as_sender()
        finally:
            self._sender = None

    async def _exchange_as_reader(self) -> bool:
        """Return whether it went well; else whoever asks again has another one read."""
        board = self._board
        generation = board.generation
        try:
            if self._pull is None:
                self._pull = await self._connect(board.grace_s)
            link = self._pull
            if first := board.first:
                await link.exchange_within(first, REPLY_GRACE_S)
                board.said(len(first))
            if link is not self._pull:
                return True  # the other connection was lost, and this one let go of
            generation, packet = board.generation, board.compose()
            wait_s = min(NUDGE_S, packet.wait_s)
            commands = (*packet.commands, board.read(wait_s))
            replies = await link.exchange_within(commands, wait_s + REPLY_GRACE_S)
            board.heard(packet, replies[:-1])
            board.take_in(replies[-1])
        except TOLD as error:
            await self._break(error, generation)
            return False
        except BaseException:
            await self._break(LinkLost("interrupted"), generation)
            raise
        return True

    async def _exchange_as_sender(self) -> None:
        board = self._board
        generation = board.generation
        try:
            if self._push is None:
                self._push = await self._connect(board.grace_s)
            if board.first or not board.outbox:
                return
            generation, packet = board.generation, board.compose()
            replies = await self._push.exchange_within(packet.commands, packet.grace_s)
            board.heard(packet, replies)
        except TOLD as error:
            await self._break(error, generation)
        except BaseException:
            await self._break(LinkLost("interrupted"), generation)
            raise

    async def _connect(self, within_s: float) -> AsyncLink:
        return await connect(self._dial, min(CONNECT_TIMEOUT_S, within_s))

    async def _break(self, error: Exception, generation: int) -> None:
        """Begin anew: tell everyone, and let go of both connections."""
        if self._board.generation != generation:
            return  # it has been told: this is the other connection's end
        self._board.broken(error)
        await self._hang_up()

    async def _hang_up(self) -> None:
        links, self._pull, self._push = (self._pull, self._push), None, None
        for link in links:
            if link:
                await link.close()


def _nobody() -> None:
    """Wakes nobody: who waits is not known yet."""


class _AsyncSeat:
    """A task's place at the switchboard, and what it awaits there."""

    __slots__ = ("_alarms", "_awaited", "_board", "_loop", "_step", "seat")

    def __init__(
        self, seat: Seat, board: Switchboard, loop: asyncio.AbstractEventLoop, alarms: Alarms
    ) -> None:
        self.seat = seat
        seat.wake = self.wake
        self._board = board
        self._loop = loop
        self._alarms = alarms
        self._awaited: asyncio.Future[None] | None = None
        self._step: Look | None = None

    def look(self, step: Look) -> asyncio.Future[None]:
        """Return what is done as soon as there is something for this one, or its time is over."""
        self._awaited = awaited = self._loop.create_future()
        if self.seat.news or self.seat.error:
            self.wake()
        else:
            self._step = step
            self._alarms.set(self._loop, step.wait_s, partial(self._ring, awaited))
        return awaited

    def wake(self) -> None:
        """There is something: answers, or an error."""
        if self._awaited is None or self._awaited.done():
            return
        try:
            self.seat.fetch()
        except TOLD as error:
            self._awaited.set_exception(error)
        else:
            self._awaited.set_result(None)

    def end(self) -> None:
        """Its alarm may be set for a while yet: it must not keep the answers so long."""
        self.seat.wake = _nobody
        self._awaited = self._step = None
        del self.seat

    def _ring(self, awaited: asyncio.Future[None]) -> None:
        """Time is over, if this is still awaited: for too long it could perhaps not be sent."""
        step = self._step
        if awaited is not self._awaited or step is None or awaited.done():
            return
        if step.wait_s >= step.grace_s and self._board.recall(self.seat):
            awaited.set_exception(LinkLost("it does not answer", spent_s=step.wait_s))
        else:
            awaited.set_result(None)


class Alarms:
    """Calls back after some time: many at once, since a timer for each takes longer than its use.

    An alarm is not taken back: whoever is called looks whether it still matters.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: dict[int, list[Callable[[], None]]] = {}

    def set(
        self, loop: asyncio.AbstractEventLoop, after_s: float, ring: Callable[[], None]
    ) -> None:
        tick = int((loop.time() + after_s) / TICK_S) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = []
            loop.call_at(tick * TICK_S, self._ring, tick)
        due.append(ring)

    def _ring(self, tick: int) -> None:
        for ring in self._due.pop(tick):
            ring()
