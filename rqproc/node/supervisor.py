"""Runs several nodes as child processes, and starts those anew that die, or have served for long
enough.

Knows processes. A parent learns of its child's death at once; the cluster would need a lease. So
each death is reported before the child is started anew.

A child tells by a pipe, in lines, that it serves (``READY``) and that it has reached a limit. It is
drained when all others serve: no two are away at once.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rqproc.errors import RedisUnavailable
from rqproc.log_events import tell

log = logging.getLogger("rqproc.supervisor")

READY = "ready"
USAGE = 2
QUICK_DEATH_S = 5.0
RENEWED_WITHIN_S = 2.0
"""Where what they run has changed, children that hold requests for longer are stopped at once."""
LONGEST_PAUSE_S = 10.0
MOST_FAILURES = 3


@dataclass(frozen=True, slots=True)
class _Ended:
    """A child that has ended, and whether the cluster still counted on it."""

    child: subprocess.Popen[bytes]
    was_counted_on: bool


@dataclass(frozen=True, slots=True)
class _Said:
    """A line of a child that lives: ``READY``, or the limit that it has reached."""

    child: subprocess.Popen[bytes]
    line: str


@dataclass(frozen=True, slots=True)
class _Changed:
    """What the children run has changed."""

    reason: str


def tell_supervisor(tells: int, line: str) -> None:
    """Tell this node's supervisor, by the file descriptor that it gave; one that has gone will be
    noticed by its absence.
    """
    os.set_inheritable(tells, False)
    with suppress(OSError):
        os.write(tells, f"{line}\n".encode())


_Event = _Ended | _Said | _Changed | None
"""None: a child is due to be started."""

_SAID = "see its message above"


class Supervisor:
    """Children by name.

    Args:
        command: gives a child's command line, which names the file descriptor by which it tells.
        report_death: tells the cluster that the process of a name has ended; returns whether the
            cluster still counted on it. Called on a thread for each child.
        strict: kill a child that is stopped (SIGSTOP): it cannot end itself by its lease's end.
        patient: wait for a change (``renew``) where a child cannot start, rather than end.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        command: Callable[[str, int], list[str]],
        environ: Mapping[str, str],
        report_death: Callable[[str, int], bool],
        strict: bool = False,
        patient: bool = False,
    ) -> None:
        self._names = names
        self._command = command
        self._environ = environ
        self._report_death = report_death
        self._strict = strict
        self._patient = patient
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._started_at: dict[str, float] = {}
        self._pauses_s: dict[str, float] = dict.fromkeys(names, 0.0)
        self._failures: dict[str, int] = dict.fromkeys(names, 0)
        self._events: queue.SimpleQueue[tuple[str, _Event]] = queue.SimpleQueue()
        self._serving: set[str] = set()
        self._spent: dict[str, str] = {}
        self._leaving: set[str] = set()
        self._broken: set[str] = set()
        self._pending: dict[str, threading.Timer] = {}
        self._stopping = threading.Event()
        self._code = 0

    def run(self) -> int:
        """Supervise until all children have ended; return the exit code."""
        for name in self._names:
            self._start(name)
        while self._children or self._pending or (self._broken and not self._stopping.is_set()):
            name, event = self._events.get()
            if isinstance(event, _Changed):
                self._renew(event.reason)
            elif event is None:
                self._pending.pop(name, None)
                if not self._stopping.is_set():
                    self._start(name)
            elif isinstance(event, _Said):
                self._hear(name, event)
            else:
                del self._children[name]
                self._serving.discard(name)
                self._spent.pop(name, None)
                self._after(name, event)
            self._recycle_one()
        return self._code

    def stop(self) -> None:
        """Let every child drain, and start none anew. For signal handlers too."""
        self._stop(signal.SIGTERM)

    def renew(self, reason: str) -> None:
        """Have every child end, quickly, and start it anew; those too that could not start."""
        self._events.put(("", _Changed(reason)))

    def kill(self) -> None:
        """End every child at once."""
        self._stop(signal.SIGKILL)

    def _stop(self, signum: signal.Signals) -> None:
        self._stopping.set()
        for timer in list(self._pending.values()):
            timer.cancel()
        for name in ["", *self._pending]:
            self._events.put((name, None))
        for child in list(self._children.values()):
            child.send_signal(signum)

    def _start(self, name: str) -> None:
        # A session of its own: Ctrl-C in the terminal is ours to pass on, once.
        hears, tells = os.pipe()
        child = subprocess.Popen(
            self._command(name, tells),
            env=dict(self._environ),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(tells,),
        )
        os.close(tells)
        self._children[name] = child
        self._started_at[name] = time.monotonic()
        threading.Thread(target=self._watch, args=(name, child), daemon=True).start()
        threading.Thread(target=self._listen, args=(name, child, hears), daemon=True).start()
        if self._stopping.is_set():
            child.send_signal(signal.SIGTERM)

    def _watch(self, name: str, child: subprocess.Popen[bytes]) -> None:
        if self._strict and _has_stopped(child.pid):
            tell(
                log, "child_stopped", "%s (pid %d) is stopped: killing it", name, child.pid,
                node=name, pid=child.pid,
            )  # fmt: skip
            child.kill()
        child.wait()
        # Here, since it may take long where the server is away, and others end meanwhile.
        self._events.put((name, _Ended(child, self._report(name, child.pid))))

    def _listen(self, name: str, child: subprocess.Popen[bytes], hears: int) -> None:
        with os.fdopen(hears) as lines:
            for line in lines:
                self._events.put((name, _Said(child, line.strip())))

    def _hear(self, name: str, said: _Said) -> None:
        if self._children.get(name) is not said.child:
            return
        if said.line == READY:
            self._serving.add(name)
        else:
            self._spent[name] = said.line

    def _recycle_one(self) -> None:
        """Drain one that has reached a limit, if all others serve."""
        expected = {*self._children, *self._pending}
        if self._stopping.is_set() or not self._spent or not expected <= self._serving:
            return
        name, reason = next(iter(self._spent.items()))
        del self._spent[name]
        self._leaving.add(name)
        self._serving.discard(name)
        child = self._children[name]
        tell(
            log, "child_recycled", "%s (pid %d) is drained, %s", name, child.pid, reason,
            node=name, pid=child.pid, reason=reason,
        )  # fmt: skip
        child.send_signal(signal.SIGTERM)

    def _after(self, name: str, ended: _Ended) -> None:
        child, code = ended.child, ended.child.returncode
        # One that has drained has left the cluster by itself; whatever else ends with 0 has died.
        has_left = code == 0 and not ended.was_counted_on
        was_told = name in self._leaving
        self._leaving.discard(name)
        if was_told and (has_left or self._patient) and not self._stopping.is_set():
            self._start(name)
            return
        if has_left or self._stopping.is_set():
            self._code = self._code or max(code, 0)
            return
        if code == USAGE or self._fails_at_start(name, ended):
            self._give_up(name, code)
            return
        tell(
            log, "child_died", "%s (pid %d) died: %s; starting it anew", name, child.pid,
            _cause(code), node=name, pid=child.pid, cause=_cause(code),
        )  # fmt: skip
        self._start_later(name)

    def _give_up(self, name: str, code: int) -> None:
        """It cannot start: end, or wait for a change."""
        times = f"{_cause(code)}, {MOST_FAILURES} times in a row"
        told = _SAID if code == USAGE else times
        tell(
            log, "child_cannot_start", "%s cannot start: %s", name, told, node=name,
            cause=_cause(code),
        )  # fmt: skip
        if self._patient:
            tell(log, "app_awaited", "%s waits for a change", name, node=name, where="")
            self._failures[name] = 0
            self._broken.add(name)
            return
        self._code = code
        self.stop()

    def _renew(self, reason: str) -> None:
        if self._stopping.is_set():
            return
        tell(log, "app_changed", "%s: starting all nodes anew", reason, reason=reason)
        for name, child in self._children.items():
            self._leaving.add(name)
            child.send_signal(signal.SIGTERM)
            timer = threading.Timer(RENEWED_WITHIN_S, child.send_signal, args=(signal.SIGTERM,))
            timer.daemon = True
            timer.start()
        broken, self._broken = self._broken, set()
        for name in broken:
            self._start(name)

    def _fails_at_start(self, name: str, ended: _Ended) -> bool:
        """Whether it has ended by itself again, before it was a member; a server that is away is no
        fault of its own.
        """
        code = ended.child.returncode
        by_itself = code > 0 and code != RedisUnavailable.exit_code
        if not by_itself or ended.was_counted_on or not self._died_quickly(name):
            self._failures[name] = 0
            return False
        self._failures[name] += 1
        return self._failures[name] >= MOST_FAILURES

    def _died_quickly(self, name: str) -> bool:
        return time.monotonic() - self._started_at[name] < QUICK_DEATH_S

    def _report(self, name: str, pid: int) -> bool:
        """Return whether the cluster has still counted on it."""
        try:
            return self._report_death(name, pid)
        except ConnectionError as error:
            text = "the death of %s is not reported, its lease will run out: %s"
            tell(log, "death_unreported", text, name, error, node=name, error=error)
            return False

    def _start_later(self, name: str) -> None:
        """A child that dies at once again and again is started less and less often."""
        before = self._pauses_s[name]
        now = min(max(0.1, before * 2), LONGEST_PAUSE_S) if self._died_quickly(name) else 0.0
        self._pauses_s[name] = now
        timer = threading.Timer(now, self._events.put, args=((name, None),))
        timer.daemon = True
        self._pending[name] = timer
        timer.start()


def _has_stopped(pid: int) -> bool:
    """Wait until a child stops or ends, without reaping it; return whether it has stopped."""
    if not hasattr(os, "waitid"):
        return False
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
    return found is not None and found.si_code == os.CLD_STOPPED


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
