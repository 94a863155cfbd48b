"""One connection to Redis on which several commands leave in one packet.

Knows sockets and RESP. Must not know scripts, keys or what the commands mean.

redis-py makes the connection (URL, TLS, authentication, database); from then on the packet is
packed and parsed by hiredis alone, since a client library's command layer costs more than Redis
does. Nothing is repeated here: what may be sent again, only the caller of a command knows.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from typing import Any

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rqproc.errors import ConfigError, RedisUnavailable
from rqproc.settings import without_password

Arg = bytes | str | int | float
Command = tuple[Arg, ...]

CONNECT_TIMEOUT_S = 3.0
BUFFER_BYTES = 65536

FLOW_S = 0.25
"""Seconds within which the next bytes of a reply come that is late but on its way."""


class LinkLost(ConnectionError):
    """The connection broke; whether the server carried out the last packet is unknown.

    ``spent_s`` are the seconds that were already waited in vain.
    """

    def __init__(self, reason: str, *, spent_s: float = 0.0) -> None:
        super().__init__(reason)
        self.spent_s = spent_s


class Refused(Exception):
    """The server answered a command with an error. The link is closed: what followed may block."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def code(self) -> str:
        """The error's first word: NOSCRIPT, READONLY, OOM, LOADING, NOPERM, ..."""
        return self.reason.partition(" ")[0]

    @property
    def passing(self) -> bool:
        """Whether the server may accept the same command a moment later."""
        return self.code in {"LOADING", "BUSY", "NOSCRIPT", "TRYAGAIN", "MASTERDOWN", "UNBLOCKED"}


def pack(commands: Sequence[Command]) -> bytes:
    """Return the bytes of several commands."""
    packed: list[bytes] = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
    return b"".join(packed)


class Dial:
    """Makes links to one server.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        revive: called where there is no server to connect to; it may start one.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str, *, revive: Callable[[], object] | None = None) -> None:
        try:
            pool = redis.ConnectionPool.from_url(url)
        except (ValueError, redis.RedisError) as error:
            shown_url = without_password(url)
            raise ConfigError(f"invalid server URL {shown_url!r}: it cannot be read") from error
        self._class = pool.connection_class
        self._options: dict[str, Any] = dict(pool.connection_kwargs)
        self.revive = revive
        self.server = shown(self._options)

    @classmethod
    def like(cls, connection: redis.Redis) -> Dial:
        """Return a dial to the server of an existing redis-py client."""
        dial = cls.__new__(cls)
        pool = connection.connection_pool
        dial._class, dial._options = pool.connection_class, dict(pool.connection_kwargs)
        dial.revive = None
        dial.server = shown(dial._options)
        return dial

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS."""
        return issubclass(self._class, redis.SSLConnection)

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Return redis-py's connection options: one attempt, RESP2, no library handshake."""
        return self._options | {
            "socket_connect_timeout": timeout_s,
            "socket_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "protocol": 2,
            "driver_info": None,
            "health_check_interval": 0,
        }

    def connect(self, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Link:
        """Return a new link.

        Raises:
            LinkLost: no connection within ``timeout_s`` seconds.
            RedisUnavailable: the server refused the credentials.
        """
        try:
            return self._connect(timeout_s)
        except LinkLost:
            if self.revive is None:
                raise
        self.revive()
        return self._connect(timeout_s)

    def _connect(self, timeout_s: float) -> Link:
        connection = self._class(**self.options(timeout_s))
        began = time.monotonic()
        try:
            connection.connect()
        except redis.AuthenticationError as error:
            raise RedisUnavailable(self.server, str(error)) from error
        except (redis.RedisError, OSError) as error:
            raise LinkLost(str(error), spent_s=time.monotonic() - began) from error
        link = Link(connection)
        try:
            link.exchange((("PING",),), timeout_s=timeout_s)  # what accepts may not answer
        except LinkLost as error:
            raise LinkLost("it does not answer", spent_s=time.monotonic() - began) from error
        return link

    def client(self) -> redis.Redis:
        """Return an ordinary redis-py client of the same server, for RQ's own classes."""
        options = self._options | {"retry": Retry(NoBackoff(), 0)}
        return redis.Redis(
            connection_pool=redis.ConnectionPool(connection_class=self._class, **options)
        )


def shown(options: dict[str, Any]) -> str:
    """Return a server's address as people may see it: without credentials."""
    if "path" in options:
        return f"unix://{options['path']}"
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


class Link:
    """One connection. Not for two threads at once."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket: socket.socket = connection._sock
        self._reader = hiredis.Reader()
        self._buffer = bytearray(BUFFER_BYTES)
        self._plain = not isinstance(self._socket, ssl.SSLSocket)
        self._no_wait = socket.MSG_DONTWAIT if self._plain else 0
        self._timeout_s = -1.0
        self._sent_at = time.monotonic()
        self._low_water = 1
        if self._plain:
            self._socket.settimeout(None)  # the kernel keeps the time: no poll before each call

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._connection.disconnect()

    def interrupt(self) -> None:
        """End, from another thread, a read that blocks on this link: it raises LinkLost."""
        with suppress(OSError):  # closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def send(self, packet: bytes, *, timeout_s: float) -> None:
        """Write a packet.

        Raises:
            LinkLost: not written whole within the timeout.
        """
        self._sent_at = time.monotonic()
        try:
            self._set_timeout(timeout_s)
            self._socket.sendall(packet)
        except OSError as error:
            raise self._lost(error) from error

    def receive(self, *, wait: bool = True) -> bool:
        """Take in bytes, waiting for them up to the timeout of the last send; False for none yet.

        Raises:
            LinkLost: the server closed the connection, or nothing came in time.
        """
        try:
            size = self._socket.recv_into(self._buffer, 0, self._no_wait if not wait else 0)
        except ssl.SSLWantReadError:
            return False
        except OSError as error:
            if not wait and isinstance(error, BlockingIOError):
                return False
            raise self._lost(error) from error
        if not size:
            raise self._lost(ConnectionResetError("the server closed the connection"))
        self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # any buffer
        self._set_low_water(1)
        return True

    def next_reply(self) -> tuple[bool, Any]:
        """Return ``(True, reply)`` if a whole one has arrived, else ``(False, None)``.

        Raises:
            Refused: the reply is an error.
        """
        reply = self._reader.gets()
        if reply is False:
            return False, None
        if isinstance(reply, hiredis.ReplyError):
            self.close()
            raise Refused(str(reply))
        return True, reply

    def exchange(
        self, commands: Sequence[Command], *, timeout_s: float, prelude_bytes: int = 0
    ) -> list[Any]:
        """Send commands in one packet and return their replies.

        Args:
            prelude_bytes: about how many bytes of replies come before the one that matters. The
                thread is not woken for them alone. An error that is shorter would not wake it
                either, and more than the true number plus four would be too many.

        Raises:
            LinkLost: the connection broke or a reply took longer than ``timeout_s`` seconds.
            Refused: the server answered one of them with an error.
        """
        self.send(pack(commands), timeout_s=timeout_s)
        self._set_low_water(prelude_bytes + 1)
        replies: list[Any] = []
        partly = False
        while len(replies) < len(commands):
            arrived, reply = self.next_reply()
            if arrived:
                replies.append(reply)
                continue
            if partly:  # the rest has only the time that is left, as long as it takes if it flows
                left_s = self._sent_at + timeout_s - time.monotonic()
                self._set_timeout(max(left_s, FLOW_S))
            partly = self.receive()
        return replies

    def sleep_through(self, size: int) -> None:
        """Until the next bytes are taken in, do not report so few as readable.

        TCP's poll keeps to it; a unix socket's does not, and is left alone.
        """
        if self._socket.family != socket.AF_UNIX:
            self._set_low_water(size + 1)

    def _set_timeout(self, timeout_s: float) -> None:
        """In steps of 50 ms: callers that ask alike need no system call."""
        rounded = ceil(timeout_s * 20) / 20
        if rounded == self._timeout_s:
            return
        self._timeout_s = rounded
        if self._plain:
            value = struct.pack("ll", int(rounded), int(rounded % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
        else:
            self._socket.settimeout(rounded)

    def _set_low_water(self, size: int) -> None:
        if self._plain and size != self._low_water:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._low_water = size

    def _lost(self, error: OSError) -> LinkLost:
        self.close()
        late = isinstance(error, BlockingIOError | TimeoutError)
        spent_s = time.monotonic() - self._sent_at
        return LinkLost("timed out", spent_s=spent_s) if late else LinkLost(str(error))
