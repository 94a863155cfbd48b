"""Brings the server up. The steps, and what may go wrong, are in ``keeper``'s docstring.

Knows how the keeper is run, and how to read the state of a server from its locks and its answers.
Must be entered with start.lock and a share of users.lock held; who holds them is not its concern.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rqproc.errors import EmbeddedUnavailable
from rqproc.runtime import wait_for_file
from rqproc.server import locks
from rqproc.server.places import Places, claim
from rqproc.server.probe import ProbeResult, ping

if TYPE_CHECKING:
    from subprocess import Popen

ANSWER_S = 5.0
"""What a server may take until it answers at all."""
LOADING_S = 120.0
"""What it may take to read its data, during which it answers, though not to its users."""
PAUSE_S = 0.002
QUOTED_LINES = 6


def serves(places: Places) -> bool:
    """Tell whether a server answers that has a keeper."""
    return ping(places.socket) is ProbeResult.UP and locks.held(places.keeper_lock)


@dataclass(frozen=True, slots=True)
class Record:
    """What server.lock says of the server that holds it; true only while it is held."""

    pid: int

    @classmethod
    def read(cls, places: Places) -> Record | None:
        """Return the record, None if nobody holds the lock or has filled it in yet.

        Nor is there one if its process does not hold the lock: the server has just ended, or it
        runs in another container or on another machine, and that number is someone else's here.

        Raises:
            EmbeddedUnavailable: the server belongs to another runtime directory.
        """
        if not locks.held(places.server_lock):
            return None
        pid, _, socket = places.server_lock.read_text().rstrip("\n").partition("\n")
        if socket and socket != str(places.socket):
            raise EmbeddedUnavailable(
                f"the data in {places.data} is in use by a server at {socket}: start all "
                "processes with the same XDG_RUNTIME_DIR (else TMPDIR), or give this one another "
                "XDG_STATE_HOME"
            )
        if not socket or locks.has_open(int(pid), places.server_lock) is False:
            return None
        return cls(int(pid))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server, which may have gone a moment ago."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return


class Startup:
    """One attempt to bring the server up."""

    def __init__(self, places: Places, find_binary: Callable[[], Path]) -> None:
        self._places = places
        self._find_binary = find_binary
        self._began_s = time.monotonic()
        self._heard_s = self._began_s
        self._keeper: Popen[bytes] | None = None
        self._pipe = -1
        self._log_from = 0
        self._ended: set[int] = set()

    def run(self) -> None:
        """Return when the server answers and has a keeper.

        Raises:
            EmbeddedUnavailable: that did not come to pass.
        """
        try:
            while not self._is_up():
                self._step()
                time.sleep(PAUSE_S)
        finally:
            self._let_keeper_go()

    def _is_up(self) -> bool:
        answer = ping(self._places.socket)
        now_s = time.monotonic()
        if answer is ProbeResult.LOADING and now_s < self._began_s + LOADING_S:
            self._heard_s = now_s
        if now_s > self._heard_s + ANSWER_S:
            raise self._failure(f"no server was ready within {ANSWER_S:g} s ({self._why(answer)})")
        return answer is ProbeResult.UP and locks.held(self._places.keeper_lock)

    def _why(self, answer: ProbeResult) -> str:
        if self._keeper is None and locks.held(self._places.server_lock):
            return f"{answer.value}, and another process holds {self._places.server_lock}"
        return answer.value

    def _step(self) -> None:
        if self._keeper is not None:
            self._check_keeper()
        elif not locks.held(self._places.server_lock):
            self._run_keeper()
        else:
            self._check_server()

    def _run_keeper(self) -> None:
        import subprocess

        places = self._places
        claim(places.state)
        claim(places.data)
        files = (places.socket, places.users_lock, places.keeper_lock, places.server_lock)
        script = Path(__file__).with_name("keeper.py")
        arguments = (self._find_binary(), *files, places.data, places.log)
        log = os.open(places.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._log_from = os.fstat(log).st_size
        self._pipe, its_end = os.pipe()
        try:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", script, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=its_end,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(its_end)
            os.close(log)
        self._heard_s = time.monotonic()

    def _check_keeper(self) -> None:
        """Raise if the keeper that we ran has ended: its end of the pipe is closed then."""
        if wait_for_file(self._pipe, 0.0):
            raise self._failure("the server ended as soon as it was started")

    def _check_server(self) -> None:
        """Deal with a server that we did not start: an orphan is ended, another is on its way."""
        record = Record.read(self._places)
        if record is None:
            return
        if not locks.held(self._places.keeper_lock) and record.pid not in self._ended:
            record.signal(signal.SIGTERM)
            self._ended.add(record.pid)

    def _failure(self, what: str) -> EmbeddedUnavailable:
        lines = self._log_lines()[-QUOTED_LINES:]
        quoted = "".join(f"\n  {line}" for line in lines)
        says = f" ends with{quoted}\nand" if quoted else ""
        return EmbeddedUnavailable(f"{what}; its log{says} is {self._places.log}")

    def _log_lines(self) -> list[str]:
        """Return what was logged during this attempt; the keeper may have cut the log."""
        try:
            with self._places.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(self._log_from if self._log_from <= size else 0)
                return log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _let_keeper_go(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
        if self._keeper is not None:
            self._keeper.wait()  # for the process that detached the keeper: it ended at once
