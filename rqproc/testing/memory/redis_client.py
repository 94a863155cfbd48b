"""redis-py's client of a cluster under test, for RQ's own classes: over the same connections as
ours.

Knows redis-py and fakeredis. Must not know what the commands mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import redis
from fakeredis import FakeRedis
from fakeredis._clients._sync import FakeRedisConnection
from redis.connection import DefaultParser

from rqproc.testing.memory.fake_server import Fake
from rqproc.transport.connection import Connection, ConnectionLost, Refused

T = TypeVar("T")

PATIENCE_S = 60.0


def client_over(fake: Fake, connector: Callable[[], Connection]) -> redis.Redis:
    """Return a client whose connections go over those that ``connector`` makes."""

    def connection(**options: Any) -> _Connection:
        return _Connection(connector, **options)

    client = FakeRedis(server=fake.server, protocol=2)
    client.connection_pool.connection_class = connection
    return client


class _Connection(FakeRedisConnection):
    def __init__(self, connector: Callable[[], Connection], **options: Any) -> None:
        super().__init__(**options)
        self._connector = connector
        self._connection: Connection | None = None

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    def connect(self) -> None:
        if self._connection is None:
            self._connection = _tried(self._connector)

    def disconnect(self, *args: Any, **options: Any) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self.connect()
        connection = self._connected
        packet = command if isinstance(command, bytes) else b"".join(command)
        _tried(lambda: connection.send(packet, timeout_s=PATIENCE_S))

    def can_read(self, timeout: float | None = 0) -> bool:
        return False  # nothing lies there unread

    def read_response(self, *args: Any, **options: Any) -> Any:
        connection = self._connected
        _tried(connection.receive)
        try:
            return self._decode(connection.next_reply()[1])
        except Refused as error:
            self.disconnect()
            found: Exception = DefaultParser(0).parse_error(error.reason)  # type: ignore[no-untyped-call]
            raise found from error

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise redis.ConnectionError("not connected")
        return self._connection


def _tried(work: Callable[[], T]) -> T:
    try:
        return work()
    except ConnectionLost as error:
        raise redis.ConnectionError(str(error)) from error
