"""How long to pause between attempts that fail, one after the other.

Pure. Decorrelated jitter, after Marc Brooker, "Exponential Backoff And Jitter" (AWS Architecture
Blog, 2015): each pause is anywhere between the shortest and three times the last. So callers whom
one outage has hit at the same moment come back one by one, and nobody comes back at once.
"""

from __future__ import annotations

from rqproc.runtime import Chance

GROWTH = 3.0


class Backoff:
    """Pauses from ``shortest_s`` to ``longest_s`` seconds."""

    def __init__(self, *, shortest_s: float, longest_s: float, chance: Chance) -> None:
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._chance = chance
        self._last_s = shortest_s

    def next_s(self) -> float:
        """Return the next pause."""
        widest_s = self._last_s * GROWTH
        drawn_s = self._shortest_s + (widest_s - self._shortest_s) * self._chance()
        self._last_s = min(drawn_s, self._longest_s)
        return self._last_s

    def reset(self) -> None:
        """Begin anew with short pauses: an attempt has succeeded."""
        self._last_s = self._shortest_s
