"""Single functions, run by any thread: a stack of idle connections.

Knows how to carry out one command. Requests, which wait for answers, share one connection instead:
see ``calls.threads``.

Each thread takes a connection off the stack for one packet and puts it back: there are as many
connections as there are packets under way at once. A forked child starts with an empty stack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from rqproc.calls.retry import OUTAGE_S, Patience
from rqproc.protocol import loading
from rqproc.protocol.commands import Commands
from rqproc.runtime import Once, renew_after_fork
from rqproc.settings import EMBEDDED, server_url
from rqproc.transport.connection import Command, Connection, ConnectionLost, Refused
from rqproc.transport.connector import CONNECT_TIMEOUT_S, Connector

if TYPE_CHECKING:
    import redis

    from rqproc.server import Embedded

T = TypeVar("T")

MAX_IDLE = 64


START_S = 0.25
"""Seconds for which a client that is made waits until the embedded server has started: its requests
wait for the rest, each as long as it may.
"""


def connector(url: str | redis.Redis | None, *, start_s: float | None = None) -> Connector:
    """Return the way to a server, starting the embedded one where no other is named.

    Args:
        start_s: seconds that are waited for it; by default, until it has started or failed to.

    Raises:
        ConfigError: an unreadable URL, or ``local://``.
        EmbeddedUnavailable: no URL is set and the embedded server cannot run here.
    """
    if url is not None and not isinstance(url, str):
        return Connector.like(url)
    found = server_url(url)
    if found == EMBEDDED:
        embedded = _embedded()
        if start_s is None:
            embedded.ensure()
        else:
            embedded.ensure_within(start_s)
        return Connector(embedded.url(), revive=embedded.ensure_within)
    return Connector(found)


def _make_embedded() -> Embedded:
    from rqproc.server import Embedded

    return Embedded()


# One for the process: each counts as a user of the server until it is released.
_embedded = Once(_make_embedded)


class FunctionCalls:
    """Connections to one server, for any number of threads."""

    def __init__(self, connector: Connector, commands: Commands) -> None:
        self.connector = connector
        self._commands = commands
        self._runtime = connector.runtime
        self._idle: deque[Connection] = deque()
        self._redis = Once(lambda: connector.client())
        renew_after_fork(self)

    @property
    def server(self) -> str:
        return self.connector.server

    @property
    def redis(self) -> redis.Redis:
        """An ordinary redis-py client of the same server, made at its first use."""
        return self._redis()

    def close(self) -> None:
        """Close all idle connections, those of ``redis`` too."""
        while self._idle:
            self._idle.pop().close()
        if self._redis.made:
            self._redis.made.connection_pool.disconnect(inuse_connections=False)

    def run(self, command: Command) -> Any:
        """Run one idempotent function; return its reply. Raises: as ``talk``."""
        return self.talk(partial(self.run_over, command=command))

    def run_over(self, connection: Connection, command: Command) -> Any:
        """Run one function over a connection that ``talk`` has given.

        Raises:
            ConfigError: the server is too old. ConnectionLost, Refused.
        """
        return loading.run(
            connection, self._commands, command, connector=self.connector, timeout_s=OUTAGE_S
        )

    def load(self, connection: Connection) -> None:
        """Load the library, in the place of another build of it. Raises: as ``run_over``."""
        loading.load(connection, self._commands, connector=self.connector, timeout_s=OUTAGE_S)

    def talk(self, talk: Callable[[Connection], T]) -> T:
        """Do what is idempotent over a connection, through a short outage if need be.

        Raises:
            RedisUnavailable: not reachable, or it refuses a command. ConfigError: it is too old.
        """
        patience = Patience(self.server, self._runtime.monotonic, chance=self._runtime.chance)
        while True:
            try:
                return self._talk_once(talk)
            except (ConnectionLost, Refused) as error:
                self._runtime.sleep(patience.after(error).seconds)

    def _talk_once(self, talk: Callable[[Connection], T]) -> T:
        connection = self._take(OUTAGE_S)
        try:
            found = talk(connection)
        except BaseException as error:
            connection.close()  # a reply may still be on its way
            if isinstance(error, ConnectionLost) or (isinstance(error, Refused) and error.moved):
                self.close()  # the server has gone, and the idle connections with it
            raise
        self._keep(connection)
        return found

    def _take(self, within_s: float) -> Connection:
        try:
            while (connection := self._idle.pop()).is_cut():
                connection.close()
            return connection
        except IndexError:
            return self.connector.connect(timeout_s=min(CONNECT_TIMEOUT_S, within_s))

    def _keep(self, connection: Connection) -> None:
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def forget_parent(self) -> None:
        """In a forked child: the sockets are the parent's."""
        self._idle = deque()
