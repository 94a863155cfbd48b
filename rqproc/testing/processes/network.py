"""A process with a port to the server for the client and for each node: what a network is.

Knows what is ordered, and enough of RESP to tell a function's reply. Must not know functions.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

import hiredis

from rqproc.lab.proxy import BACKLOG, CLEAR, HELD, Fate, Port, Way
from rqproc.testing.processes.forks import Channel, ForkedHelper

FUNCTION_CALL = b"FCALL"

_NOTHING = object()


class Network(ForkedHelper):
    """All ports, from the test's side.

    Args:
        folder: where their sockets are; its path must be short.
        server: the server's socket.
    """

    def __init__(self, folder: Path, server: Path, *, log: Path) -> None:
        super().__init__(_Ports(folder, server).serve, name="the network", log=log)

    def port(self, name: str) -> str:
        """Return the URL of a port, opened at its first use."""
        return f"unix://{self('port', name)}"

    def shut(self, name: str) -> None:
        """Let nothing pass, in either direction; no connection breaks."""
        self("shut", name)

    def open(self, name: str) -> None:
        self("open", name)

    def lose_reply(self, name: str) -> None:
        """Let the next function pass, and break its connection in place of its reply."""
        self("lose_reply", name)

    def functions(self, name: str) -> int:
        """Return how many functions have been carried out for who speaks through a port."""
        return int(self("functions", name))


class _Ports:
    """In the process itself."""

    def __init__(self, folder: Path, server: Path) -> None:
        self._folder = folder
        self._server = server
        self._ports: dict[str, _FunctionPort] = {}

    def serve(self, channel: Channel) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.add_reader(channel, self._obey, channel)
        self._loop.run_forever()

    def _obey(self, channel: Channel) -> None:
        if not channel.obey(self._do):
            self._loop.stop()

    def _do(self, order: str, name: str) -> Any:
        if name not in self._ports:
            path = self._folder / f"{len(self._ports)}.sock"
            self._ports[name] = _FunctionPort(str(self._server), path)
        port = self._ports[name]
        if order == "port":
            return str(port.path)
        if order == "lose_reply":
            port.doomed += 1
        elif order != "functions":
            port.set_state(HELD if order == "shut" else CLEAR)
        return port.carried_out


class _FunctionPort(Port):
    """A port that knows functions.

    Attributes:
        carried_out: how many were.
        doomed: of how many more the reply is to be lost.
    """

    def __init__(self, server: str, path: Path) -> None:
        super().__init__(server, judge=lambda: _Judge(self), chance=random.random)
        self.path = path
        self.carried_out = 0
        self.doomed = 0
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen(BACKLOG)  # from now on there is a port, though nobody serves it yet
        self.open(listening)


class _Asked(Enum):
    """What a reply is awaited for."""

    OTHER = auto()
    FUNCTION = auto()
    DOOMED = auto()


class _Judge:
    """Of the chunks of one connection."""

    def __init__(self, port: _FunctionPort) -> None:
        self._port = port
        self._requests = hiredis.Reader(notEnoughData=_NOTHING)
        self._replies = hiredis.Reader(notEnoughData=_NOTHING)
        self._asked: deque[_Asked] = deque()

    def __call__(self, way: Way, chunk: bytes) -> Fate:
        if way == "requests":
            commands = _read(self._requests, chunk)
            self._asked.extend(self._ask(one) for one in commands if not _subscribes(one))
            return "passes"
        # Each of them counts, those too that come after one that is lost.
        lost = [self._is_lost(reply) for reply in _read(self._replies, chunk)]
        return "cut" if any(lost) else "passes"

    def _ask(self, command: Sequence[bytes]) -> _Asked:
        if bytes(command[0]).upper() != FUNCTION_CALL:
            return _Asked.OTHER
        if not self._port.doomed:
            return _Asked.FUNCTION
        self._port.doomed -= 1
        return _Asked.DOOMED

    def _is_lost(self, reply: object) -> bool:
        if isinstance(reply, hiredis.PushNotification):
            return False  # what was published
        asked = self._asked.popleft() if self._asked else _Asked.OTHER  # a subscriber's message
        if asked is _Asked.OTHER:
            return False
        unknown = isinstance(reply, hiredis.ReplyError) and "Function not found" in str(reply)
        if not unknown:
            self._port.carried_out += 1
        elif asked is _Asked.DOOMED:
            self._port.doomed += 1  # it was not carried out: the next one is, in its place
        return asked is _Asked.DOOMED and not unknown


def _subscribes(command: Sequence[bytes]) -> bool:
    """Whether it is answered by a push for each channel, and by no reply."""
    return b"SUBSCRIBE" in bytes(command[0]).upper()


def _read(reader: hiredis.Reader, chunk: bytes) -> Iterator[Any]:
    reader.feed(chunk)
    while (found := reader.gets()) is not _NOTHING:
        yield found
