"""Logs an outage when it begins, when its reason changes and when it is over.

A connection that cannot be made is tried many times a second: nobody reads as many lines.
"""

from __future__ import annotations

import logging

from rqproc.log_events import tell
from rqproc.runtime import MACHINE, Clock


class Outage:
    """An outage of one thing, such as ``"heartbeat"``. For one thread."""

    def __init__(self, log: logging.Logger, what: str, *, clock: Clock = MACHINE.monotonic) -> None:
        self._clock = clock
        self._log = log
        self._what = what
        self._reason = ""
        self._since: float | None = None

    def goes_on(self, error: Exception) -> None:
        """It has failed, again."""
        reason = str(error)
        known = self._since is not None and reason == self._reason
        tell(
            self._log, "outage", "%s: %s", self._what, reason, level="debug" if known else "",
            what=self._what, error=reason,
        )  # fmt: skip
        self._reason = reason
        self._since = self._clock() if self._since is None else self._since

    def is_over(self) -> bool:
        """It has worked; return whether it had not before."""
        if self._since is None:
            return False
        took_s = self._clock() - self._since
        tell(
            self._log, "outage_over", "%s: works again after %.1f s", self._what, took_s,
            what=self._what, seconds=round(took_s, 1),
        )  # fmt: skip
        self._since = None
        return True
