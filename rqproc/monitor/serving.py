"""The page, served: an address, a socket, a server.

Knows uvicorn. ``rqproc dashboard`` serves it until it is stopped; the demo beside what it does.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from contextlib import suppress
from secrets import token_urlsafe
from types import TracebackType
from urllib.parse import quote

import uvicorn

from rqproc.client import Client
from rqproc.errors import ConfigError
from rqproc.monitor.guard import LOOPBACK, Guard
from rqproc.monitor.monitor import Monitor
from rqproc.monitor.web import Guarded, Page

START_S = 10.0


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def as_bound(host: str) -> str:
    """Return an address as it is bound, which browsers say too: "127.0.0.1" for "127.1".

    Raises:
        ConfigError: it is empty.
    """
    if not host:
        raise ConfigError("the address to listen at is empty: 127.0.0.1 is for this machine alone")
    with suppress(OSError):
        return socket.inet_ntoa(socket.inet_aton(host))
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    return host


class Dashboard:
    """One page of one cluster.

    Args:
        host: address to listen at; off loopback everyone needs the token.
        port: 0 for one that is free.
        token: None: none on loopback, elsewhere a new one.

    Attributes:
        url: where to open it, with the token.
        token: None for none.

    Raises:
        ConfigError: the address cannot be listened at.
    """

    def __init__(
        self, client: Client, *, host: str = "127.0.0.1", port: int = 0,
        token: str | None = None, read_only: bool = False, interval_s: float = 1.0,
    ) -> None:  # fmt: skip
        host = as_bound(host)
        if token is None and not is_loopback(host):
            token = token_urlsafe(24)
        self.token = token
        self._socket = _listen(host, port)
        at = self._socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        hosts: tuple[str, ...] = ()
        if host in ("0.0.0.0", "::"):  # noqa: S104  # compared, not listened at
            shown = socket.gethostname()
        elif is_loopback(host):
            hosts = (*LOOPBACK, host)
        else:
            hosts = (host,)
        self.url = f"http://{shown}:{at}/" + (f"?token={quote(token)}" if token else "")
        page = Page(
            client, Monitor(client), interval_s=interval_s, read_only=read_only,
            is_over=lambda: self._server.should_exit,
        )  # fmt: skip
        guarded = Guarded(page.app(), Guard(hosts=hosts, token=token))
        config = uvicorn.Config(
            guarded, log_level="warning", access_log=False, lifespan="on", ws="none",
            server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def serve(self) -> None:
        """Serve until SIGINT or SIGTERM, which take their course then."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def __enter__(self) -> Dashboard:
        """Serve in a thread."""
        self._thread = threading.Thread(target=self.serve, name="rqproc-dashboard", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        if self._thread:
            self._thread.join(START_S)


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
        family, kind, _, _, address = found[0]
        listening = socket.socket(family, kind)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port"
        ) from error
    return listening
