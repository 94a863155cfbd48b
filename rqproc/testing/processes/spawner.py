"""A process that has the nodes as its children: it forks them, signals them, and outlives none.

Knows forks and signals. Must not know nodes: what a child does is given to it.

It is forked before its parent has anything that nodes should not inherit, and is left alone by
what ends the tests: it ends when its channel does, with all its children, and clears up.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rqproc.testing.processes.forks import Channel, ForkedHelper, fork, wakes_at_ends
from rqproc.testing.processes.journal import ClusterJournal

LOOK_S = 1.0

Live = Callable[[str, str], None]
"""What a child does: with its name, and the URL of the server."""


class Spawner(ForkedHelper):
    """From the test's side.

    Args:
        live: what a child does.
        clear_up: the last thing that the process does.
        logs: the folder of the children's output, each in a file of its name.
        journal: told of their ends: ``ended``, with process id and exit code.
    """

    def __init__(
        self, live: Live, *, clear_up: Callable[[], None], logs: Path, journal: ClusterJournal
    ) -> None:
        self._logs = logs
        inside = _Spawner(live, clear_up, self.log_of, journal)
        super().__init__(inside.serve, name="the spawner", log=logs / "spawner")

    def log_of(self, name: str) -> Path:
        """Return where a child's output goes."""
        return self._logs / f"node.{name}"

    def start(self, name: str, url: str) -> int:
        """Fork a child; return its process id."""
        return int(self("start", name, url))

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal, and wait until it has stopped if that is what the signal is for.

        One that has ended does not notice.
        """
        self("signal", pid, int(number))


class _Spawner:
    """In the process itself."""

    def __init__(
        self, live: Live, clear_up: Callable[[], None], log_of: Callable[[str], Path],
        journal: ClusterJournal,
    ) -> None:  # fmt: skip
        self._live = live
        self._clear_up = clear_up
        self._log_of = log_of
        self._journal = journal
        self._living: set[int] = set()

    def serve(self, channel: Channel) -> None:
        self._channel = channel
        self._ended, _ = wakes_at_ends()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it ends when there is nobody to serve
        sources: list[Any] = [channel, self._ended]
        obeys = True
        while obeys:
            ready = select.select(sources, [], [])[0]
            if self._ended in ready:
                os.read(self._ended, 1024)
                self._reap(os.WNOHANG)
            if channel in ready:
                obeys = channel.obey(self._obey)
        self._end_all()
        self._clear_up()

    def _obey(self, order: str, *args: Any) -> Any:
        return self._start(*args) if order == "start" else self._signal(*args)

    def _start(self, name: str, url: str) -> int:
        spawner = os.getpid()

        def work() -> None:
            self._channel.close()
            _end_with(spawner)
            self._live(name, url)

        pid = fork(work, log=self._log_of(name))
        self._living.add(pid)
        return pid

    def _signal(self, pid: int, number: int) -> None:
        if pid not in self._living:
            return
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            self._note(*os.waitpid(pid, os.WUNTRACED))

    def _reap(self, flags: int) -> None:
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, flags))[0]:
                self._note(*found)

    def _note(self, pid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self._living.discard(pid)
            self._journal.tell("ended", pid, os.waitstatus_to_exitcode(status))

    def _end_all(self) -> None:
        for pid in self._living:
            os.kill(pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what a handler has started is of its group
        self._reap(0)


def _end_with(parent: int) -> None:
    """Should the spawner itself be killed, its children end too."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="rqproc-spawner", daemon=True).start()
