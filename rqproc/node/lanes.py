"""Lanes: work of one key runs in order, one at a time; lanes run side by side, up to a limit.

Pure: it decides what may start, and starts nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """Queues by key. A key is ready while it has work and none of it runs.

    Attributes:
        limit: of keys that run side by side.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: dict[Hashable, deque[T]] = {}
        self._running: set[Hashable] = set()
        self._paused: set[Hashable] = set()
        self._sharing: set[Hashable] = set()
        self._counted: set[Hashable] = set()  # of those that run, towards the limit
        self._ready: deque[Hashable] = deque()

    def add(self, key: Hashable, item: T, *, first: bool = False) -> None:
        """Put an item behind those of its key, or before them."""
        lane = self._waiting.get(key)
        if lane is not None:
            if first:
                lane.appendleft(item)
            else:
                lane.append(item)
            return
        self._waiting[key] = deque([item])
        if key not in self._running:
            self._ready.append(key)

    def next(self) -> T | None:
        """Claim the next item that may run now, None if there is none; ``done`` ends the claim."""
        if len(self._counted) >= self.limit or not self._ready:
            return None
        key = self._ready.popleft()
        self._counted.add(key)
        return self._claim(key)

    def _claim(self, key: Hashable) -> T:
        lane = self._waiting[key]
        item = lane.popleft()
        if not lane:
            del self._waiting[key]
        self._running.add(key)
        return item

    def next_sharing(self, most: int, belongs: Callable[[T], bool]) -> list[T]:
        """Claim up to ``most`` items that may run now with another, and so whatever the limit is.

        It looks through all that is ready: ask for it where something waits for such items.
        """
        if not self._ready or most <= 0:
            return []
        found = [key for key in self._ready if belongs(self._waiting[key][0])][:most]
        taken = set(found)
        self._ready = deque(key for key in self._ready if key not in taken)
        self._sharing.update(found)
        return [self._claim(key) for key in found]

    def share(self, key: Hashable, *, shares: bool = True) -> None:
        """What runs here runs with another: it counts no more towards the limit; or it does, where
        it does not share any more.
        """
        if shares:
            self._sharing.add(key)
            self._counted.discard(key)
        else:
            self._sharing.discard(key)
            self._counted.add(key)

    def done(self, key: Hashable) -> None:
        self._running.remove(key)
        for some in self._paused, self._sharing, self._counted:
            some.discard(key)
        if key in self._waiting:
            self._ready.append(key)

    def head(self, key: Hashable) -> T | None:
        """Return what waits first for this key."""
        lane = self._waiting.get(key)
        return lane[0] if lane else None

    def pause(self, key: Hashable) -> None:
        """What runs here does nothing for now: it counts no more towards the limit."""
        self._paused.add(key)
        self._counted.discard(key)

    def go_on(self, key: Hashable) -> None:
        """It runs again, though the limit may be reached: it cannot be made to wait."""
        self._paused.discard(key)
        if key in self._running and key not in self._sharing:
            self._counted.add(key)

    def waiting(self) -> Iterator[T]:
        """All items that have not been started."""
        return (item for lane in self._waiting.values() for item in lane)

    def behind(self, key: Hashable) -> Iterable[T]:
        """What waits for this key, in order."""
        return self._waiting.get(key, ())

    def drop(self, key: Hashable) -> list[T]:
        """Forget what waits behind the item that runs; return it."""
        return list(self._waiting.pop(key, ()))

    def clear(self) -> None:
        """Forget what waits. What runs goes on, and its keys stay taken until it is done."""
        self._waiting.clear()
        self._ready.clear()

    @property
    def room(self) -> int:
        """How many more keys may run, besides what runs and what is ready to."""
        taken = len(self._counted) + len(self._ready)
        return max(0, self.limit - taken)

    @property
    def paused(self) -> Collection[Any]:
        """The keys whose work does nothing for now."""
        return self._paused

    @property
    def running(self) -> int:
        return len(self._running)
