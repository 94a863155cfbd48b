"""The values that a node keeps: bounded, expiring, in memory only, and only of ids that it owns.

Knows addresses, members and values. Must not know who asks, nor what a value is. It has no clock of
its own: every moment is given, in seconds of the node's clock that goes on while the machine
sleeps.

Who holds the worker's lock (see ``leaders``) changes what is kept; other threads of the program
look, and drop, under the lock that is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from rqproc.ids import owner
from rqproc.node.entries import Entry, Values
from rqproc.placement import has
from rqproc.policy import UNBOUNDED, Bounds


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


class Cache:
    """The entries of the ids that a node owns in the epoch that it knows.

    What is found by ``get`` answers, and nothing else need be done. Beside that are kept, where
    resources ask for it: what a handler raised, and values that are wanted longer than that; an id
    has one of these at most, for the latest run counts.

    Args:
        name: the node's.
        max_entries, max_bytes: bounds of each of these.
    """

    def __init__(self, name: str, max_entries: int, max_bytes: float | None = None) -> None:
        self._name = name
        self._values, self._late, self._errors = (
            Values(max_entries, math.inf if max_bytes is None else max_bytes) for _ in range(3)
        )
        self._lock = Lock()
        self._view = self._shown = BLIND

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
            found = [kind.drop(address, now, before) for kind in self._kinds]
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
                    kind.remove([place for place in kind.addresses() if not self.owns(place)])
        self._shown = self._view

    def flush(self, resource: bytes, token: int) -> None:
        """Find nothing more that has this token, or an earlier one; see ``Values.flush``."""
        with self._lock:
            for kind in self._kinds:
                kind.flush(resource, token)

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
