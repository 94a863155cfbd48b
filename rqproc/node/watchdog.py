"""Ends the process when a handler still runs though the lease may not be relied on (``--strict``).

Knows the C-level timer of ``faulthandler``: it fires even while a handler holds the interpreter's
lock, or the moment a stopped process goes on. It dumps every thread's stack and ends the process
without any clean-up; a supervisor starts it anew. (To read the stacks of threads that run may
crash, and a crash is an end too.)
"""

from __future__ import annotations

import faulthandler
import logging
import os
from collections.abc import Callable
from threading import Lock
from typing import Protocol

from rqproc.log_events import tell

log = logging.getLogger("rqproc.node")

ENDED = 1
STDERR = 2
SHORTEST_S = 0.001


Trusted = Callable[[], float]
"""Tells for how many seconds the lease may still be relied on."""


class Watch(Protocol):
    """What the worker and the heartbeat tell."""

    def busy(self, running: bool, trusted_s: Trusted) -> None:
        """Whether handlers run."""

    def renewed(self) -> None:
        """The lease has been renewed."""


class NoWatch:
    """Without ``--strict`` a handler is left to its end."""

    def busy(self, running: bool, trusted_s: Trusted) -> None:
        """Nothing is watched."""

    def renewed(self) -> None:
        """Nothing is watched."""


class Watchdog:
    """One for a process: the timer is the process's only one."""

    def __init__(self) -> None:
        self._trusted_s: Trusted | None = None
        self._lock = Lock()

    def busy(self, running: bool, trusted_s: Trusted) -> None:
        with self._lock:
            if running and trusted_s() <= 0:
                self._end()
            if running and self._trusted_s is None:
                self._trusted_s = trusted_s
                self._set(trusted_s())
            elif not running and self._trusted_s is not None:
                self._trusted_s = None
                faulthandler.cancel_dump_traceback_later()

    def renewed(self) -> None:
        with self._lock:
            if self._trusted_s is not None:
                self._set(self._trusted_s())

    def _set(self, trusted_s: float) -> None:
        faulthandler.dump_traceback_later(max(trusted_s, SHORTEST_S), exit=True, file=STDERR)

    def _end(self) -> None:
        """The timer does not count the time of a suspended machine; the lease's clock does."""
        tell(
            log, "ended_by_strict",
            "strict: a handler still runs though the lease is not sure: ending this process",
        )  # fmt: skip
        logging.shutdown()
        os._exit(ENDED)
