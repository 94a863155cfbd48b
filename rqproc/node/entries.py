"""Values by address: expiring, bounded in number and in bytes, by the node and by each resource.

Pure: every moment is given. Knows addresses; must not know members, nor what a value is.

What goes where there are too many is chosen by second chance (the "clock" of Corbató's paging for
Multics, 1968): who looks a value up marks it as used, and no more, whatever bounds there are. What
was put first is looked at first: if it is marked it loses its mark and goes to the end of its
queue, else it goes for good. An exact order of use would have every hit find its resource's list
and move the value there; to mark it costs no more than to move it in a single list. At most
``CHANCES`` are passed over: a value that comes must not wait for a walk through all of them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from struct import Struct
from typing import NamedTuple

from rqproc.policy import UNBOUNDED, Bounds

_HEAD = Struct("=ddq")
_HEAD_BYTES = _HEAD.size
_unpack_head = _HEAD.unpack_from

ENTRY_BYTES = 250
"""What an entry takes beside its value."""

SPARE_EXPIRIES = 1024
"""Expiries of values that are gone are kept so far, and their places in queues: they are cleared
away many at once.
"""

CHANCES = 32


class Entry(NamedTuple):
    """A value as JSON text, and when it was computed and expires."""

    computed_at: float
    expires_at: float
    token: int
    text: bytes


class Share:
    """Those values that are bounded together: a node's, or a resource's.

    Attributes:
        count, size: how many there are, and their bytes.
        queue: their addresses, what was put first in front; some may be gone.
    """

    __slots__ = ("bounds", "count", "queue", "size")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.clear()

    def clear(self) -> None:
        self.queue: deque[bytes] = deque()
        self.count = self.size = 0

    def has_room(self, count: int, size: int) -> bool:
        """Whether so many more may be kept, with so many bytes."""
        bounds = self.bounds
        return self.count + count <= bounds.max_entries and self.size + size <= bounds.max_bytes


class Entries:
    """Entries by address.

    An entry is kept as one ``bytes``, and its expiry in a list for the second in which it comes: a
    small value takes about 250 bytes with all that.

    Attributes:
        evicted: int, how many had to go for others.
    """

    def __init__(self, max_entries: float, max_bytes: float = math.inf) -> None:
        self._kept: dict[bytes, bytes] = {}
        self._used: set[bytes] = set()
        self._all = Share(Bounds(max_entries, max_bytes))
        self._of_resources: dict[bytes, Share] = {}
        self._expiring: dict[int, list[bytes]] = {}
        self._seconds: list[int] = []  # a heap of those that have a list
        self._expiries = 0
        self._flushed: dict[bytes, int] = {}
        self._flushed_until = 0.0
        self.evicted = 0

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self._all.size

    def __bool__(self) -> bool:
        """Whether there may be any."""
        return bool(self._kept)

    def count(self, now: float) -> int:
        """Return how many there are; one that expired within the last second may be among them."""
        self._expire(now)
        return len(self._kept)

    def get(self, address: bytes, now: float) -> Entry | None:
        kept = self._kept.get(address)
        if kept is None:
            return None
        computed_at, expires_at, token = _unpack_head(kept)
        if expires_at <= now or (self._flushed and self._is_flushed(address, token)):
            self._remove(address)
            return None
        self._used.add(address)
        return Entry(computed_at, expires_at, token, kept[_HEAD_BYTES:])

    def put(self, address: bytes, entry: Entry, now: float, bounds: Bounds = UNBOUNDED) -> bool:
        """Keep a value, unless it is alone larger than all may be that are bounded with it; return
        whether it is kept.

        Args:
            bounds: its resource's.
        """
        if bounds is not UNBOUNDED or self._of_resources:
            self._bound(address, bounds)
        shares, size = self._shares(address), ENTRY_BYTES + len(entry.text)
        if any(size > share.bounds.max_bytes for share in shares):
            self.drop(address, now)
            return False
        if address in self._kept:  # somebody has asked for it again
            self._used.add(address)
        self._expire(now)
        for share in shares:
            self._make_room(share, address, size)
        self._add(shares, address, size)
        head = _HEAD.pack(entry.computed_at, entry.expires_at, entry.token)
        self._kept[address] = head + entry.text
        self._note_expiry(address, entry.expires_at)
        return True

    def _add(self, shares: Sequence[Share], address: bytes, size: int) -> None:
        was = self._size(address)
        for share in shares:
            share.size += size - was
            if not was:
                share.count += 1
                share.queue.append(address)

    def has_room(self, address: bytes, entry: Entry, bounds: Bounds) -> bool:
        """Whether a value could be put without another going for it."""
        if bounds is not UNBOUNDED:
            self._bound(address, bounds)
        size = ENTRY_BYTES + len(entry.text)
        return all(share.has_room(1, size) for share in self._shares(address))

    def ranked(self) -> Iterator[bytes]:
        """Yield all addresses: those that are marked as used first, and what was put last."""
        latest = list(dict.fromkeys(reversed(self._all.queue)))
        for used in (True, False):
            for address in latest:
                if address in self._kept and (address in self._used) is used:
                    yield address

    def drop(self, address: bytes, now: float, before: int | None = None) -> bool:
        """Return whether there was one. ``before``: one of this token, or a later one, stays."""
        kept = self._kept.get(address)
        if kept is None:
            return False
        _, expires_at, token = _unpack_head(kept)
        if before is not None and token >= before:
            return False
        self._remove(address)
        return expires_at > now and not (self._flushed and self._is_flushed(address, token))

    def flush(self, resource: bytes, token: int) -> None:
        """What has this token, or an earlier one, is found no more: of a resource, or of all with
        b"". It goes when it is looked for, or expires, so this takes no longer where there is much.
        """
        if self._kept:
            self._flushed[resource] = max(token, self._flushed.get(resource, token))
            self._flushed_until = max(self._seconds, default=0) + 1.0

    def _is_flushed(self, address: bytes, token: int) -> bool:
        of = self._flushed
        return token <= max(of.get(b"", -1), of.get(_resource(address), -1))

    def addresses(self) -> Iterable[bytes]:
        return self._kept

    def remove(self, addresses: Sequence[bytes]) -> None:
        for address in addresses:
            self._remove(address)

    def clear(self) -> None:
        self._kept.clear()
        self._used.clear()
        for share in (self._all, *self._of_resources.values()):
            share.clear()
        self._forget_expiries()

    # --- bounds ---

    def _bound(self, address: bytes, bounds: Bounds) -> None:
        """Have a resource's values bounded from now on; those that there are have had no bounds
        only where another app declares it so.
        """
        resource = _resource(address)
        found = self._of_resources.get(resource)
        if found:
            found.bounds = bounds
        elif bounds is not UNBOUNDED:
            share = self._of_resources[resource] = Share(bounds)
            for other in self._kept:
                if _resource(other) == resource:
                    share.count += 1
                    share.size += self._size(other)
                    share.queue.append(other)

    def _shares(self, address: bytes) -> Sequence[Share]:
        if not self._of_resources:
            return (self._all,)
        own = self._of_resources.get(_resource(address))
        return (self._all, own) if own else (self._all,)

    def _size(self, address: bytes) -> int:
        kept = self._kept.get(address)
        return ENTRY_BYTES + len(kept) - _HEAD_BYTES if kept else 0

    def _make_room(self, share: Share, address: bytes, size: int) -> None:
        """Have values go until there is room for one, be it in the place of an older one."""
        while not share.has_room(address not in self._kept, size - self._size(address)):
            self._remove(self._next_out(share))
            self.evicted += 1
        self._clear_away(share)

    def _remove(self, address: bytes) -> None:
        size = self._size(address)
        for share in self._shares(address):
            share.count -= 1
            share.size -= size
        del self._kept[address]
        self._used.discard(address)

    def _next_out(self, share: Share) -> bytes:
        """Return the address of what goes first; there is at least one."""
        queue, passed = share.queue, 0
        while True:
            address = queue.popleft()
            if address in self._kept:
                if address not in self._used or passed >= CHANCES:
                    return address
                self._used.remove(address)
                queue.append(address)
                passed += 1

    def _clear_away(self, share: Share) -> None:
        if len(share.queue) > 2 * share.count + SPARE_EXPIRIES:
            left = dict.fromkeys(address for address in share.queue if address in self._kept)
            share.queue = deque(left)

    # --- expiry ---

    def _forget_expiries(self) -> None:
        self._expiring.clear()
        self._seconds.clear()
        self._expiries = 0

    def _note_expiry(self, address: bytes, expires_at: float) -> None:
        second = int(expires_at)
        addresses = self._expiring.get(second)
        if addresses is None:
            addresses = self._expiring[second] = []
            heappush(self._seconds, second)
        addresses.append(address)
        self._expiries += 1

    def _expire(self, now: float) -> None:
        """Forget what has expired in the seconds that are over."""
        if self._flushed and now >= self._flushed_until:
            self._flushed.clear()
        while self._seconds and self._seconds[0] < int(now):
            addresses = self._expiring.pop(heappop(self._seconds))
            self._expiries -= len(addresses)
            for address in addresses:
                kept = self._kept.get(address)
                if kept is not None and _unpack_head(kept)[1] <= now:  # else it was computed anew
                    self._remove(address)
        if self._expiries > 2 * len(self._kept) + SPARE_EXPIRIES:
            self._forget_expiries()
            for address, kept in self._kept.items():
                self._note_expiry(address, _unpack_head(kept)[1])


def _resource(address: bytes) -> bytes:
    return address.split(b"-", 2)[1]
