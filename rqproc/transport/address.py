"""Where a server is, and what redis-py must be told to connect there.

Knows URLs, redis-py's options and that sentinels may have to be asked first. Must not know
connections, nor what a failed connection means.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from rqproc.errors import ConfigError
from rqproc.settings import without_password
from rqproc.transport import sentinel


def _keepalive() -> dict[str, Any]:
    """What makes the kernel notice, in about 8 seconds, that a server's machine has gone.

    One that loses its power or its network sends no word, and who waits for an answer sends none.
    """
    wanted = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 8000}
    known = {getattr(socket, name, None): value for name, value in wanted.items()}
    known.pop(None, None)  # not on every system
    return {"socket_keepalive": True, "socket_keepalive_options": known}


KEEPALIVE = _keepalive()


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One server; or, with ``sentinels``, whichever is the primary at that moment."""

    connection: Any
    given: dict[str, Any]
    sentinels: sentinel.Sentinels | None = None

    def __str__(self) -> str:
        """As people may see it: without credentials."""
        if self.sentinels:
            return str(self.sentinels)
        if "path" in self.given:
            return f"unix://{self.given['path']}"
        return f"{self.given.get('host', 'localhost')}:{self.given.get('port', 6379)}"

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS."""
        return issubclass(self.connection, redis.SSLConnection)

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Return redis-py's connection options: one attempt, RESP2, no library handshake.

        Raises:
            NoPrimary: the sentinels do not name one.
        """
        found = {}
        if self.sentinels:
            host, port = self.sentinels.primary(timeout_s=timeout_s)
            found = {"host": host, "port": port}
        return {
            **({} if "path" in self.given else KEEPALIVE),
            **self.given,
            **found,
            "socket_connect_timeout": timeout_s,
            "socket_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "protocol": 2,
            "driver_info": None,
            "health_check_interval": 0,
        }

    def client(self) -> redis.Redis:
        """Return an ordinary redis-py client."""
        if self.sentinels:
            return self.sentinels.client(self.given, secure=self.secure)
        options = self.given | {"retry": Retry(NoBackoff(), 0)}
        pool = redis.ConnectionPool(connection_class=self.connection, **options)
        return redis.Redis(connection_pool=pool)


def of_url(url: str) -> ServerAddress:
    """Read ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``, ``rediss+sentinel://``.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        sentinels, plain = sentinel.read_url(url) if sentinel.is_url(url) else (None, _checked(url))
        pool = redis.ConnectionPool.from_url(plain)
        options: dict[str, Any] = dict(pool.connection_kwargs)
        pool.connection_class(**options)  # what it does not know, it says now
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ConfigError(
            f"invalid server URL {without_password(url)!r}: it cannot be read. Give "
            "redis://[USER:PASSWORD@]HOST:PORT/DB, rediss://..., unix:///PATH?db=0 or "
            f"{sentinel.FORM}, and no options but those of redis-py{_encoded(url)}"
        ) from error
    return ServerAddress(_countable(pool.connection_class), options, sentinels)


def _countable(made: Any) -> Any:
    """Return a class of connections that redis-py can count a timeout of: it then asks for a host
    and a port, also of one over a unix socket, which has none.
    """
    if not issubclass(made, redis.UnixDomainSocketConnection) or hasattr(made, "port"):
        return made
    return type(made.__name__, (made,), {"host": None, "port": None})


def _encoded(url: str) -> str:
    """Return what is to be said to whoever may have signs in a password that end it."""
    if re.match(r"[a-z+]+://[^@]*[/?#][^@]*@", url):
        return "; / ? # and @ in a password are written %2F %3F %23 and %40"
    return ""


def _checked(url: str) -> str:
    """Raises: ValueError: redis-py would read it, but as another place than was meant."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme == "unix" and (host or not parts.path):
        raise ValueError("a socket's path is absolute")
    if parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+/?", parts.path):
        raise ValueError("a database is a number")
    if parts.port == 0:
        raise ValueError("a port is 1 to 65535")
    return url


def of_client(client: redis.Redis) -> ServerAddress:
    """Return where an existing redis-py client's connections go.

    Raises:
        ConfigError: it is no blocking client of redis-py, or none of a single server.
    """
    pool: Any = getattr(client, "connection_pool", None)
    made = getattr(pool, "connection_class", None)
    is_fake = getattr(made, "__module__", "").partition(".")[0] == "fakeredis"
    if is_fake or not isinstance(client, redis.Redis) or not isinstance(made, type):
        found = f"{type(client).__module__}.{type(client).__qualname__}"
        raise ConfigError(
            f"no server can be told from a {found}: give its URL, or a redis.Redis (an asyncio "
            "client or a fake has no connections that rqproc could use; tests have rqproc.testing)"
        )
    options = dict(pool.connection_kwargs)
    if not isinstance(pool, redis.sentinel.SentinelConnectionPool):
        return ServerAddress(_countable(made), options)
    del options["connection_pool"]
    secure = issubclass(pool.connection_class, redis.SSLConnection)
    return ServerAddress(
        redis.SSLConnection if secure else redis.Connection,
        options,
        sentinel.of_manager(pool.service_name, pool.sentinel_manager),
    )
