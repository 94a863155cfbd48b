"""One connection between a node and the server, through a port that may be shut for a while.

Knows asyncio's transports, and enough of RESP to tell a function's reply. Must not know functions.

While its port is shut nothing passes and no connection breaks: bytes wait, and the end of one side
is not told to the other. Opened again, what has waited is delivered, unless who sent it has gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, Protocol

import hiredis

FUNCTION_CALL = b"FCALL"

_NOTHING = object()


class Asked(Enum):
    """What a reply is awaited for."""

    OTHER = auto()
    FUNCTION = auto()
    DOOMED = auto()


class Port(Protocol):
    """Attributes: shut: nothing passes; functions: how many have been carried out."""

    shut: bool
    functions: int

    def dooms(self) -> bool:
        """Whether the reply of the function that passes now is to be lost."""

    def lose_next(self) -> None:
        """That function was not carried out: the next one's is to be lost in its place."""


class Side(asyncio.Protocol):
    """One end, its bytes that still have to pass, and whether it has gone."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.waiting: deque[bytes] = deque()
        self.gone = False
        self.transport: asyncio.Transport | None = None
        self._changed = changed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._changed()

    def data_received(self, data: bytes) -> None:
        self.waiting.append(data)
        self._changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._changed()

    def close(self) -> None:
        if self.transport:
            self.transport.close()


class ProxiedConnection:
    """A connection. Attributes: client, server: its two ends; it lives while both do."""

    def __init__(self, port: Port) -> None:
        self.client = Side(self.move)
        self.server = Side(self.move)
        self._port = port
        self._requests = hiredis.Reader(notEnoughData=_NOTHING)
        self._replies = hiredis.Reader(notEnoughData=_NOTHING)
        self._asked: deque[Asked] = deque()

    @property
    def ended(self) -> bool:
        return self.client.gone and self.server.gone

    def close(self) -> None:
        self.client.close()
        self.server.close()

    def move(self) -> None:
        """Let pass what may pass."""
        if self._port.shut:
            return
        if self.client.transport and self.server.transport:
            self._deliver(self.client.transport, self.server.transport)
        if self.client.gone or self.server.gone:
            self.close()

    def _deliver(self, client: asyncio.Transport, server: asyncio.Transport) -> None:
        while self.client.waiting and not self.client.gone:
            self._request(self.client.waiting.popleft(), server)
        while self.server.waiting and self._reply(self.server.waiting.popleft(), client):
            pass

    def _request(self, chunk: bytes, server: asyncio.Transport) -> None:
        for command in _read(self._requests, chunk):
            is_function = bytes(command[0]).upper() == FUNCTION_CALL
            doomed = is_function and self._port.dooms()
            self._asked.append(
                Asked.DOOMED if doomed else Asked.FUNCTION if is_function else Asked.OTHER
            )
        server.write(chunk)

    def _reply(self, chunk: bytes, client: asyncio.Transport) -> bool:
        """Pass on replies; return False where one was to be lost, and the connection with it."""
        for reply in _read(self._replies, chunk):
            if isinstance(reply, hiredis.PushNotification):
                continue  # what was published
            asked = self._asked.popleft() if self._asked else Asked.OTHER  # a subscriber's message
            unknown = isinstance(reply, hiredis.ReplyError) and "Function not found" in str(reply)
            self._port.functions += asked is not Asked.OTHER and not unknown
            if asked is Asked.DOOMED and unknown:
                self._port.lose_next()
            elif asked is Asked.DOOMED:
                self.server.waiting.clear()
                self.close()
                return False
        if not self.client.gone:
            client.write(chunk)
        return True


def _read(reader: hiredis.Reader, chunk: bytes) -> Iterator[Any]:
    reader.feed(chunk)
    while (found := reader.gets()) is not _NOTHING:
        yield found
