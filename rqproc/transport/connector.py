"""Makes connections to one server, or to whichever server is the primary at that moment.

Knows addresses and the first words on a connection. Must not know what it is used for.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from rqproc.errors import ConfigError, RedisUnavailable
from rqproc.runtime import MACHINE, Runtime, patched_by
from rqproc.transport.address import ServerAddress, of_client, of_url
from rqproc.transport.connection import Command, Connection, ConnectionLost, Refused
from rqproc.transport.replies import shown
from rqproc.transport.sentinel import NoPrimary

CONNECT_TIMEOUT_S = 3.0

SHORTEST_S = 0.05
"""What a server that has just started may take, be it that no time is left."""


HELLO: Command = ("HELLO", "3")


PING: Command = ("PING",)


FIRST_MAJOR = 7


FIRST_SERVERS = "Redis 7.0 or Valkey 7.2"
"""Functions and blocking pops of many came with these."""

_PATCHED_BEFORE = patched_by(socket.socket)


class Connector:
    """Makes connections to one server, or to whichever server is the primary at that moment.

    Args:
        url: see ``address.of_url``; or where an existing client connects to.
        revive: called with seconds where there is no server to connect to: it starts one, and
            returns why there is none yet, or nothing.

    Attributes:
        runtime: what whoever talks over these connections stands on.

    Raises:
        ConfigError: the URL cannot be read.
    """

    runtime: Runtime = MACHINE

    def __init__(
        self, url: str | ServerAddress, *, revive: Callable[[float], str] | None = None
    ) -> None:
        self._where = of_url(url) if isinstance(url, str) else url
        self.revive = revive
        self.server = str(self._where)

    def without_revival(self) -> Connector:
        """Return a connector to the same server that does not start one."""
        return Connector(self._where)

    @classmethod
    def like(cls, connection: redis.Redis) -> Connector:
        """Return a connector to the server of an existing redis-py client."""
        return cls(of_client(connection))

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS."""
        return self._where.secure

    @property
    def asks(self) -> bool:
        """Whether ``options`` asks sentinels, and so may take its time."""
        return self._where.sentinels is not None

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Return redis-py's connection options, for one attempt now.

        Raises:
            ConnectionLost: the sentinels know of no primary at this moment.
            RedisUnavailable: they never will.
        """
        began = time.monotonic()
        try:
            return self._where.options(timeout_s)
        except NoPrimary as error:
            if not error.passing:
                raise RedisUnavailable(self.server, str(error), advice=error.advice) from error
            spent_s = time.monotonic() - began
            raise ConnectionLost(str(error), spent_s=spent_s, advice=error.advice) from error

    def connect(self, *, timeout_s: float = CONNECT_TIMEOUT_S, pushes: bool = False) -> Connection:
        """Return a new connection.

        Args:
            pushes: in RESP3, where what is published comes between the replies: see
            ``Connection.take``.

        Raises:
            ConfigError: with ``pushes``, the server is older than the protocol needs; or gevent or
                eventlet has patched Python as ``check_patching`` says.
            ConnectionLost: no connection within ``timeout_s`` seconds.
            Refused: the server does not let us in: credentials, database, too many connections.
            RedisUnavailable: the sentinels do not let us in, or do not know the primary's name.
        """
        began = time.monotonic()
        try:
            return self._connect(timeout_s, pushes)
        except ConnectionLost as error:
            left_s = self.revived(error, began=began, timeout_s=timeout_s)
        return self._connect(left_s, pushes)

    def revived(self, error: ConnectionLost, *, began: float, timeout_s: float) -> float:
        """Have the server started to which there was no connection; return the seconds left.

        Args:
            began: when, by ``time.monotonic``, the ``timeout_s`` seconds for all of it did.

        Raises:
            ConnectionLost: ``error``, or that the server has not started in time.
            RedisUnavailable: it cannot start.
        """
        end = began + timeout_s
        left_s = end - time.monotonic()
        if self.revive is None or left_s <= 0:
            raise error
        if reason := self.revive(left_s):
            raise ConnectionLost(reason, spent_s=time.monotonic() - began) from error
        return max(SHORTEST_S, end - time.monotonic())

    def _connect(self, timeout_s: float, pushes: bool) -> Connection:
        check_patching()
        opened = self._where.connection(**self.options(timeout_s))
        began = time.monotonic()
        try:
            opened.connect()
        except (redis.RedisError, OSError) as error:
            raise why(error, spent_s=time.monotonic() - began) from error
        connection = Connection(opened)
        try:  # what accepts may not answer
            (about,) = connection.exchange((HELLO if pushes else PING,), timeout_s=timeout_s)
            if pushes:
                check_server(self.server, about)
        except Refused as error:
            if pushes and "unknown command" in error.reason:
                raise too_old(self.server, "before 6.0") from error
            raise
        except ConnectionLost as error:
            error.spent_s = time.monotonic() - began
            raise
        return connection

    def client(self) -> redis.Redis:
        """Return an ordinary redis-py client of the same server, for RQ's own classes.

        A server that may have to be started is waited for: redis-py starts none.

        Raises:
            RedisUnavailable: it cannot start.
        """
        if self.revive is not None:
            self.revive(CONNECT_TIMEOUT_S)
        return self._where.client()


def check_patching() -> None:
    """Look at what gevent or eventlet has done to Python.

    Raises:
        ConfigError: where it has patched sockets but not locks, who waits for a lock would keep the
            reader waiting that is to release it. eventlet has done so after redis-py looked for
            what it takes away.
    """
    name = patched_by(socket.socket)
    if name == "eventlet" != _PATCHED_BEFORE:
        raise ConfigError(
            "eventlet has patched Python after rqproc was imported: call eventlet.monkey_patch() "
            "before any other import"
        )
    if name and not patched_by(threading.Lock):
        raise ConfigError(
            f"{name} has patched Python's sockets, but not its threads: let it patch both, as "
            "gevent.monkey.patch_all() and eventlet.monkey_patch() do"
        )


def check_server(server: str, about: Any) -> None:
    """Raises: ConfigError: what a server says of itself at HELLO is too old for the protocol."""
    version = str((about or {}).get(b"version", b"").decode())
    if (number := re.match(r"\d+", version)) and int(number[0]) < FIRST_MAJOR:
        raise too_old(server, version)


def too_old(server: str, version: str) -> ConfigError:
    """Return the error of a server without functions."""
    return ConfigError(
        f"the server {server} is version {version}: rqproc needs {FIRST_SERVERS} or later"
    )


def why(error: Exception, *, spent_s: float) -> ConnectionLost | Refused:
    """Return what an error of redis-py's, raised while it connected, means to us."""
    status = getattr(error, "status_code", None)
    if "max number of clients" in str(error):
        return Refused(f"ERR {error}")
    if status or isinstance(error, redis.ResponseError | redis.AuthenticationError):
        return Refused(f"{status} {error}" if status else str(error))
    if isinstance(error, redis.exceptions.InvalidResponse) or "Protocol error" in str(error):
        return ConnectionLost(f"what answers is no Redis: {shown(str(error))}", spent_s=spent_s)
    return ConnectionLost(shown(str(error)), spent_s=spent_s)
