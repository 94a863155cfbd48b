"""A process with a port to the server for the client and for each node: what a network is.

Knows sockets and what is ordered. Must not know what passes; see ``proxy``.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from rqproc.testing.processes.forks import Channel, ForkedHelper
from rqproc.testing.processes.proxy import ProxiedConnection

BACKLOG = 128


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


class _Port:
    def __init__(self, server: Path) -> None:
        self.shut = False
        self.functions = 0
        self._server = server
        self._dooms = 0
        self._proxied: set[ProxiedConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def dooms(self) -> bool:
        doomed = self._dooms > 0
        self._dooms -= doomed
        return doomed

    def lose_next(self) -> None:
        self._dooms += 1

    def enter(self) -> asyncio.Protocol:
        """Someone connects: so does the port, to the server."""
        self._proxied = {proxied for proxied in self._proxied if not proxied.ended}
        proxied = ProxiedConnection(self)
        self._proxied.add(proxied)
        task = asyncio.get_running_loop().create_task(self._connect(proxied))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return proxied.client

    async def _connect(self, proxied: ProxiedConnection) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: proxied.server, str(self._server))
        except OSError:
            proxied.server.gone = True
            proxied.move()

    def set_shut(self, *, shut: bool) -> None:
        self.shut = shut
        for proxied in list(self._proxied):
            proxied.move()


class _Ports:
    """In the process itself."""

    def __init__(self, folder: Path, server: Path) -> None:
        self._folder = folder
        self._server = server
        self._ports: dict[str, _Port] = {}
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
        if order == "port":
            return str(self._opened(name))
        port = self._ports[name]
        if order in ("shut", "open"):
            port.set_shut(shut=order == "shut")
        elif order == "lose_reply":
            port.lose_next()
        return port.functions

    def _opened(self, name: str) -> Path:
        if name not in self._paths:
            port = self._ports[name] = _Port(self._server)
            path = self._paths[name] = self._folder / f"{len(self._paths)}.sock"
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(path))
            listening.listen(BACKLOG)  # from now on there is a port, though nobody opens yet
            serving = self._loop.create_unix_server(port.enter, sock=listening, backlog=BACKLOG)
            self._listening.add(self._loop.create_task(serving))
        return self._paths[name]
