"""The asyncio driver of requests: two connections that all tasks of a client share.

Knows tasks, futures and links. Must not know what is being said: see ``switchboard``.

While anyone waits for an answer a task reads for all; it sends what waits to be sent and a blocking
read in one packet. What comes up while that is at the server goes out on the other connection. A
packet carries whatever all tasks have asked for until the event loop came around to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from rqproc.alink import AsyncLink, connect
from rqproc.cluster import Cluster
from rqproc.conversation import NUDGE_S, REPLY_GRACE_S, Look, Pause, Request
from rqproc.drive import adrive
from rqproc.errors import RqprocError
from rqproc.link import CONNECT_TIMEOUT_S, Dial, LinkLost, Refused
from rqproc.switchboard import Seat, Switchboard
from rqproc.wanted import Wanted

_TOLD = (LinkLost, Refused, RqprocError)
"""What every caller is told; RqprocError: of sentinels, or of the embedded server."""


class AsyncTrunk:
    """What the requests of a client go over, in one event loop at a time."""

    def __init__(self, dial: Dial, cluster: Cluster) -> None:
        self._dial = dial
        self._cluster = cluster
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
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
        turn = _Turn(loop)
        seat = self._board.sit(wanted, turn.give)

        async def do(step: Look | Pause) -> None:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                self._board.post(seat, step.demands, wait_s=step.wait_s, grace_s=step.grace_s)
                self._get_going()
                await turn.wait(step.wait_s)
                if not seat.fetch():
                    self._check_sent(seat, step)

        try:
            await adrive(talk, do, failures=(LinkLost, Refused))
        finally:
            self._board.leave(seat)
            if self._closing:
                await self.close()

    def _check_sent(self, seat: Seat, step: Look) -> None:
        """Raises: LinkLost: for too long what this one wants could not be sent."""
        if step.wait_s >= step.grace_s and self._board.recall(seat):
            raise LinkLost("it does not answer", spent_s=step.wait_s)

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
        with suppress(LinkLost, Refused, RqprocError):  # the box expires by itself
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
        except _TOLD as error:
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
        except _TOLD as error:
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


class _Turn:
    """Wakes one task, or lets it wait no longer than it wants to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None
        self._given = False

    def give(self) -> None:
        self._given = True
        if self._future and not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        if not self._given:
            self._future = self._loop.create_future()
            timer = self._loop.call_later(timeout_s, self.give)
            try:
                await self._future
            finally:
                timer.cancel()
        self._given = False
