"""fakeredis as the server of a cluster under test: a bridge over what it does unlike Redis.

Knows fakeredis. Must not know threads, connections or what the commands mean.

* Its time is the cluster's: ``TIME``, and when keys expire.
* Blocking commands (BLMOVE, BLMPOP, XREAD) do not wait in the caller's thread, or, as BLMOVE does
  not, not at all: one that finds nothing gives no reply, and is run again when one of its keys was
  touched.
* INFO is unknown to it: the run id, which nodes ask for, and the version, for RQ, are told here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any

import redis
from fakeredis import FakeServer
from fakeredis._core import Database
from fakeredis._helpers import NoResponse
from fakeredis._socket import FakeSocket
from hiredis import pack_command

from rqproc.runtime import Clock

VERSION = "7.4.0"


class _Keys(Database):
    """A database whose time is another's, and which tells what is touched."""

    def __init__(self, lock: Any, clock: Clock, touched: Callable[[bytes], None]) -> None:
        self._clock = clock
        self._touched = touched
        super().__init__(lock)

    @property
    def time(self) -> float:
        return self._clock()

    @time.setter
    def time(self, now: float) -> None:
        """fakeredis sets the machine's before each command."""

    def notify_watch(self, key: bytes) -> None:
        super().notify_watch(key)
        self._touched(key)


class Socket(FakeSocket):
    """One connection: commands in, replies out; ``blocks_s`` is set where the last gave none."""

    def __init__(
        self,
        server: FakeServer,
        clock: Clock,
        run_id: Callable[[], str],
        hear: Callable[[Any], None],
    ) -> None:
        self._clock = clock
        self._run_id = run_id
        self._hear = hear
        self.blocks_s: float | None = None
        self._waits_s: float | None = None
        super().__init__(server, 0, client_class=redis.Redis)

    def run(self, command: Sequence[bytes]) -> None:
        self.blocks_s = None
        self._waits_s = float(command[-1]) if command[0].upper() == b"BLMOVE" else None
        if command[0].upper() == b"INFO":
            about = f"redis_version:{VERSION}\r\nrun_id:{self._run_id()}"
            self._hear(f"# Server\r\n{about}\r\n".encode())
        else:
            self.sendall(pack_command(tuple(command)))  # type: ignore[arg-type]  # any number

    def put_response(self, msg: Any) -> None:
        if msg is None and self._waits_s is not None:
            self.blocks_s = self._waits_s
        else:
            self._hear(msg)

    def _decode_error(self, error: Any) -> Any:
        """Whole, its first word too, which redis-py makes a class of."""
        return redis.ResponseError(error.value)

    def time(self) -> list[bytes]:
        seconds, micros = divmod(round(self._clock() * 1_000_000), 1_000_000)
        return [str(seconds).encode(), str(micros).encode()]

    def _blocking(
        self, timeout: float | None, func: Callable[[bool], Any], shape: Any = None
    ) -> Any:
        found = func(True)
        if found is not None:
            return found if shape is None else shape(found)
        self.blocks_s = timeout or 0.0
        return NoResponse()


class Fake:
    """The server: data, functions and a run id.

    Attributes:
        touched: keys that have changed since it was emptied.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.touched: set[bytes] = set()
        self.server = FakeServer(version=(7, 4))
        self.server.dbs = defaultdict(lambda: _Keys(self.server.lock, clock, self.touched.add))
        self.restart()

    def restart(self) -> None:
        """Be another process with the same data, of which functions are a part."""
        self.run_id = token_hex(20)

    def connect(self, hear: Callable[[Any], None]) -> Socket:
        return Socket(self.server, self._clock, lambda: self.run_id, hear)
