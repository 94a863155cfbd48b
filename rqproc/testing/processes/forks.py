"""Processes that are forked from a test's own: they obey it, and they end with it.

Knows fork, signals and channels. Must not know what is ordered over them.

A fork needs no import path: what the test's process knows, the handlers that a test has written
inside a function too, its children know. A channel is all that they share from then on; its end
says that the test's process has gone, however that came to pass.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn, Self

DIED = 70
"""The exit code of a child whose work has raised."""

QUOTED_LINES = 12

Obey = Callable[..., Any]
"""Called with an order and its arguments; what it returns, or raises, is the answer."""


class Channel:
    """The end of whoever obeys."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._orders = ours.makefile("rb")

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._orders.close()
        self._socket.close()

    def obey(self, obey: Obey) -> bool:
        """Read an order, carry it out and answer; return False where there will be none."""
        line = self._orders.readline()
        if not line.endswith(b"\n"):
            return False
        try:
            answer = {"value": obey(*json.loads(line))}
        except Exception as error:  # noqa: BLE001 - it is raised where the order came from
            traceback.print_exc()
            answer = {"error": repr(error)}
        with suppress(OSError):  # nobody waits for it any more
            self._socket.sendall(json.dumps(answer).encode() + b"\n")
        return True


class ForkedHelper:
    """A process that obeys this one. A context: left, it has ended.

    Args:
        serve: what it does, with its end of the channel, until that has no more orders.
        log: where its output goes.
    """

    def __init__(self, serve: Callable[[Channel], None], *, name: str, log: Path) -> None:
        self.name = name
        self._log = log
        self._ours, its = socket.socketpair()

        def work() -> None:
            self._ours.close()
            serve(Channel(its))

        self.pid = fork(work, log=log)
        its.close()
        self._answers = self._ours.makefile("rb")
        self._turn = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):  # not close() alone: another child may have inherited this end
            self._ours.shutdown(socket.SHUT_RDWR)
        self._answers.close()
        self._ours.close()
        with suppress(ChildProcessError):  # where SIGCHLD is ignored
            os.waitpid(self.pid, 0)

    def __call__(self, order: str, *args: Any) -> Any:
        """Give an order, and return its answer.

        Raises:
            AssertionError: it could not be carried out.
        """
        with self._turn:
            line = self._exchange(json.dumps([order, *args]).encode() + b"\n")
        if not line:
            raise AssertionError(f"{self.name} has ended: {last_lines(self._log)}")
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"{self.name} cannot {order}: {answer['error']}")
        return answer["value"]

    def _exchange(self, line: bytes) -> bytes:
        try:
            self._ours.sendall(line)
            return self._answers.readline()
        except OSError:
            return b""


def fork(work: Callable[[], object], *, log: Path) -> int:
    """Fork a child that does something and ends; return its process id.

    Of what the parent runs in its end (pytest's reports, atexit) the child runs nothing.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with warnings.catch_warnings():
        # Of other threads (pytest-timeout's, a client's) the child needs nothing, nor their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        _live(work, log)
    return pid


def wakes_at_ends() -> tuple[int, int]:
    """Return a pipe's ends; the first can be read from when a child has ended or stopped."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return reads, writes


def last_lines(log: Path) -> str:
    """Return the end of what a child has said."""
    try:
        lines = log.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(lines[-QUOTED_LINES:]) or "it said nothing"


def _live(work: Callable[[], object], log: Path) -> NoReturn:
    code = DIED
    try:
        _start_afresh(log)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else DIED
    except BaseException:  # noqa: BLE001 - it is written down, and there is nobody above
        traceback.print_exc()
    finally:
        os._exit(code)


def _start_afresh(log: Path) -> None:
    """Drop what the parent has set up for itself."""
    gc.freeze()  # what is garbage in the parent is the parent's to finalize
    os.setsid()  # Ctrl-C is for whoever runs the tests
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _speak_to(log)


def _speak_to(log: Path) -> None:
    """Have all output go to a file: standard streams, logs, the interpreter's last words."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    logging.root.handlers[:] = [logging.StreamHandler(sys.stderr)]
    logging.root.setLevel(logging.INFO)
