"""Nodes and commands as processes, the shop's book, and waiting for conditions.

Everything started here is ended here; nothing is waited for by sleeping a fixed time.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
import redis
from preloaded import Forked, may_fork
from rq.job import Job, JobStatus
from watch import Watch

import rqproc
from rqproc import Client, cli
from rqproc.errors import Overloaded
from rqproc.lab.overlaps import Span, overlaps
from rqproc.lab.processes import ChildProcess, Process

SOURCE = Path(rqproc.__file__).parents[1]
HERE = Path(__file__).parent
RQPROC = (sys.executable, "-m", "rqproc")
BRISK = ("--lease", "1", "--heartbeat", "0.2")
"""Where a lease has to end. A busy machine may keep a node from its heart for as long."""
SHORT = ("--lease", "3", "--heartbeat", "0.2")
"""Where one lease has to end, and those of the others must not."""
PATIENT = ("--lease", "10", "--heartbeat", "0.2")

T = TypeVar("T")


def environ(url: str, namespace: str, **more: str) -> dict[str, str]:
    """The environment of a process that plays on this server, with none of the caller's knobs."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RQPROC_", "RQ_", "REDIS_"))}
    path = os.pathsep.join((str(SOURCE), str(HERE)))
    ours = {"RQPROC_REDIS_URL": url, "RQPROC_NAMESPACE": namespace, "PYTHONPATH": path}
    ours["SHOP_URL"] = url
    return {**clean, **ours, **more}


def eventually(
    look: Callable[[], T], *, within_s: float = 20.0, what: str = "", every_s: float = 0.01
) -> T:
    """Return the first truthy thing that ``look`` returns."""
    end = time.monotonic() + within_s
    while True:
        if found := look():
            return found
        if time.monotonic() >= end:
            raise AssertionError(f"not within {within_s:g} s: {what or look}")
        time.sleep(every_s)


def promptly(look: Callable[[], T], *, within_s: float, what: str = "") -> T:
    """The same, of what has to be so soon: what a busy machine adds does not count."""
    watch = Watch()
    try:
        while not (found := look()):
            assert watch.s < within_s, f"not within {within_s:g} s: {what or look}"
            time.sleep(0.01)
        return found
    finally:
        watch.stop()


def get(port: int, path: str) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def settle(client: Client) -> None:
    """Wait until every node has beaten: what follows is about nodes that have been up a while."""
    left = {node.name: node.lease_left_s for node in client.membership().nodes}
    waiting = set(left)

    def beaten() -> bool:
        for node in client.membership().nodes:
            if node.lease_left_s > left[node.name]:
                waiting.discard(node.name)
            left[node.name] = node.lease_left_s
        return not waiting

    eventually(beaten, every_s=0.002)


def until_taken(client: Client, ids: Iterable[int], requests: int) -> None:
    """Wait until so many requests are at nodes, those of these ids in their lanes."""
    eventually(
        lambda: sum(node.held for node in client.membership().nodes) == requests,
        what=f"{requests} requests at nodes",
    )
    for id in ids:  # the server says so first; what it gave to a node before this has arrived there
        client.request(id, "price")


def fill(client: Client, id: int) -> tuple[list[Job], Overloaded]:
    """Enqueue until the one node is full; return what it has accepted, and the last refusal."""
    accepted: list[Job] = []

    def refusal() -> Overloaded | None:
        try:
            accepted.append(client.enqueue(id, "gated"))
        except Overloaded as error:
            (node,) = client.membership().nodes  # what it still has room for, it takes any moment
            return error if node.held == node.queued == error.limit else None
        return None

    refused = eventually(refusal, what="a full node")
    assert refused
    return accepted, refused


def ended(job: Job) -> JobStatus:
    """Wait until a job waits and runs no more; return its status."""
    left = (JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.READY_TO_ENQUEUE)
    eventually(lambda: job.get_status() not in left, what=f"the end of {job.id}")
    return job.get_status()


class Running(ChildProcess):
    """A process of a test's; ``with`` kills it at the end.

    Args:
        text: what it reads.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None,
        text: str = "",
    ) -> None:  # fmt: skip
        self._text = text
        super().__init__(command, env=env, cwd=cwd)

    def _start(
        self, command: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None
    ) -> Process:
        if env is None or not may_fork(command, env):
            return super()._start(command, env, cwd)
        with tempfile.TemporaryFile() as stdin:
            stdin.write(self._text.encode())
            stdin.seek(0)
            return Forked(command[3:], env=env, cwd=cwd, stdin=stdin)

    def says(self, pattern: str, *, within_s: float = 30.0, since: int = 0) -> re.Match[str]:
        """Wait until a line of stderr matches, looking from line ``since`` on."""
        found = self.said(pattern, within_s=within_s, since=since)
        assert found, f"{pattern!r} was not said: {self.stderr}"
        return found

    def ready(self) -> Self:
        """Wait until it, a node, serves."""
        self.says(r"node \S+ ready \(")
        return self

    def wait(self, *, within_s: float | None = 30.0) -> int:
        return super().wait(within_s=within_s)

    def stop(self, *, within_s: float | None = 30.0) -> int:
        """Drain it; return the exit code."""
        return super().stop(within_s=within_s)


def node(
    url: str, namespace: str, name: str, *arguments: str, app: str | None = "shop:app",
    cwd: Path | None = None, **env: str,
) -> Running:  # fmt: skip
    """A node, on its way; ``ready()`` waits for it."""
    spec = (app,) if app else ()
    command = (*RQPROC, "node", "start", "--name", name, *arguments, *spec)
    return Running(command, env=environ(url, namespace, **env), cwd=cwd)


def command(url: str, namespace: str, *arguments: str, **env: str) -> Running:
    """A ``rqproc`` command, on its way."""
    return Running((*RQPROC, *arguments), env=environ(url, namespace, **env))


def greenlets(url: str, namespace: str, library: str, *cases: str, **env: str) -> Running:
    """A program that gevent or eventlet has patched, on its way; see ``greenlets.py``."""
    command = (sys.executable, str(HERE / "greenlets.py"), library, *cases)
    return Running(command, env=environ(url, namespace, **env))


def played(program: Running) -> dict[str, Any]:
    """Wait for the end of a program of greenlets; return what came of each of its cases."""
    assert program.wait(within_s=100) == 0, program.stderr
    assert "Traceback" not in program.stderr
    found: dict[str, Any] = json.loads(program.stdout)
    return found


def finished(
    url: str, namespace: str, *arguments: str, text: str = "", within_s: float = 20.0, **env: str
) -> subprocess.CompletedProcess[str]:
    """A ``rqproc`` command that has ended. ``text``: what it reads."""
    with Running((*RQPROC, *arguments), env=environ(url, namespace, **env), text=text) as running:
        code = running.wait(within_s=within_s)
        return subprocess.CompletedProcess(arguments, code, running.stdout, running.stderr)


def script(text: str, url: str, namespace: str, *arguments: str) -> str:
    """Run a Python program; return what it printed."""
    done = subprocess.run(
        (sys.executable, "-W", "error", "-c", text, *arguments),
        env=environ(url, namespace),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Line:
    """Runs commands in this process, as if typed; what they raise in vain is the test's error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: str) -> tuple[int, str, str]:
        """Return the exit code, what was printed, and what went to stderr."""
        self._capsys.readouterr()
        code = cli.run(args)
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def json(self, *args: str) -> list[Any]:
        code, out, err = self(*args, "--json")
        assert (code, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]


def read_terminal(ours: int) -> bytes:
    """Return all that is written to a terminal, whose other end this process has closed."""
    written = b""
    with suppress(OSError):  # the end of a terminal that nobody has open any more
        while some := os.read(ours, 65536):
            written += some
    os.close(ours)
    return written


class Book:
    """What the shop's handlers have told, and the gates that they wait at."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client

    def started(self, resource: str, id: object, *, within_s: int = 15) -> str:
        """Wait for the next start of a handler of this id; return its tag."""
        found: Any = self.redis.blpop([f"test:started:{resource}:{id}"], timeout=within_s)
        assert found, f"no handler of {resource} {id} started"
        return str(found[1].decode())

    def has_started(self, resource: str, id: object) -> bool:
        """Whether a start has not been waited for yet."""
        return bool(self.redis.exists(f"test:started:{resource}:{id}"))

    def release(self, resource: str, id: object, *, times: int = 1, on: str = "") -> None:
        """Let handlers of this id go on, whichever; or those ``on`` one node."""
        gate = f"test:gate:{resource}:{id}"
        self.redis.rpush(f"{gate}:{on}" if on else gate, *["go"] * times)

    def count(self, resource: str, id: object) -> int:
        """How often the value of this id was computed."""
        found: Any = self.redis.get(f"test:count:{resource}:{id}")
        return int(found or 0)

    def log(self, resource: str, id: object) -> list[tuple[str, str, str]]:
        """Every (start or end, tag, node) of this id, in order."""
        lines: Any = self.redis.lrange(f"test:log:{resource}:{id}", 0, -1)
        return [tuple(line.decode().split(" ")) for line in lines]

    def order(self, resource: str, id: object) -> list[str]:
        """The tags of the runs of this id, in order of their starts."""
        return [tag for what, tag, _ in self.log(resource, id) if what == "start"]


def overlapping(
    log: Iterable[tuple[str, str, str]], *, dead: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """Return the pairs of tags whose runs overlap; a run on a ``dead`` node ends with its node."""
    gone = set(dead)
    runs: list[Span[str]] = []
    latest: dict[str, int] = {}
    for moment, (what, tag, where) in enumerate(log):
        if what == "start":
            latest[tag] = len(runs)
            runs.append(Span("", tag, moment, moment if where in gone else math.inf))
        else:
            runs[latest[tag]] = replace(runs[latest[tag]], ended=moment)
    return [(first.of, second.of) for first, second in overlaps(runs)]
