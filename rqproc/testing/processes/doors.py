"""A process with a door to the server for the client and for each node: what a network is.

Knows sockets and what is ordered. Must not know what passes; see ``passage``.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from rqproc.testing.processes.forks import Channel, Servant
from rqproc.testing.processes.passage import Passage

BACKLOG = 128


class Network(Servant):
    """All doors, from the test's side.

    Args:
        folder: where their sockets are; its path must be short.
        server: the server's socket.
    """

    def __init__(self, folder: Path, server: Path, *, log: Path) -> None:
        super().__init__(_Doors(folder, server).serve, name="the network", log=log)

    def door(self, name: str) -> str:
        """Return the URL of a door, opened at its first use."""
        return f"unix://{self('door', name)}"

    def shut(self, name: str) -> None:
        """Let nothing pass, in either direction; no connection breaks."""
        self("shut", name)

    def open(self, name: str) -> None:
        self("open", name)

    def lose_reply(self, name: str) -> None:
        """Let the next function pass, and break its connection in place of its reply."""
        self("lose_reply", name)

    def functions(self, name: str) -> int:
        """Return how many functions have been carried out for who speaks through a door."""
        return int(self("functions", name))


class _Door:
    def __init__(self, server: Path) -> None:
        self.shut = False
        self.functions = 0
        self._server = server
        self._dooms = 0
        self._passages: set[Passage] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def dooms(self) -> bool:
        doomed = self._dooms > 0
        self._dooms -= doomed
        return doomed

    def lose_next(self) -> None:
        self._dooms += 1

    def enter(self) -> asyncio.Protocol:
        """Someone connects: so does the door, to the server."""
        self._passages = {passage for passage in self._passages if not passage.ended}
        passage = Passage(self)
        self._passages.add(passage)
        task = asyncio.get_running_loop().create_task(self._connect(passage))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return passage.client

    async def _connect(self, passage: Passage) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: passage.server, str(self._server))
        except OSError:
            passage.server.gone = True
            passage.move()

    def set_shut(self, *, shut: bool) -> None:
        self.shut = shut
        for passage in list(self._passages):
            passage.move()


class _Doors:
    """In the process itself."""

    def __init__(self, folder: Path, server: Path) -> None:
        self._folder = folder
        self._server = server
        self._doors: dict[str, _Door] = {}
        self._paths: dict[str, Path] = {}
        self._listening: set[asyncio.Task[Any]] = set()

    def serve(self, channel: Channel) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.add_reader(channel, self._obey, channel)
        self._loop.run_forever()

    def _obey(self, channel: Channel) -> None:
        if not channel.obey(self._do):
            self._loop.stop()

    def _do(self, order: str, name: str) -> Any:
        if order == "door":
            return str(self._opened(name))
        door = self._doors[name]
        if order in ("shut", "open"):
            door.set_shut(shut=order == "shut")
        elif order == "lose_reply":
            door.lose_next()
        return door.functions

    def _opened(self, name: str) -> Path:
        if name not in self._paths:
            door = self._doors[name] = _Door(self._server)
            path = self._paths[name] = self._folder / f"{len(self._paths)}.sock"
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(path))
            listening.listen(BACKLOG)  # from now on there is a door, though nobody opens yet
            serving = self._loop.create_unix_server(door.enter, sock=listening, backlog=BACKLOG)
            self._listening.add(self._loop.create_task(serving))
        return self._paths[name]
