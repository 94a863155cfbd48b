"""A primary, its replica, and three sentinels that watch them: as processes, on ports of their own.

They know each other from the start, as they would after some seconds of running side by side.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import redis
from integration import kit
from ports import free_ports

from rqproc.lab.servers import ServerProcess
from rqproc.server.binary import find_binary

NAME = "shop"
SECRET = "s3cret"
HUSH = "hu@sh"
"""The password of the data, and that of the sentinels."""

DOWN_AFTER_MS = 2000
"""A busy machine may keep a server that is well from answering for a good part of that."""


class Watched:
    """``primary`` and ``replica`` are the roles at the start; a failover exchanges them."""

    def __init__(self) -> None:
        first, second, *watchers = free_ports(5)
        replicates = ("--masterauth", SECRET)
        self.primary = ServerProcess(*replicates, port=first, password=SECRET)
        self.replica = ServerProcess(
            *replicates, "--replicaof", f"127.0.0.1 {first}", port=second, password=SECRET
        )
        self.sentinels = [Sentinel(port, watchers, primary=first) for port in watchers]
        self._stack = ExitStack()

    def url(self, *, name: str = NAME, db: int = 0, hush: str = HUSH) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        query = urlencode({"db": db, "sentinel_password": hush})
        return f"redis+sentinel://:{SECRET}@{hosts}/{name}?{query}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.primary, self.replica):
                stack.enter_context(server)
            with self.replica.client() as client:
                kit.eventually(lambda: client.info("replication")["master_link_status"] == "up")
            for sentinel in self.sentinels:
                stack.enter_context(sentinel)
            for sentinel in self.sentinels:
                sentinel.look_every(100)
            for sentinel in self.sentinels:
                sentinel.settled()
                sentinel.look_every(1000)  # who was heard five times as long ago is out of sight
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stack.close()

    def failed_over(self, *, within_s: float = 30.0) -> None:
        """Wait until each sentinel names the replica as the primary."""
        for sentinel in self.sentinels:
            kit.eventually(
                lambda sentinel=sentinel: sentinel.names() == self.replica.port,
                within_s=within_s,
                what="a failover",
            )


class Sentinel:
    """One sentinel. ``watchers`` are the ports of all of them."""

    def __init__(self, port: int, watchers: list[int], *, primary: int) -> None:
        self.port = port
        self._folder = tempfile.TemporaryDirectory(prefix="rqproc-sentinel-")
        others = [
            f"sentinel known-sentinel {NAME} 127.0.0.1 {other} {_id(other)}"
            for other in watchers
            if other != port
        ]
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"sentinel myid {_id(port)}",
            f"sentinel monitor {NAME} 127.0.0.1 {primary} 2",
            f"requirepass {HUSH}",
            f"sentinel auth-pass {NAME} {SECRET}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} 3000",
            *others,
        ]
        self._config = Path(self._folder.name, "conf")
        self._config.write_text("\n".join(lines))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        with Path(self._folder.name, "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(find_binary()), str(self._config), "--sentinel"],
                cwd=self._folder.name, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis("127.0.0.1", self.port, password=HUSH)

    def settled(self) -> None:
        """Wait until it has found the replica and the other sentinels."""
        with self.client() as client:
            kit.eventually(lambda: self._sees(client), what="a sentinel that sees them all")

    def look_every(self, ms: int) -> None:
        """Look so often, also for those that it has not found. Redis 7 and Valkey can."""
        with self.client() as client, suppress(redis.ResponseError):
            kit.eventually(lambda: self._looks_every(client, ms), every_s=0.005)

    def names(self) -> int:
        """The port of the server that it takes for the primary."""
        with self.client() as client:
            return int(client.sentinel_get_master_addr_by_name(NAME)[1])

    def _looks_every(self, client: redis.Redis, ms: int) -> bool:
        with suppress(redis.ConnectionError):
            return bool(client.execute_command("SENTINEL", "DEBUG", "PING-PERIOD", ms))
        return False

    def _sees(self, client: redis.Redis) -> bool:
        with suppress(redis.RedisError):
            (replica,) = client.sentinel_slaves(NAME)
            others = client.sentinel_sentinels(NAME)
            seen = not any(o["is_disconnected"] or o["is_sdown"] for o in [*others, replica])
            return seen and len(others) == 2 and replica["master-link-status"] == "ok"
        return False


def _id(port: int) -> str:
    return f"{port:040x}"
