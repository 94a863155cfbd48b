"""``rqproc`` commands as processes of their own, forked from one that has imported all they need.

To import it takes a command half a second of processor time, more than most tests' own work. What
is forked has its environment, its folder, its session and its standard streams to itself, and ends
as an interpreter does. As a program this file is the process that forks.

Knows forks and signals. Must not know what the commands do.
"""

from __future__ import annotations

import gc
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import IO, NamedTuple

from rqproc.testing.processes.forks import wakes_at_ends

MODULES = ("rqproc.cli.serve", "rqproc.node.node", "rqproc.sample", "rqproc.aio", "rich.table")
"""Beside the commands themselves."""

READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "OTEL_", "_RQPROC", "MARK")
"""Beginnings of variables that an interpreter, or a module, reads once, as it starts; the import
path can be changed later. And of one by which tests find processes in /proc."""

STARTED_WITHIN_S = 30.0
STOPPED_WITHIN_S = 5.0
"""One that had stopped before stops no more."""
LOOK_EVERY_S = 0.05
STREAMS = 3
READY = b"ready\n"
STOPPED = b"stopped\n"

_turn = Lock()


def may_fork(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a command is one of ours, and its environment such that a fork can have it."""
    changed = {name for name, _ in env.items() ^ os.environ.items()} - {"PYTHONPATH"}
    return tuple(command[:3]) == (sys.executable, "-m", "rqproc") and not any(
        name.startswith(READ_AT_START) for name in changed
    )


class Forked:
    """A process, as ``subprocess.Popen`` has it; whoever forked it tells what becomes of it."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        stdin: IO[bytes],
    ) -> None:
        out, its_out = os.pipe()
        err, its_err = os.pipe()
        self.stdout: IO[str] = os.fdopen(out, encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(err, encoding="utf-8")
        self.returncode: int | None = None
        self._reading = Lock()
        self._teller = socket.socket(socket.AF_UNIX)
        self._teller.settimeout(STARTED_WITHIN_S)
        with _turn:  # cache() alone would start several
            self._teller.connect(_server()[0])
        request = json.dumps([list(arguments), dict(env), str(cwd or Path.cwd())]).encode()
        self._teller.sendall(b"%d " % len(request) + request)
        socket.send_fds(self._teller, [b"\n"], [stdin.fileno(), its_out, its_err])
        for descriptor in (its_out, its_err):
            os.close(descriptor)
        self.pid = int(self._word())

    def poll(self) -> int | None:
        """Return its exit code; None while it lives."""
        self._read(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit code. Raises: subprocess.TimeoutExpired."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self._read(min(left_s, LOOK_EVERY_S))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it, unless it has ended; after a SIGSTOP it has stopped."""
        if self.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
        end = time.monotonic() + STOPPED_WITHIN_S
        while number == signal.SIGSTOP and self.returncode is None and time.monotonic() < end:
            if self._read(LOOK_EVERY_S) == STOPPED:
                break

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self, within_s: float) -> bytes:
        """Return what has become of it, if that is told in time. From any thread."""
        with self._reading:
            if (
                self.returncode is not None
                or not select.select([self._teller], [], [], within_s)[0]
            ):
                return b""
            word = self._word()
            if word != STOPPED:
                self.returncode = int(word)
                self._teller.close()
            return word

    def _word(self) -> bytes:
        word = b""
        while not word.endswith(b"\n"):
            byte = self._teller.recv(1)  # no more: what follows is for the next to ask
            assert byte, "the process that forks has ended"
            word += byte
        return word


@cache
def _server() -> tuple[str, subprocess.Popen[bytes]]:
    """Start the process that forks, once; return its address too. It ends with its stdin."""
    path = Path(tempfile.mkdtemp(prefix="rqproc-forks-")) / "s"
    server = subprocess.Popen(
        [sys.executable, __file__, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert server.stdout
    assert server.stdout.readline() == READY
    return str(path), server


# --- the process that forks ---


class Start(NamedTuple):
    """What a child is to be."""

    arguments: list[str]
    env: dict[str, str]
    cwd: str
    streams: list[int]


class Server:
    """Forks what it is asked for, and tells what becomes of it."""

    def __init__(self, path: str) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen(64)
        self._folder = Path(path).parent
        self._askers: dict[int, socket.socket] = {}
        self._ended, self._wakes = wakes_at_ends()

    def serve(self) -> Start | None:
        """Return what to be in each child; None in the parent, when nobody is left to ask."""
        os.write(1, READY)
        while True:
            ready, _, _ = select.select([self._listening, self._ended, sys.stdin], [], [])
            if self._ended in ready:
                os.read(self._ended, 1024)
                self._tell()
            if self._listening in ready and (start := self._fork()):
                return start
            if sys.stdin in ready:
                self._end()
                return None

    def _fork(self) -> Start | None:
        asker, _ = self._listening.accept()
        length = bytearray()
        while not length.endswith(b" "):
            length += asker.recv(1)
        request = asker.recv(int(length), socket.MSG_WAITALL)
        _, streams, _, _ = socket.recv_fds(asker, 1, STREAMS)
        arguments, env, cwd = json.loads(request)
        start = Start(arguments, env, cwd, streams)
        if pid := os.fork():
            self._askers[pid] = asker
            asker.sendall(b"%d\n" % pid)
            for descriptor in streams:
                os.close(descriptor)
            return None
        for ours in (asker, self._listening, *self._askers.values()):
            ours.close()
        signal.set_wakeup_fd(-1)
        for end in (self._ended, self._wakes):
            os.close(end)
        return start

    def _tell(self) -> None:
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG | os.WUNTRACED))[0]:
                pid, status = found
                stopped = os.WIFSTOPPED(status)
                word = STOPPED if stopped else b"%d\n" % os.waitstatus_to_exitcode(status)
                with suppress(OSError):  # the asker's test is over
                    self._askers[pid].sendall(word)
                if not stopped:
                    self._askers.pop(pid).close()

    def _end(self) -> None:
        for pid in self._askers:
            os.kill(pid, signal.SIGKILL)
        (self._folder / "s").unlink()
        self._folder.rmdir()


def become(start: Start, path: list[str]) -> None:
    """Be, in a forked child, what an interpreter is that has just started."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for standard, descriptor in enumerate(start.streams):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(start.env)
    os.chdir(start.cwd)
    named = start.env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [start.cwd, *filter(None, named), *path]
    sys.argv[1:] = start.arguments
    # The streams of before may know by now that they can seek, or that they cannot.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )


def main() -> None:
    """Fork until there is nobody to fork for; and be what is forked."""
    from rqproc.cli import main as run
    from rqproc.cli.root import COMMANDS
    from rqproc.protocol.library import library

    for module in (*MODULES, *(where.partition(":")[0] for where in COMMANDS.values())):
        import_module(module)
    library()
    gc.freeze()
    path = [folder for folder in sys.path if folder != str(Path(__file__).parent)]
    if start := Server(sys.argv[1]).serve():
        become(start, path)
        run(start.arguments)


if __name__ == "__main__":
    main()
