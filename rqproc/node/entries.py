"""The values that a node keeps: bounded, expiring, in memory only.

Knows entries and a clock that it is given. Must not know who asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TLRUCache

from rqproc import wire


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


def _time_to_use(_key: str, entry: Entry, _now: float) -> float:
    return entry.expires_at


class Entries:
    """Entries by address. The least recently used one goes where there are too many."""

    def __init__(self, max_entries: int, clock: Callable[[], float]) -> None:
        self._kept: TLRUCache[str, Entry] = TLRUCache(max_entries, _time_to_use, timer=clock)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, address: str) -> Entry | None:
        try:  # not the cache's own get: it looks twice
            return self._kept[address]
        except KeyError:
            return None

    def put(self, address: str, entry: Entry) -> None:
        self._kept[address] = entry

    def drop(self, address: str) -> bool:
        """Return whether there was one."""
        return self._kept.pop(address, None) is not None

    def keep_only(self, wanted: Callable[[str], bool]) -> None:
        for address in [kept for kept in self._kept if not wanted(kept)]:
            self.drop(address)

    def clear(self) -> None:
        self._kept.clear()
