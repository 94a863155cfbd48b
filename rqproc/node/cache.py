"""The values that a node keeps: bounded, expiring, in memory only, and only of ids that it owns.

Knows addresses, members and values. Must not know who asks, nor what a value is. It has no clock of
its own: every moment is given, in seconds of the node's clock that goes on while the machine
sleeps.

Who holds the worker's lock (see ``leaders``) changes what is kept; other threads of the program
look, and drop, under the lock that is here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from rqproc.ids import owner
from rqproc.node.entries import Entries, Entry
from rqproc.placement import has
from rqproc.policy import UNBOUNDED, Bounds

MOST_MOVED = 50_000
MOST_MOVED_BYTES = 32 * 1024 * 1024
LONGEST_MOVED = 64 * 1024
"""So much is held ready for the next owners of what has moved: entries, their bytes, and those of
one alone."""

MOST_FLOORS = 1000
MOST_VIEWS = 8


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


class Moved(NamedTuple):
    """What is kept of an id: a value, or an error.

    Attributes:
        entry: the value, as ``get`` finds it, if it does; or the error.
        late_until: until when ``late`` finds the value; None where it does not.
    """

    entry: Entry
    late_until: float | None = None
    is_error: bool = False


class Cache:
    """The entries of the ids that a node owns in the epoch that it knows.

    What is found by ``get`` answers, and nothing else need be done. Beside that are kept, where
    resources ask for it: what a handler raised, and values that are wanted longer than that; an id
    has one of these at most, for the latest run counts.

    Args:
        name: the node's.
        max_entries, max_bytes: bounds of each of these.
        holds_moved: what is another's by now is held ready for it, see ``take_moved``.
    """

    def __init__(
        self, name: str, max_entries: int, max_bytes: float | None = None, *,
        holds_moved: bool = False,
    ) -> None:  # fmt: skip
        self._name = name
        self._holds_moved = holds_moved
        self._moved: dict[bytes, Moved] = {}
        self._floors: dict[bytes, int] = {}
        self._values, self._late, self._errors = (
            Entries(max_entries, math.inf if max_bytes is None else max_bytes) for _ in range(3)
        )
        self._lock = Lock()
        self._view = self._shown = BLIND
        self._views: deque[View] = deque(maxlen=MOST_VIEWS)

    @property
    def epoch(self) -> int:
        return self._view.epoch

    def count(self, now: float) -> int:
        with self._lock:
            return self._values.count(now)

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return sum(kind.size for kind in self._kinds)

    @property
    def evicted(self) -> int:
        """How much had to go for other values, ever."""
        return sum(kind.evicted for kind in self._kinds)

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

    def has_owned_since(self, epoch: int, address: bytes) -> bool:
        """Whether an id that was this node's in an epoch has been so in each one since, as far as
        that is known.
        """
        views = self._views  # of epochs that follow each other
        if not views or not views[0].epoch - 1 <= epoch <= self.epoch:
            return False
        return all(view.gives(address, self._name) for view in views if view.epoch > epoch)

    @property
    def _kinds(self) -> Sequence[Entries]:
        return self._values, self._late, self._errors

    @property
    def has_any(self) -> bool:
        """Whether anything is kept, be it expired."""
        return any(map(bool, self._kinds))

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
        self, address: bytes, entry: Entry, now: float, *, late_until: float | None = None,
        bounds: Bounds = UNBOUNDED,
    ) -> bool:  # fmt: skip
        """Keep a value, if this node owns its id; return whether it does.

        Args:
            late_until: until when ``late`` finds it.
            bounds: its resource's, for each kind of what is kept.
        """
        if not self.owns(address):
            return False
        with self._lock:
            self._errors.drop(address, now)
            kept = self._values.put(address, entry, now, bounds)
            if late_until is not None:
                self._late.put(address, entry._replace(expires_at=late_until), now, bounds)
        return kept

    def keep_error(
        self, address: bytes, entry: Entry, now: float, bounds: Bounds = UNBOUNDED
    ) -> None:
        """Remember an error, if this node owns its id; what was kept of it is not dropped."""
        if self.owns(address):
            with self._lock:
                self._errors.put(address, entry, now, bounds)

    def drop(self, address: bytes, now: float, *, before: int | None = None) -> bool:
        """Return whether anything was kept. ``before``: what has this token, or a later one,
        stays.
        """
        with self._lock:
            self._moved.pop(address, None)
            found = [kind.drop(address, now, before) for kind in self._kinds]
        return any(found)

    def learn(
        self, epoch: int, members: Sequence[str], slots: bytes = b"", *,
        busy: Collection[bytes] = (),
    ) -> None:  # fmt: skip
        """Take in the member list: entries that are another node's by now go.

        Where the epoch has jumped by more than one, all go: their ids may have been another's in
        between, and changed there.

        Args:
            slots: the hash slots of this node, as ``placement.has`` reads them; empty where the
                placement is by modulo.
            busy: addresses of which something is under way here: of these nothing is given on, for
                what comes of it is newer.
        """
        before = self._view
        self._view, self._shown = View(epoch, members, slots), BLIND
        if epoch != before.epoch + 1:
            self._views.clear()
        self._views.append(self._view)
        with self._lock:
            if epoch - before.epoch not in (0, 1):
                self._clear()
            elif epoch != before.epoch or tuple(members) != tuple(before.members):
                self._moved = self._hold_moved(busy) if self._holds_moved else {}
                for kind in self._kinds:
                    kind.remove([place for place in kind.addresses() if not self.owns(place)])
        self._shown = self._view

    def flush(self, resource: bytes, token: int) -> None:
        """Find nothing more that has this token, or an earlier one; see ``Values.flush``."""
        with self._lock:
            if len(self._floors) >= MOST_FLOORS:
                self._floors = {b"": max(self._floors.values())}
            self._floors[resource] = max(token, self._floors.get(resource, token))
            for kind in self._kinds:
                kind.flush(resource, token)

    # --- what has moved ---

    def _hold_moved(self, busy: Collection[bytes]) -> dict[bytes, Moved]:
        """Return what is another's by now: the most used first, as much as may be."""
        found: dict[bytes, Moved] = {}
        size = 0
        for kind in self._kinds:
            for address in kind.ranked():
                if address in found or address in busy or self.owns(address):
                    continue
                moved = self._all_of(address)
                if moved is None or len(moved.entry.text) > LONGEST_MOVED:
                    continue
                size += len(moved.entry.text)
                if len(found) == MOST_MOVED or size > MOST_MOVED_BYTES:
                    return found
                found[address] = moved
        return found

    def _all_of(self, address: bytes) -> Moved | None:
        value, late, error = (kind.get(address, -math.inf) for kind in self._kinds)
        if error:  # the latest run counts
            return Moved(error, is_error=True)
        if late and (value is None or value.token != late.token):
            return Moved(late._replace(expires_at=-math.inf), late.expires_at)
        return Moved(value, late.expires_at if late else None) if value else None

    def moved(self) -> list[bytes]:
        """Return the addresses of what is held ready for others, in the order to be given."""
        with self._lock:
            return list(self._moved)

    def take_moved(self, address: bytes) -> Moved | None:
        """Return what is held ready of an address, once; None where it was dropped or flushed."""
        with self._lock:
            moved = self._moved.pop(address, None)
            return None if moved is None or self._is_flushed(address, moved.entry.token) else moved

    def adopt(self, address: bytes, moved: Moved, now: float, bounds: Bounds) -> bool:
        """Keep what another node has kept of an id that is this one's by now; return whether it is
        kept.

        Not where anything is kept of it, nor what was flushed or has expired, nor in the place of
        others where there is no room.
        """
        entry, late_until, is_error = moved
        kind = self._errors if is_error else self._values
        lasts = max(entry.expires_at, -math.inf if late_until is None else late_until) > now
        with self._lock:
            if (
                not (self.owns(address) and lasts and kind.has_room(address, entry, bounds))
                or self._is_flushed(address, entry.token)
                or any(one.get(address, now) for one in self._kinds)
            ):
                return False
            if entry.expires_at > now:
                kind.put(address, entry, now, bounds)
            if late_until is not None:
                self._late.put(address, entry._replace(expires_at=late_until), now, bounds)
        return True

    def _is_flushed(self, address: bytes, token: int) -> bool:
        floors = self._floors
        return bool(floors) and token <= max(
            floors.get(b"", -1), floors.get(address.split(b"-", 2)[1], -1)
        )

    def clear(self) -> None:
        """The lease may not be relied on: serve nothing that is kept."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._moved.clear()
        for kind in self._kinds:
            kind.clear()

    def forget(self) -> None:
        """The lease is lost: what was known of members is worth nothing, either."""
        self._view = self._shown = BLIND
        self._views.clear()
        self.clear()
