"""A server that can be killed, paused and started again at the same address."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from integration import kit
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import server_binary


class Server:
    """With ``keeps`` it writes each command to its append-only file before it answers.

    Args:
        port: where it listens besides its socket; 0 for nowhere.
        options: as on its command line, ``"--maxclients", "50"``.
        password: the default user's.
    """

    def __init__(
        self, *options: str, keeps: bool = False, port: int = 0, password: str = ""
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rqproc-fault-")
        self.port = port
        self._password = password
        aof = "yes" if keeps else "no"
        self._command = [
            server_binary(), "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", "s",
            "--save", "", "--appendonly", aof, "--appendfsync", "always",
            "--repl-diskless-sync-delay", "0", "--requirepass", password, *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._folder.name}/s"

    def client(self) -> redis.Redis:
        """As if it had no password; one attempt."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis.from_url(self.url, password=self._password or None, retry=once)

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

    def start(self, *options: str, wait: bool = True) -> None:
        """Start it, again with what it has kept; ``wait`` until it has read that."""
        with Path(self._folder.name, "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *options], cwd=self._folder.name, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        if wait:
            with self.client() as client:
                kit.eventually(lambda: self._answers(client), every_s=0.005)

    def kill(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def _answers(self, client: redis.Redis) -> bool:
        with suppress(redis.RedisError):
            return bool(client.ping())
        return False
