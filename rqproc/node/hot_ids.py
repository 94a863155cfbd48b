"""The ids that are asked for most, in bounded space.

Pure: every moment is given. This is the Space-Saving summary (Metwally, Agrawal and El Abbadi,
"Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005): of ``MOST`` ids a
count is kept that is never too low, and too high by at most what was counted in all, divided by
``MOST``. What comes is first counted exactly, for up to ``BATCH`` ids, and then merged into it
(Agarwal et al., "Mergeable Summaries", 2012): so to count one costs no search for the least.

Counts are of the present window and the one before it: what is not asked for any more is forgotten
after two windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest
from typing import NamedTuple

MOST = 128
BATCH = 1024
WINDOW_S = 30.0

Counted = tuple[int, int]
"""How many, and by how many that may be too high."""


class Hot(NamedTuple):
    """An address, how often it was asked for, and by how many that may be too high."""

    address: bytes
    times: int
    over: int


class HotIds:
    """Counts addresses from a moment on."""

    def __init__(self, now: float) -> None:
        self._counts: dict[bytes, Counted] = {}
        self._before: dict[bytes, Counted] = {}
        self._began_at = self._before_at = now

    def add(self, counts: Mapping[bytes, int]) -> None:
        """Merge exact counts into the present window's."""
        kept = self._counts
        floor = min((count for count, _ in kept.values()), default=0) if len(kept) >= MOST else 0
        for address, more in counts.items():
            count, over = kept.get(address, (floor, floor))
            kept[address] = (count + more, over)
        if len(kept) > MOST:
            self._counts = dict(nlargest(MOST, kept.items(), key=lambda item: item[1][0]))

    def turn(self, now: float) -> None:
        """Begin another window if it is time."""
        if now - self._began_at >= WINDOW_S:
            lasted = now - self._began_at < 2 * WINDOW_S
            self._before = self._counts if lasted else {}
            self._before_at = self._began_at if lasted else now
            self._counts, self._began_at = {}, now

    def span_s(self, now: float) -> float:
        """Seconds that these were counted in."""
        return now - self._before_at

    def top(self, most: int) -> list[Hot]:
        """Return what is asked for most, first what is asked for more."""
        both = dict(self._before)
        for address, (count, over) in self._counts.items():
            earlier, earlier_over = both.get(address, (0, 0))
            both[address] = (earlier + count, earlier_over + over)
        found = nlargest(most, both.items(), key=lambda item: item[1][0])
        return [Hot(address, count, over) for address, (count, over) in found]
