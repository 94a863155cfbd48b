"""A TCP proxy that cuts connections on purpose: after a command has gone, before its reply."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Judge = Callable[[bytes], bool]


class Proxy:
    """Forwards to a server's unix socket. Judges decide what is swallowed.

    ``cut_replies(n)``: of the next chunks from the server the n-th is swallowed and its connection
    closed. ``swallow``: chunks to the server, for which it says yes, never arrive there.
    ``mute``: nothing comes back from there.
    ``accepted``: connections so far; those for which there was no server were closed at once.
    """

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("unix://")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._cut_in = 0
        self.cuts = 0
        self.accepted = 0
        self.mute = False
        self.swallow: Judge = lambda _: False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for pair in self._pairs:
            _end(*pair)

    def cut_replies(self, number: int = 1) -> None:
        with self._lock:
            self._cut_in = number

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._path)
            except OSError:
                client.close()
                server.close()
                continue
            self._pairs.append((client, server))
            for pump in (self._to_server, self._to_client):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while chunk := client.recv(65536):
                if not self.swallow(chunk):
                    server.sendall(chunk)
        _end(client, server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while chunk := server.recv(65536):
                if self._is_cut():
                    break
                if not self.mute:
                    client.sendall(chunk)
        _end(client, server)

    def _is_cut(self) -> bool:
        with self._lock:
            if self._cut_in == 0:
                return False
            self._cut_in -= 1
            self.cuts += self._cut_in == 0
            return self._cut_in == 0


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
