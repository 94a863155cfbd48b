"""Ends the process when a handler still runs though the lease may not be relied on (``--strict``).

Knows the C-level timer of ``faulthandler``: it fires even while a handler holds the interpreter's
lock, or the moment a stopped process goes on. It dumps every thread's stack and ends the process
without any clean-up; a supervisor starts it anew.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from threading import Lock
from typing import Protocol

log = logging.getLogger("rqproc.node")

ENDED = 1
STDERR = 2
SHORTEST_S = 0.001


class Watch(Protocol):
    """What the worker and the heart tell."""

    def busy(self, running: bool, *, trusted_s: float) -> None:
        """Whether handlers run, and for how many seconds the lease may be relied on."""

    def renewed(self, *, trusted_s: float) -> None:
        """The lease has been renewed."""


class NoWatch:
    """Without ``--strict`` a handler is left to its end."""

    def busy(self, running: bool, *, trusted_s: float) -> None:
        """Nothing is watched."""

    def renewed(self, *, trusted_s: float) -> None:
        """Nothing is watched."""


class Watchdog:
    """One for a process: the timer is the process's only one."""

    def __init__(self) -> None:
        self._running = False
        self._lock = Lock()

    def busy(self, running: bool, *, trusted_s: float) -> None:
        with self._lock:
            if running and trusted_s <= 0:
                self._end()
            if running == self._running:
                return
            self._running = running
            if running:
                self._set(trusted_s)
            else:
                faulthandler.cancel_dump_traceback_later()

    def renewed(self, *, trusted_s: float) -> None:
        with self._lock:
            if self._running:
                self._set(trusted_s)

    def _set(self, trusted_s: float) -> None:
        faulthandler.dump_traceback_later(max(trusted_s, SHORTEST_S), exit=True, file=STDERR)

    def _end(self) -> None:
        """The timer does not count the time of a suspended machine; the lease's clock does."""
        log.error("strict: a handler still runs though the lease is not sure: ending this process")
        logging.shutdown()
        os._exit(ENDED)
