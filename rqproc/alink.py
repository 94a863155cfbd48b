"""``Link`` over asyncio's streams.

Knows event loops, sockets and RESP. Must not know scripts, keys or what the commands mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import hiredis
import redis.asyncio
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from rqproc.link import FLOW_S, Command, Dial, LinkLost, Refused, pack, why


async def connect(way: Dial, timeout_s: float) -> AsyncLink:
    """Raises: as ``Dial.connect``."""
    try:
        return await _connect_once(way, timeout_s)
    except LinkLost:
        if way.revive is None:
            raise
    await asyncio.to_thread(way.revive)
    return await _connect_once(way, timeout_s)


async def _connect_once(way: Dial, timeout_s: float) -> AsyncLink:
    began = time.monotonic()
    options = (
        await asyncio.to_thread(way.options, timeout_s) if way.asks else way.options(timeout_s)
    )
    kind = SSLConnection if way.secure else Connection
    connection = (UnixDomainSocketConnection if "path" in options else kind)(**options)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException as error:
        await connection.disconnect(nowait=True)
        if isinstance(error, redis.RedisError | OSError):
            raise why(error, spent_s=time.monotonic() - began) from error
        raise
    link = AsyncLink(connection)
    try:
        async with asyncio.timeout(timeout_s):
            await link.exchange((("PING",),))  # what accepts may not answer
    except BaseException as error:
        await link.close()
        if isinstance(error, OSError):
            reason = str(error) or "it does not answer"
            raise LinkLost(reason, spent_s=time.monotonic() - began) from error
        raise
    return link


class AsyncLink:
    """One connection. Not for two tasks at once."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] = (
            connection._reader,
            connection._writer,
        )
        self._parser = hiredis.Reader()

    async def close(self) -> None:
        """At once: the goodbye of TLS would outlast the event loop, and nothing is on its way."""
        self._streams[1].transport.abort()
        await self._connection.disconnect(nowait=True)

    async def exchange_within(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send commands in one packet and return their replies.

        Raises:
            LinkLost, Refused: as ``Link.exchange``. The link is closed.
        """
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await self.exchange(commands, limit)
        except BaseException as error:
            await self.close()  # a reply may still be on its way
            if isinstance(error, OSError) and not isinstance(error, LinkLost):
                spent_s = timeout_s if isinstance(error, TimeoutError) else 0.0
                raise LinkLost(str(error) or "it does not answer", spent_s=spent_s) from error
            raise

    async def exchange(
        self, commands: Sequence[Command], limit: asyncio.Timeout | None = None
    ) -> list[Any]:
        """Raises: OSError, which LinkLost is too; Refused."""
        reader, writer = self._streams
        writer.write(pack(commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            try:
                reply = self._parser.gets()
            except hiredis.ProtocolError as error:
                raise LinkLost(f"what answers is no Redis: {error}") from error
            if reply is False:
                if not (chunk := await reader.read(65536)):
                    raise ConnectionResetError("the server closed the connection")
                self._parser.feed(chunk)
                if limit:  # a long reply that is late has more time as long as it flows
                    flow_until = asyncio.get_running_loop().time() + FLOW_S
                    limit.reschedule(max(limit.when() or 0.0, flow_until))
            elif isinstance(reply, hiredis.ReplyError):
                raise Refused(str(reply))
            else:
                replies.append(reply)
        return replies
