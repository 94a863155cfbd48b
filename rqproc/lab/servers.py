"""Servers of one's own: the embedded one, gone at the end, and one that is killed and paused.

Knows the embedded server, the server program and its options. Must not know who uses them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rqproc.errors import EmbeddedUnavailable
from rqproc.lab.processes import uninterrupted
from rqproc.server import Embedded, Places
from rqproc.server.binary import find_binary

START_WITHIN_S = 15.0
LOOK_EVERY_S = 0.005
LAST_CHARS = 500


class PrivateServer:
    """An embedded server in a folder of its own. Attributes: places: where its files are."""

    def __init__(self, folder: Path) -> None:
        self.places = Places.private(folder)
        self._folder = folder
        self._embedded = Embedded(self.places)

    def start(self) -> None:
        """Start it, and wait until it answers. Raises: EmbeddedUnavailable."""
        self._embedded.ensure()

    def client(self) -> redis.Redis:
        """Return a client that tries once."""
        return _client(self.places.socket)

    def stop(self) -> None:
        """Stop it, and wait for its end; what it has answered is in its append-only file."""
        with suppress(redis.RedisError), self.client() as client:
            client.shutdown(nosave=True)  # ten times as fast as a signal
        self._embedded.stop(force=True)

    def clear_up(self) -> None:
        """End it if it runs, and leave no file; in whichever process."""
        try:
            self.stop()
        finally:
            self._embedded.release()
            self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.places.runtime, ignore_errors=True)  # elsewhere, where paths are long
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def private_server() -> Iterator[str]:
    """The URL of a private server while the context lasts.

    It writes no append-only file, as Redis does not by default: nobody will read its data again.

    Raises:
        EmbeddedUnavailable.
    """
    with ExitStack() as stack:
        with uninterrupted():
            server = PrivateServer(Path(tempfile.mkdtemp(prefix="rqproc-")))
            stack.callback(server.clear_up)
        server.start()
        with server.client() as client:
            client.config_set("appendonly", "no")
        yield server.places.url


class ServerProcess:
    """A server that can be killed, paused and started again at the same address.

    A context: entered it answers, left it is gone, with its folder.

    Args:
        options: as on its command line, ``"--maxclients", "50"``.
        keeps: each command is in its append-only file before it is answered, so that a kill loses
            nothing, unless that file is taken away.
        port: of this machine's own, where it listens besides its socket; 0 for nowhere.
        password: the default user's.
        environment: what its process has besides this one's.
    """

    def __init__(
        self, *options: str, keeps: bool = False, port: int = 0, password: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._temporary = tempfile.TemporaryDirectory(prefix="rqproc-server-")
        self.folder = Path(self._temporary.name)
        self.path = str(self.folder / "s")
        self.url = f"unix://{self.path}"
        self.port = port
        self._password = password
        self._environment = {**os.environ, **(environment or {})}
        self._options = [
            "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", "s", "--save", "",
            "--appendonly", "yes" if keeps else "no", "--appendfsync", "always",
            "--requirepass", password, *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # Ctrl-C comes at any moment
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process:
            self.kill()
        self._temporary.cleanup()

    def start(self, *options: str, wait: bool = True) -> None:
        """Start it, again with what it has kept.

        Args:
            options: for this time.
            wait: until it answers, with all its data read.

        Raises:
            EmbeddedUnavailable: it did not start.
        """
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [str(find_binary()), *self._options, *options],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for whoever uses it
            )  # fmt: skip
        end = time.monotonic() + START_WITHIN_S
        with self.client() as client:
            while wait and not _answers(client):
                if self._process.poll() is not None or time.monotonic() > end:
                    raise EmbeddedUnavailable((self.folder / "log").read_text()[-LAST_CHARS:])
                time.sleep(LOOK_EVERY_S)

    def client(self) -> redis.Redis:
        """Return a client that tries once, as if there were no password."""
        return _client(self.path, self._password)

    def kill(self) -> None:
        """``kill -9``."""
        self._running.kill()
        self._running.wait()

    def pause(self) -> None:
        self._running.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._running.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Take away what it has kept; it must not run."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    def names(self) -> list[tuple[str, bool]]:
        """Return each key, and whether it expires."""
        with self.client() as client:
            return [(key.decode(), client.ttl(key) >= 0) for key in client.scan_iter()]

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process
        return self._process


def _client(path: Path | str, password: str = "") -> redis.Redis:
    once = Retry(NoBackoff(), 0)
    return redis.Redis(unix_socket_path=str(path), password=password or None, retry=once)


def _answers(client: redis.Redis) -> bool:
    with suppress(redis.RedisError):
        return bool(client.ping())
    return False
