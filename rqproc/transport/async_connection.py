"""``Connection`` over an event loop: what comes is handed on as it comes.

Knows event loops, sockets and RESP. Must not know functions, keys or what the commands mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis.asyncio
from redis.asyncio.connection import Connection as TcpConnection
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from rqproc.transport.connection import INTERRUPTED, Command, ConnectionLost, Refused, pack
from rqproc.transport.connector import HELLO, PING, Connector, check_server, too_old, why

Heard = Callable[[list[Any]], None]
Lost = Callable[[Exception], None]


class AsyncConnection(asyncio.Protocol):
    """One connection, for one event loop. It takes the socket over from redis-py's streams.

    It is to be aborted in the end, also if it was never open: ``open`` may be interrupted.
    """

    def __init__(self) -> None:
        self._opened: Any = None
        self._writer: Any = None  # closes its socket when it is collected
        self._begin()

    def _begin(self) -> None:
        self._parser = hiredis.Reader()
        self._early: list[Any] = []
        self._came: asyncio.Event = asyncio.Event()
        self._taking = False
        self._lost_for: Exception | None = None
        self._heard: Heard = self._keep
        self._lost: Lost | None = None

    async def open(self, way: Connector, timeout_s: float, *, pushes: bool = False) -> None:
        """Connect, once. Raises: as ``Connector.connect``."""
        began = time.monotonic()
        try:
            await self._open(way, timeout_s, pushes)
        except ConnectionLost as error:
            if way.revive is None:
                raise
            lost = error
        else:
            return
        self.abort()
        left_s = await asyncio.to_thread(way.revived, lost, began=began, timeout_s=timeout_s)
        await self._open(way, left_s, pushes)

    async def _open(self, way: Connector, timeout_s: float, pushes: bool) -> None:
        began = time.monotonic()
        options = (
            await asyncio.to_thread(way.options, timeout_s) if way.asks else way.options(timeout_s)
        )
        kind = SSLConnection if way.secure else TcpConnection
        self._opened = (UnixDomainSocketConnection if "path" in options else kind)(**options)
        try:
            await self._opened.connect()
        except (redis.RedisError, OSError) as error:
            raise why(error, spent_s=time.monotonic() - began) from error
        self._take_over()
        try:
            # What accepts may not answer.
            (about,) = await self.exchange((HELLO if pushes else PING,), timeout_s)
        except Refused as error:
            if pushes and "unknown command" in error.reason:
                raise too_old(way.server, "before 6.0") from error
            raise
        except ConnectionLost as error:
            error.spent_s = time.monotonic() - began
            raise
        if pushes:
            check_server(way.server, about)

    def _take_over(self) -> None:
        self._begin()
        self._writer = self._opened._writer
        transport = self._writer.transport
        transport.set_protocol(self)
        if not transport.is_reading():  # a stream that was full has paused it
            transport.resume_reading()
        self._opened._reader = self._opened._writer = None

    # --- what the event loop calls ---

    def data_received(self, data: bytes) -> None:
        if self._taking:  # the last time was interrupted: what had come is lost
            self._fail(ConnectionLost(INTERRUPTED))
            return
        self._taking = True
        try:
            self._take(data)
        except BaseException:
            self._fail(ConnectionLost(INTERRUPTED))
            raise
        self._taking = False

    def _take(self, data: bytes) -> None:
        self._parser.feed(data)
        found = []
        try:
            while (reply := self._parser.gets()) is not False:
                found.append(reply)
        except hiredis.ProtocolError as error:
            self._fail(ConnectionLost(f"what answers is no Redis: {error}"))
            return
        if found:
            self._heard(found)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionLost(str(exc or "the server closed the connection")))

    # --- what its user calls ---

    def hear(self, heard: Heard, lost: Lost) -> None:
        """From now on hand on what comes, and tell why nothing comes any more."""
        self._heard, self._lost = heard, lost
        early, self._early = self._early, []
        if early:
            heard(early)
        if self._lost_for:
            lost(self._lost_for)

    def write(self, commands: Sequence[Command]) -> None:
        """Send commands in one packet."""
        self._writer.transport.write(pack(commands))

    async def listen(self, channels: Sequence[str], *, timeout_s: float) -> None:
        """Have what is published on channels pushed here. Raises: ConnectionLost, Refused."""
        self.write((("SUBSCRIBE", *channels),))
        await self._replies(len(channels), timeout_s)

    async def exchange(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send commands and return their replies. Raises: ConnectionLost, Refused."""
        self.write(commands)
        return await self._replies(len(commands), timeout_s)

    @property
    def lost_for(self) -> Exception | None:
        """Why nothing comes any more, be it that its user was not told; None as long as it may."""
        if self._lost_for is None and self._writer.transport.is_closing():
            return ConnectionLost("it is closed")
        return self._lost_for

    def abort(self) -> None:
        """Close at once: the goodbye of TLS would outlast the event loop."""
        self._lost = None
        opened = self._opened
        if writer := self._writer or (opened and opened._writer):
            writer.transport.abort()
            writer.transport.set_protocol(asyncio.Protocol())  # its end is told to nobody
        if opened:
            opened._reader = opened._writer = None

    # --- inside ---

    async def _replies(self, count: int, timeout_s: float) -> list[Any]:
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._early) < count and self._lost_for is None:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError as error:
            raise ConnectionLost("it does not answer", spent_s=timeout_s) from error
        found, self._early = self._early[:count], self._early[count:]
        if refused := next((r for r in found if isinstance(r, Exception)), None):
            raise Refused(str(refused))
        if len(found) < count:
            assert self._lost_for
            raise self._lost_for
        return found

    def _keep(self, found: list[Any]) -> None:
        self._early += found
        self._came.set()

    def _fail(self, error: Exception) -> None:
        """Tell its user, once more where that was interrupted: it then ``abort``s."""
        self._lost_for = self._lost_for or error
        self._came.set()
        if self._lost:
            self._lost(error)
