"""A connection whose server says what it was told to say, in the pieces that it was told."""

from __future__ import annotations

from collections import deque
from typing import Any

import hiredis

from rqproc.runtime import MACHINE
from rqproc.transport.connection import Refused


class ScriptedConnection:
    """``pieces``: lists of replies that come together, one after another packet was read."""

    def __init__(self, *pieces: list[Any]) -> None:
        self.pieces = deque(pieces)
        self.sent: list[list[bytes]] = []
        self.closed = self.cut = False
        self.server = "server"
        self._arrived: deque[Any] = deque()

    def fileno(self) -> int:
        raise AssertionError("nobody waits for it")

    def close(self) -> None:
        self.closed = True

    def is_cut(self) -> bool:
        return self.cut

    def send(self, packet: bytes, *, timeout_s: float) -> None:
        reader = hiredis.Reader()
        reader.feed(packet)
        while (command := reader.gets()) is not False:
            self.sent.append(command)

    def receive(self, *, wait: bool = True) -> bool:
        if not self.pieces:
            return False
        self._arrived.extend(self.pieces.popleft())
        return True

    def next_reply(self) -> tuple[bool, Any]:
        if not self._arrived:
            return False, None
        reply = self._arrived.popleft()
        if isinstance(reply, hiredis.ReplyError):
            self.close()
            raise Refused(str(reply))
        return True, reply

    def exchange(self, commands: Any, *, timeout_s: float) -> list[Any]:
        replies: list[Any] = []
        while len(replies) < len(commands):
            arrived, reply = self.next_reply()
            if arrived:
                replies.append(reply)
            else:
                assert self.receive()
        return replies

    def take(self, timeout_s: float) -> list[Any]:
        return list(self.pieces.popleft()) if self.pieces else []

    def server_id(self, *, timeout_s: float) -> str:
        return self.server


class ScriptedConnector:
    """Gives out these connections."""

    server = "somewhere:6379"

    def __init__(self, *connections: ScriptedConnection) -> None:
        self._connections = deque(connections)
        self.runtime = self

    monotonic = staticmethod(MACHINE.monotonic)

    def connect(self, *, timeout_s: float = 1.0) -> ScriptedConnection:
        return self._connections.popleft()

    def poller(self, connection: object, waker: object) -> None:
        return None
