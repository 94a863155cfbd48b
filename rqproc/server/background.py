"""A start of the server that goes on when who waits for it has no more time.

Knows a thread. Must not know how a server is started.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rqproc.errors import RqprocError


class BackgroundStart:
    """One start, in a thread of its own; any number of threads may wait for it."""

    def __init__(self, start: Callable[[], object]) -> None:
        self._start = start
        self._error: RqprocError | None = None
        self._thread = threading.Thread(target=self._run, name="rqproc-embedded", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._start()
        except RqprocError as error:  # it is for those who wait
            self._error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def ends_within(self, timeout_s: float) -> bool:
        """Wait so many seconds for its end; return whether that has come.

        Raises:
            EmbeddedUnavailable: the start has failed.
        """
        self._thread.join(max(0.0, timeout_s))
        if not self.ended:
            return False
        if self._error is not None:
            raise self._error
        return True
