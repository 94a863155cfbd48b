"""A stopwatch for tests: it measures what rqproc takes, not what a busy machine makes of it.

Knows threads and clocks. Must not know rqproc.
"""

from __future__ import annotations

import threading
import time

STEP_S = 0.01


class Watch:
    """Runs from its making; stands still while the machine keeps threads that are due waiting.

    A thread sleeps again and again; what it sleeps too long is not counted. On an idle machine that
    is next to nothing, under load it is what every step of what is measured may have waited too.
    """

    def __init__(self) -> None:
        self._began = self._slept_from = time.monotonic()
        self._ended: float | None = None
        self._late_s = 0.0
        self._reading = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sleep, daemon=True)
        self._thread.start()

    @property
    def s(self) -> float:
        """Seconds so far."""
        with self._reading:  # else the lateness may be of later than the whole
            now = self._ended or time.monotonic()
            return now - self._began - self._late_s - self._lateness(now)

    @property
    def whole_s(self) -> float:
        """Seconds so far by the clock on the wall: what must not come sooner is held against it."""
        return (self._ended or time.monotonic()) - self._began

    def stop(self) -> float:
        """Return the seconds until now; ``s`` and ``whole_s`` stay as they are."""
        with self._reading:
            self._ended = time.monotonic()
        self._end.set()
        self._thread.join()
        return self.s

    def _lateness(self, now: float) -> float:
        """How much longer than it should the present sleep has been by then."""
        return max(0.0, now - self._slept_from - STEP_S)

    def _sleep(self) -> None:
        while not self._end.wait(STEP_S):
            with self._reading:
                now = time.monotonic()
                if self._ended is None:  # else it has been read, with this sleep's lateness
                    self._late_s += self._lateness(now)
                    self._slept_from = now
