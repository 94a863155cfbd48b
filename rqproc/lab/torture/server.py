"""The server under torture: killed, paused and started again at the same address.

Each command is in its append-only file before it is answered, so that a kill loses nothing;
unless that file is taken away.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rqproc.errors import EmbeddedUnavailable
from rqproc.server.binary import find_binary

START_WITHIN_S = 15.0
FILES = "appendonlydir"


class TortureServer:
    """A context: it is gone at its end, with its folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rqproc-torture-")
        self._process: subprocess.Popen[bytes] | None = None
        self._client = redis.Redis(unix_socket_path=self.path, retry=Retry(NoBackoff(), 0))

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    @property
    def path(self) -> str:
        return f"{self._folder.name}/s"

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._client.close()
        if self._process:
            self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it, and wait until it answers with all its data read.

        Raises:
            EmbeddedUnavailable: it did not start.
        """
        command = [
            str(find_binary()), "--port", "0", "--unixsocket", "s", "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", "--stream-node-max-bytes", "256",
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + START_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise EmbeddedUnavailable((self.folder / "log").read_text()[-500:])
            time.sleep(0.005)

    def kill(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Take away what it has written; it must not run."""
        shutil.rmtree(self.folder / FILES, ignore_errors=True)

    def pause(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def names(self) -> list[tuple[str, bool]]:
        """Return each key, and whether it expires."""
        return [(key.decode(), self._client.ttl(key) >= 0) for key in self._client.scan_iter()]

    def _answers(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self._client.ping())
        return False
