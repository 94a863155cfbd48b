"""The values that a node keeps: bounded, expiring, in memory only, and only of ids that it owns.

Knows addresses, members and values. Must not know who asks, nor what a value is. It has no clock of
its own: every moment is given, in seconds of the node's clock that goes on while the machine
sleeps.

The worker's thread alone changes what is kept; other threads of the program may look, under the
lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from struct import Struct
from threading import Lock
from typing import NamedTuple

from rqproc.ids import owner
from rqproc.placement import has

_HEAD = Struct("=ddq")
_HEAD_BYTES = _HEAD.size
_unpack_head = _HEAD.unpack_from

SPARE_EXPIRIES = 1024
"""Expiries of values that are gone are kept so far: they are cleared away many at once."""


class Entry(NamedTuple):
    """A value as JSON text, and when it was computed and expires."""

    computed_at: float
    expires_at: float
    token: int
    text: bytes


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Who owned what in one epoch.

    Attributes:
        slots: the hash slots of the node whose view it is; empty where the placement is by modulo.
    """

    epoch: int
    members: Sequence[str]
    slots: bytes = b""

    def gives(self, address: bytes, name: str) -> bool:
        """Whether an address is the node's, whose name that is."""
        slot = int(address.partition(b"-")[0])
        return has(self.slots, slot) if self.slots else owner(slot, self.members) == name


BLIND = View(-1, ())
"""Of a node that does not know the members."""


class Values:
    """Entries by address. The least recently used one goes where there are too many.

    An entry is kept as one ``bytes``, and its expiry in a list for the second in which it comes: a
    small value takes about 250 bytes with all that.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._expiring: dict[int, list[bytes]] = {}
        self._seconds: list[int] = []  # a heap of those that have a list
        self._expiries = 0

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
        if expires_at <= now:
            del self._kept[address]
            return None
        self._kept.move_to_end(address)
        return Entry(computed_at, expires_at, token, kept[_HEAD_BYTES:])

    def put(self, address: bytes, entry: Entry, now: float) -> None:
        head = _HEAD.pack(entry.computed_at, entry.expires_at, entry.token)
        self._kept[address] = head + entry.text
        self._kept.move_to_end(address)
        self._note_expiry(address, entry.expires_at)
        self._expire(now)
        if len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def drop(self, address: bytes, now: float) -> bool:
        """Return whether there was one."""
        found = self.get(address, now) is not None
        if found:
            del self._kept[address]
        return found

    def keep_owned(self, name: str, view: View) -> None:
        for address in [kept for kept in self._kept if not view.gives(kept, name)]:
            del self._kept[address]

    def clear(self) -> None:
        self._kept.clear()
        self._forget_expiries()

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
        while self._seconds and self._seconds[0] < int(now):
            addresses = self._expiring.pop(heappop(self._seconds))
            self._expiries -= len(addresses)
            for address in addresses:
                kept = self._kept.get(address)
                if kept is not None and _unpack_head(kept)[1] <= now:  # else it was computed anew
                    del self._kept[address]
        if self._expiries > 2 * len(self._kept) + SPARE_EXPIRIES:
            self._forget_expiries()
            for address, kept in self._kept.items():
                self._note_expiry(address, _unpack_head(kept)[1])


class Cache:
    """The entries of the ids that a node owns in the epoch that it knows.

    What is found by ``get`` answers, and nothing else need be done. Beside that are kept, where
    resources ask for it: what a handler raised, and values that are wanted longer than that; an id
    has one of these at most, for the latest run counts.

    Args:
        name: the node's.
        max_entries: bound of each of these.
    """

    def __init__(self, name: str, max_entries: int) -> None:
        self._name = name
        self._values = Values(max_entries)
        self._late = Values(max_entries)
        self._errors = Values(max_entries)
        self._lock = Lock()
        self._view = self._shown = BLIND

    @property
    def epoch(self) -> int:
        return self._view.epoch

    def count(self, now: float) -> int:
        with self._lock:
            return self._values.count(now)

    def get(self, address: bytes, now: float) -> Entry | None:
        """Return an entry that has not expired; it counts as used."""
        with self._lock:
            return self._values.get(address, now)

    def look(self, address: bytes, now: float, *, epoch: int) -> Entry | None:
        """Return the entry of an address that this node owns, as other threads may see it.

        None where the members of ``epoch`` are not known here, or are just being learned:
          1. We look at the view: 42 is ours.
          2. The worker learns of another member, and that 42 is his: the entry goes.
          3. We look for the entry. It may have gone, or the worker has not come to it yet. So the
             view is looked at once more: it must be the same one still.
        """
        view = self._shown
        if view.epoch < epoch or not view.gives(address, self._name):
            return None
        entry = self.get(address, now)
        return entry if self._shown is view else None

    def owns(self, address: bytes) -> bool:
        return self._view.gives(address, self._name)

    @property
    def _kinds(self) -> Sequence[Values]:
        return self._values, self._late, self._errors

    @property
    def has_more(self) -> bool:
        """Whether anything is kept beside what ``get`` finds."""
        return bool(self._late) or bool(self._errors)

    def late(self, address: bytes, now: float) -> Entry | None:
        """Return a value that ``get`` may not find any more; see ``keep``."""
        with self._lock:
            return self._late.get(address, now)

    def error(self, address: bytes, now: float) -> Entry | None:
        """Return the error that is remembered: a report in the place of a value."""
        with self._lock:
            return self._errors.get(address, now)

    def keep(
        self, address: bytes, entry: Entry, now: float, *, late_until: float | None = None
    ) -> None:
        """Keep a value, if this node owns its id. ``late_until``: until when ``late`` finds it."""
        if not self.owns(address):
            return
        with self._lock:
            self._errors.drop(address, now)
            self._values.put(address, entry, now)
            if late_until is not None:
                self._late.put(address, entry._replace(expires_at=late_until), now)

    def keep_error(self, address: bytes, entry: Entry, now: float) -> None:
        """Remember an error, if this node owns its id; what was kept of it is not dropped."""
        if self.owns(address):
            with self._lock:
                self._errors.put(address, entry, now)

    def drop(self, address: bytes, now: float) -> bool:
        """Return whether anything was kept."""
        with self._lock:
            found = [kind.drop(address, now) for kind in self._kinds]
        return any(found)

    def learn(self, epoch: int, members: Sequence[str], slots: bytes = b"") -> None:
        """Take in the member list: entries that are another node's by now go.

        Where the epoch has jumped by more than one, all go: their ids may have been another's in
        between, and changed there.

        Args:
            slots: the hash slots of this node, as ``placement.has`` reads them; empty where the
                placement is by modulo.
        """
        before = self._view
        self._view, self._shown = View(epoch, members, slots), BLIND
        with self._lock:
            if epoch - before.epoch not in (0, 1):
                self._clear()
            elif epoch != before.epoch or tuple(members) != tuple(before.members):
                for kind in self._kinds:
                    kind.keep_owned(self._name, self._view)
        self._shown = self._view

    def clear(self) -> None:
        """The lease may not be relied on: serve nothing that is kept."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        for kind in self._kinds:
            kind.clear()

    def forget(self) -> None:
        """The lease is lost: what was known of members is worth nothing, either."""
        self._view = self._shown = BLIND
        self.clear()
