"""A proxy before a server's unix socket: a port for each who speaks through it.

Knows asyncio's transports, and chunks of bytes. Must not know what they mean: whoever does gives a
port a judge of them.

1. Someone connects to a port; the port connects to the server.
2. Each chunk that one end sends waits until it may pass: while the port is held, and for as long as
   chunks are late.
3. What becomes of it then is up to the port's state, else to the judge.
4. When one end has gone, and what it has sent has passed, the other is closed.

While a port is held no connection breaks: the end of one side is not told to the other. What has
waited then passes, unless who sent it has gone meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

from rqproc.runtime import resolve

T = TypeVar("T")

BACKLOG = 128
CALL_WITHIN_S = 5.0

Way = Literal["requests", "replies"]
Fate = Literal["passes", "lost", "cut"]
"""``cut``: it is lost, and its connection ends."""

Judge = Callable[[Way, bytes], Fate]


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """What a port does to the chunks that pass.

    Attributes:
        delay_s: each chunk is late by up to this.
        swallows: requests, or replies of requests that did arrive, disappear. What followed on such
            a connection would be misread, so all of it disappears, and it ends with this state.
        cuts: how likely a reply disappears and takes its connection with it.
        held: nothing passes, in either direction.
    """

    delay_s: float = 0.0
    swallows: frozenset[Way] = frozenset()
    cuts: float = 0.0
    held: bool = False


CLEAR = ConnectionState()
HELD = ConnectionState(held=True)


class Port:
    """Where one speaks to the server. For the thread of its event loop alone.

    Args:
        server: path of the server's socket.
        judge: makes the judge of one connection.
        chance: a number from 0 to 1.

    Attributes:
        closed: it serves nobody any more; who was accepted just before that is let go.
        accepted: how many connections were made to it.
        lost: how many chunks have disappeared.
    """

    def __init__(
        self, server: str, *, judge: Callable[[], Judge], chance: Callable[[], float]
    ) -> None:
        self.state = CLEAR
        self.chance = chance
        self.closed = False
        self.accepted = 0
        self.lost = 0
        self._server = server
        self._judge = judge
        self._connections: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def open(self, listening: socket.socket) -> None:
        """Serve whoever connects to a socket that listens."""
        loop = asyncio.get_running_loop()
        self._serving = loop.create_task(loop.create_server(self._enter, sock=listening))

    def set_state(self, state: ConnectionState) -> None:
        """From now on chunks fare like this; connections that were swallowed from end."""
        self.state = state
        for connection in self._connections:
            if connection.spoiled:
                connection.close()
            connection.move()

    def half_close(self, way: Way) -> None:
        """Tell one side of every connection that no more will come; the other way stays open."""
        for connection in self._connections:
            (connection.client if way == "replies" else connection.server).say_end()

    async def close(self) -> None:
        """Serve nobody any more."""
        self.closed = True
        server, loop = await self._serving, asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening)
        await asyncio.sleep(0)  # a server that is closed would drop, unclosed, whom it has accepted
        server.close()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connection in self._connections:
            connection.abort()

    def _enter(self) -> asyncio.Protocol:
        self.accepted += 1
        self._connections = {known for known in self._connections if not known.ended}
        connection = _Connection(self, self._judge())
        self._connections.add(connection)
        if self.closed:
            return connection.client
        task = asyncio.get_running_loop().create_task(self._connect(connection.server))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return connection.client

    async def _connect(self, end: _End) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: end, self._server)
        except OSError as error:
            end.connection_lost(error)


class _Connection:
    """One connection; it lives while both its ends do.

    Attributes:
        spoiled: something of it was swallowed.
    """

    def __init__(self, port: Port, judge: Judge) -> None:
        self.client = _End(self)
        self.server = _End(self)
        self.spoiled = False
        self.port = port
        self._judge = judge

    @property
    def ended(self) -> bool:
        return self.client.gone and self.server.gone

    def close(self) -> None:
        self.client.close()
        self.server.close()

    def abort(self) -> None:
        """Close it, whether or not what has passed is read."""
        for end in (self.client, self.server):
            if end.transport:
                end.transport.abort()

    def move(self) -> None:
        """Let pass what may pass."""
        if self.port.state.held:
            return
        if self.client.transport and self.server.transport:
            self._pass(self.client, self.server, "requests")
            self._pass(self.server, self.client, "replies")
        if self.client.is_over or self.server.is_over:
            self.close()

    def _pass(self, source: _End, sink: _End, way: Way) -> None:
        loop = asyncio.get_running_loop()
        while source.waiting:
            due, chunk = source.waiting[0]
            if due > loop.time():
                loop.call_at(due, self.move)
                return
            source.waiting.popleft()
            fate = self._fate(way, chunk)
            if fate == "passes":
                sink.write(chunk)
                continue
            self.port.lost += 1
            if fate == "cut":
                self.close()
                return

    def _fate(self, way: Way, chunk: bytes) -> Fate:
        state = self.port.state
        self.spoiled = self.spoiled or way in state.swallows
        if self.spoiled:
            return "lost"
        if way == "replies" and self.port.chance() < state.cuts:
            return "cut"
        return self._judge(way, chunk)


class _End(asyncio.Protocol):
    """One end of a connection.

    Attributes:
        waiting: what it has sent and has not passed, each with when it may, by the loop's clock.
        gone: it has closed, or never was there.
    """

    def __init__(self, connection: _Connection) -> None:
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.gone = False
        self.transport: asyncio.Transport | None = None
        self._connection = connection
        self._said_end = False

    @property
    def is_over(self) -> bool:
        return self.gone and not self.waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._connection.port.closed:
            transport.abort()
        self._connection.move()

    def data_received(self, data: bytes) -> None:
        port = self._connection.port
        late_s = port.chance() * port.state.delay_s
        self.waiting.append((asyncio.get_running_loop().time() + late_s, data))
        self._connection.move()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if self._connection.port.state.held:
            self.waiting.clear()
        self._connection.move()

    def write(self, chunk: bytes) -> None:
        if self.transport and not self.gone and not self._said_end:
            self.transport.write(chunk)

    def say_end(self) -> None:
        if self.transport and not self.transport.is_closing():
            self._said_end = True
            with suppress(OSError):  # its peer has reset it; connection_lost() follows
                self.transport.write_eof()

    def close(self) -> None:
        """What it has sent and still waits is lost."""
        self.waiting.clear()
        if self.transport:
            self.transport.close()


class Proxy:
    """Ports of the machine's own TCP, on a thread with an event loop.

    A context; leaving it closes every connection. Its methods are for other threads.

    Args:
        server: path of the server's socket.
        seed: of the dice of each port, by its name.
        judge: of the chunks of all connections.
    """

    def __init__(self, server: str, *, seed: object = 0, judge: Judge | None = None) -> None:
        self._server = server
        self._seed = seed
        self._judge: Judge = judge or (lambda way, chunk: "passes")
        self._ports: dict[str, tuple[Port, str]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(CALL_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, name: str) -> str:
        """Return the URL of a port, opened at its first use."""
        return self._call(lambda: self._port(name)[1])

    def set_state(self, name: str, state: ConnectionState) -> None:
        """See ``Port.set_state``."""
        self._call(lambda: self._port(name)[0].set_state(state))

    def half_close(self, name: str, way: Way) -> None:
        """See ``Port.half_close``."""
        self._call(lambda: self._port(name)[0].half_close(way))

    @property
    def accepted(self) -> int:
        """How many connections were made, to all ports."""
        return sum(port.accepted for port, _ in self._ports.values())

    @property
    def lost(self) -> int:
        """How many chunks have disappeared, of all ports."""
        return sum(port.lost for port, _ in self._ports.values())

    def _call(self, work: Callable[[], T]) -> T:
        done: Future[T] = Future()
        self._loop.call_soon_threadsafe(resolve, done, work)
        return done.result(CALL_WITHIN_S)

    def _port(self, name: str) -> tuple[Port, str]:
        if name not in self._ports:
            chance = random.Random(f"{self._seed}/{name}").random  # noqa: S311
            port = Port(self._server, judge=lambda: self._judge, chance=chance)
            listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
            port.open(listening)
            self._ports[name] = port, f"redis://127.0.0.1:{listening.getsockname()[1]}"
        return self._ports[name]

    async def _close(self) -> None:
        for port, _ in self._ports.values():
            await port.close()
        accepting = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*accepting, return_exceptions=True)
        await asyncio.sleep(0)  # the ends of connections are told
