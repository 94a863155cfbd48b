"""Nodes as real processes on a server of their own: for the demo, the bench and torture.

Knows subprocesses and the command line's own words. Everything it starts it also ends.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from rqproc.calls.functions import connector
from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.protocol.keys import RQ_PREFIX
from rqproc.server import Embedded, Places

READY_WITHIN_S = 20.0
LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Activity:
    """Something that takes a while has begun: for those who show progress."""

    text: str


class NodeDidNotStart(RqprocError):
    """A node's process ended, or was silent, before it served; the message has its last lines."""


class PrivateServer:
    """An embedded server in a temporary folder, gone at the end.

    It writes no append-only file, as Redis does not by default: nobody will read its data again.
    """

    def __enter__(self) -> str:
        self._folder = tempfile.TemporaryDirectory(prefix="rqproc-")
        self._embedded = Embedded(Places.private(Path(self._folder.name)))
        try:
            url = self._embedded.ensure()
            with redis.Redis.from_url(url) as client:
                client.config_set("appendonly", "no")
        except BaseException:  # Ctrl-C comes at any moment
            self.__exit__()
            raise
        return url

    def __exit__(self, *exc: object) -> None:
        self._embedded.stop(force=True)
        self._embedded.release()
        self._folder.cleanup()


@contextmanager
def swept(client: Client, url: str) -> Iterator[dict[str, int]]:
    """Remove a namespace in the end: on the user's own server, nothing may stay.

    Yields where to write down the names and process ids of its nodes.
    """
    pids: dict[str, int] = {}
    try:
        yield pids
    finally:
        for name, pid in pids.items():
            client.report_death(name, pid=pid, host=socket.gethostname())
        with connector(url).client() as redis:
            for key in redis.scan_iter(match=f"{client.keys.state}*"):
                redis.delete(key)
            redis.srem(f"{RQ_PREFIX}:queues", client.keys.ingress_queue)


class NodeProcess:
    """``rqproc node start`` in a process of its own. A context: it is ended at its end."""

    def __init__(
        self, name: str, url: str, namespace: str, arguments: Sequence[str] = (), *,
        environ: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        command = [sys.executable, "-m", "rqproc", "node", "start", "--name", name]
        # Should we be interrupted before this context is entered, the node ends by itself.
        command += ["--parent", str(os.getpid()), *arguments]
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            command,
            env={
                **os.environ,
                "RQPROC_REDIS_URL": url,
                "RQPROC_NAMESPACE": namespace,
                **(environ or {}),
            },
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for whoever started them, not for the nodes
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stderr:
            self._process.stderr.close()

    def wait_ready(self) -> None:
        """Wait until the node serves.

        Raises:
            NodeDidNotStart: it ended, or said nothing for 20 seconds.
        """
        seen: list[str] = []
        try:
            while not (seen and " ready (" in seen[-1]):
                seen.append(self._lines.get(timeout=READY_WITHIN_S))
                if not seen[-1]:
                    raise queue.Empty
        except queue.Empty:
            said = "".join(seen).strip() or "it said nothing"
            raise NodeDidNotStart(f"node {self.name} did not start: {said}") from None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended does not notice."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        return self._process.wait()

    def last_words(self) -> str:
        """Return the end of what it has said and nobody has read, once it has ended."""
        self._reader.join(1.0)  # a child of its own may still have its stderr
        said = []
        while not self._lines.empty():
            said.append(self._lines.get())
        return "".join(said[-LAST_LINES:]).strip()

    def kill(self) -> None:
        """``kill -9``."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Drain; return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._lines.put(line)
        self._lines.put("")
