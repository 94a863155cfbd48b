"""Processes that are started, listened to, signalled and ended; nodes among them.

Knows subprocesses and the command line's own words. Everything it starts it also ends.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import IO, Protocol, Self

from rqproc.calls.functions import connector
from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.protocol.keys import RQ_PREFIX

READY_WITHIN_S = 30.0
READ_WITHIN_S = 5.0
"""After its end: a child of its own may still have its stderr."""
LOOK_EVERY_S = 0.1


class Process(Protocol):
    """What is used of ``subprocess.Popen``."""

    @property
    def pid(self) -> int: ...
    @property
    def stdout(self) -> IO[str] | None: ...
    @property
    def stderr(self) -> IO[str] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Activity:
    """Something that takes a while has begun: for those who show progress."""

    text: str


class NodeDidNotStart(RqprocError):
    """A node's process ended, or was silent, before it served; the message has its last lines."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have Ctrl-C, and signals like it, wait for the end of something short that must be whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)


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


class ChildProcess:
    """A process that is listened to. A context: it is killed at its end.

    Attributes:
        lines, out: what it has said so far, line by line, on stderr and on stdout.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.process = self._start(command, env, cwd)
        self.lines: list[str] = []
        self.out: list[str] = []
        self._news = threading.Condition()
        pipes = (self.process.stderr, self.lines), (self.process.stdout, self.out)
        self._readers = [
            threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes if pipe[0]
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return "".join(self.lines)

    @property
    def stdout(self) -> str:
        return "".join(self.out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def said(self, pattern: str, *, within_s: float, since: int = 0) -> re.Match[str] | None:
        """Wait until a line of stderr matches, looking from line ``since`` on.

        Returns:
            the match; None if there was none in time, or by its end.
        """
        end = time.monotonic() + within_s
        with self._news:
            while True:
                for line in self.lines[since:]:
                    if match := re.search(pattern, line):
                        return match
                left_s = end - time.monotonic()
                if left_s <= 0 or not any(reader.is_alive() for reader in self._readers):
                    return None
                self._news.wait(min(left_s, LOOK_EVERY_S))

    def signal(self, number: signal.Signals) -> None:
        """Send it, and after a SIGSTOP wait until every thread stands still.

        One that has ended does not notice.
        """
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait()

    def wait(self, *, within_s: float | None = None) -> int:
        """Wait for its end; return the exit code. All that it said can be read then.

        Raises:
            subprocess.TimeoutExpired.
        """
        code = self.process.wait(within_s)
        end = time.monotonic() + READ_WITHIN_S
        for reader in self._readers:
            reader.join(max(0.0, end - time.monotonic()))
        return code

    def stop(self, *, within_s: float | None = None) -> int:
        """Ask it to end, as SIGTERM does; otherwise as ``wait``."""
        self.signal(signal.SIGTERM)
        return self.wait(within_s=within_s)

    def _start(
        self, command: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None
    ) -> Process:
        return subprocess.Popen(  # noqa: S603 - our own command line
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for whoever started it
        )

    def _read(self, pipe: IO[str], lines: list[str]) -> None:
        with pipe:
            for line in pipe:
                with self._news:
                    lines.append(line)
                    self._news.notify_all()


class NodeProcess(ChildProcess):
    """``rqproc node start`` in a process of its own."""

    def __init__(
        self, name: str, url: str, namespace: str, arguments: Sequence[str] = (), *,
        environ: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        command = [sys.executable, "-m", "rqproc", "node", "start", "--name", name]
        # Should we be interrupted before this context is entered, the node ends by itself.
        command += ["--parent", str(os.getpid()), *arguments]
        ours = {"RQPROC_REDIS_URL": url, "RQPROC_NAMESPACE": namespace}
        super().__init__(command, env={**os.environ, **ours, **(environ or {})})

    def wait_ready(self) -> None:
        """Wait until the node serves.

        Raises:
            NodeDidNotStart: it ended, or does not serve within 30 seconds.
        """
        if not self.said(r" ready \(", within_s=READY_WITHIN_S):
            said = self.stderr.strip() or "it said nothing"
            raise NodeDidNotStart(f"node {self.name} did not start: {said}")


@dataclass(frozen=True, slots=True)
class OwnCluster:
    """Nodes, and a client, in a namespace of their own.

    Attributes:
        pids: process ids of its members by their names, for those who sweep it.
    """

    url: str
    client: Client
    pids: dict[str, int]
    nodes: list[NodeProcess]
    _stack: ExitStack

    def start(self, names: Iterable[str], *arguments: str) -> None:
        """Start nodes side by side, and wait until they serve. Raises: NodeDidNotStart."""
        for name in names:
            node = NodeProcess(name, self.url, self.client.namespace, arguments)
            self.pids[name] = node.pid
            self.nodes.append(self._stack.enter_context(node))
        for node in self.nodes:
            node.wait_ready()


@contextmanager
def own_cluster(url: str, purpose: str) -> Iterator[OwnCluster]:
    """A cluster without nodes yet; nothing of it stays on the server."""
    with (
        Client(url, namespace=f"{purpose}-{token_hex(4)}") as client,
        swept(client, url) as pids,
        ExitStack() as stack,
    ):
        yield OwnCluster(url, client, pids, [], stack)
