"""A TCP proxy before a server's unix socket, with a port for each who speaks through it.

One asyncio loop on a thread of its own. It knows chunks of bytes, not what they mean. A connection
of which bytes were swallowed is closed when that is over: what followed would be misread.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")

CHUNK_BYTES = 65536
CALL_WITHIN_S = 5.0

Way = Literal["requests", "replies"]


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """What a port does to the chunks that pass.

    Attributes:
        delay_s: each chunk is late by up to this.
        swallows: requests, or replies of requests that did arrive, disappear.
        cuts: how likely a reply disappears and takes its connection with it.
    """

    delay_s: float = 0.0
    swallows: frozenset[Way] = frozenset()
    cuts: float = 0.0


CLEAR = ConnectionState()


@dataclass(slots=True, eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    spoiled: bool = False

    def close(self) -> None:
        for writer in (self.client, self.server):
            with suppress(OSError, RuntimeError):
                writer.close()

    def half_close(self, way: Way) -> None:
        """One side is told that no more will come; the other way stays open."""
        writer = self.client if way == "replies" else self.server
        with suppress(OSError, RuntimeError):
            if not writer.is_closing():
                writer.write_eof()


@dataclass(eq=False)
class ProxyPort:
    """A port of the proxy. Its methods are for other threads."""

    proxy: Proxy
    name: str
    chance: random.Random
    state: ConnectionState = CLEAR
    swallowed: int = 0
    url: str = ""
    connections: set[_Connection] = field(default_factory=set)

    def set_state(self, state: ConnectionState) -> None:
        """From now on chunks fare like this; connections that have lost bytes end."""
        self.proxy.call(self._set_state(state))

    def half_close(self, way: Way) -> None:
        """Half-close every connection there is."""
        self.proxy.call(self._half_close(way))

    async def _set_state(self, state: ConnectionState) -> None:
        self.state = state
        for connection in [c for c in self.connections if c.spoiled]:
            connection.close()

    async def _half_close(self, way: Way) -> None:
        for connection in list(self.connections):
            connection.half_close(way)

    async def open(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"

    def shut(self) -> None:
        self._listening.close()
        for connection in list(self.connections):
            connection.close()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # asyncio's own callback would complain of it
            await self._pass_on(reader, client)
        client.close()

    async def _pass_on(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            replies, server = await asyncio.open_unix_connection(self.proxy.path)
        except OSError:
            return
        connection = _Connection(client, server)
        self.connections.add(connection)
        pumps = [
            asyncio.create_task(self._pump(connection, reader, server, "requests")),
            asyncio.create_task(self._pump(connection, replies, client, "replies")),
        ]
        try:
            await asyncio.wait(pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            connection.close()
            self.connections.discard(connection)

    async def _pump(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter,
        way: Way,
    ) -> None:  # fmt: skip
        with suppress(OSError, RuntimeError):
            while chunk := await source.read(CHUNK_BYTES):
                if delay_s := self.state.delay_s:
                    await asyncio.sleep(self.chance.uniform(0.0, delay_s))
                if self._lost(connection, way):
                    continue
                sink.write(chunk)
                await sink.drain()
        connection.close()

    def _lost(self, connection: _Connection, way: Way) -> bool:
        state = self.state
        cut = way == "replies" and state.cuts > 0 and self.chance.random() < state.cuts
        if way not in state.swallows and not cut and not connection.spoiled:
            return False
        self.swallowed += 1
        connection.spoiled = True
        if cut:
            connection.close()
        return True


class Proxy:
    """Ports to one server. A context; leaving it closes every connection."""

    def __init__(self, path: str, *, seed: object) -> None:
        self.path = path
        self._seed = seed
        self._ports: dict[str, ProxyPort] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.call(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def swallowed(self) -> int:
        """How many chunks have disappeared."""
        return sum(port.swallowed for port in self._ports.values())

    def port(self, name: str) -> ProxyPort:
        """Return the port of this name, opened at its first use."""
        if name not in self._ports:
            port = ProxyPort(self, name, random.Random(f"{self._seed}/{name}"))  # noqa: S311
            self.call(port.open())
            self._ports[name] = port
        return self._ports[name]

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_WITHIN_S)

    async def _end_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for port in self._ports.values():
            port.shut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
