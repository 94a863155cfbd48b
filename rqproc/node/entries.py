"""The values that a node keeps: bounded, expiring, in memory only.

Knows entries and a clock that it is given. Must not know who asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from rqproc import wire

SPARE_ENDS = 1024
"""Ends of entries that are gone by now are kept so far: they are cleared away many at once."""


@dataclass(slots=True)
class Entry:
    """A value as JSON text, when it was computed and when it is gone, in seconds of the clock."""

    text: str
    computed_at: float
    expires_at: float
    token: int
    _json_body: str | None = None

    def body(self, serializer: wire.Serializer) -> str:
        """Return the value as RQ keeps return values; the common form is made once."""
        if serializer != "json":
            return wire.return_value(self.text, serializer)
        if self._json_body is None:
            self._json_body = wire.return_value(self.text, "json")
        return self._json_body


class Entries:
    """Entries by address. The least recently used one goes where there are too many."""

    def __init__(self, max_entries: int, clock: Callable[[], float]) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self._kept: OrderedDict[str, Entry] = OrderedDict()
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        self._expire()
        return len(self._kept)

    def get(self, address: str) -> Entry | None:
        entry = self._kept.get(address)
        if entry is None:
            return None
        if entry.expires_at <= self._clock():
            del self._kept[address]
            return None
        self._kept.move_to_end(address)
        return entry

    def put(self, address: str, entry: Entry) -> None:
        self._kept[address] = entry
        self._kept.move_to_end(address)
        heappush(self._ends, (entry.expires_at, address))
        self._expire()
        if len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def drop(self, address: str) -> bool:
        """Return whether there was one."""
        self._expire()
        return self._kept.pop(address, None) is not None

    def keep_only(self, wanted: Callable[[str], bool]) -> None:
        for address in [kept for kept in self._kept if not wanted(kept)]:
            del self._kept[address]

    def clear(self) -> None:
        self._kept.clear()
        self._ends.clear()

    def _expire(self) -> None:
        """Forget what is over, the first that ends first."""
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            _, address = heappop(self._ends)
            entry = self._kept.get(address)
            if entry and entry.expires_at <= now:  # else it has been computed anew since
                del self._kept[address]
        if len(self._ends) > 2 * len(self._kept) + SPARE_ENDS:
            self._ends = [(entry.expires_at, address) for address, entry in self._kept.items()]
            heapify(self._ends)
