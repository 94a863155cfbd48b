"""What a node keeps for which ids, by the member list that it last saw.

Knows entries and who owns what. Must not know claims' contents, lanes or handlers.

It belongs to the worker's thread, but for ``glance`` and ``drop``, which any thread may call: a
lock guards the entries, and the view (epoch and members) is one value, replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

from rqproc.node.entries import Entries, Entry
from rqproc.placement import owner

Busy = Callable[[str], bool]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Who owned what in one epoch."""

    epoch: int
    members: Sequence[str]

    def owner(self, address: str) -> str | None:
        return owner(int(address.partition("|")[0]), self.members)


BLIND = View(-1, ())
"""Of a node that does not know the members."""


class Shelf:
    """The entries of one node.

    Args:
        busy: whether requests of an address are held here: then it is in no other place.
    """

    def __init__(self, name: str, entries: Entries, busy: Busy) -> None:
        self._name = name
        self._entries = entries
        self._busy = busy
        self._lock = Lock()
        self._guests: set[str] = set()
        self._view = self._shown = BLIND

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    @property
    def epoch(self) -> int:
        return self._view.epoch

    def get(self, address: str) -> Entry | None:
        with self._lock:
            return self._entries.get(address)

    def glance(self, address: str, *, epoch: int) -> Entry | None:
        """Return the entry of an address that this node owns, as other threads may see it.

        None where the members of ``epoch`` are not known here, or are just being learned:
          1. We look at the view: 42 is ours.
          2. The worker learns of another member, and that 42 is his: the entry goes.
          3. We look for the entry. It may have gone; or be there again, as a guest's; or the worker
          had not come to it yet. So the view is looked at once more: it must be the same one still.
        """
        view = self._shown
        if view.epoch < epoch or view.owner(address) != self._name:
            return None
        entry = self.get(address)
        return entry if self._shown is view else None

    def owns(self, address: str) -> bool:
        return self._view.owner(address) == self._name

    def keep(self, address: str, entry: Entry) -> None:
        """Keep a value: as the owner until it expires, else as long as its id stays here.

        A busy id stays with its holder though another node has become the owner. If nothing were
        kept for it here, a busy one would be computed again and again.
        """
        if not self.owns(address):
            if not self._busy(address):
                return
            self._guests.add(address)
        with self._lock:
            self._entries.put(address, entry)

    def drop(self, address: str) -> bool:
        """Return whether there was an entry."""
        with self._lock:
            return self._entries.drop(address)

    def finished_with(self, address: str) -> None:
        """Forget what was kept for an id of another owner, once nothing of it is held here."""
        if address in self._guests and not self._busy(address):
            self._guests.remove(address)
            self.drop(address)

    def learn(self, epoch: int, members: Sequence[str], *, held: frozenset[str]) -> None:
        """Take in the member list.

        Entries that are another node's by now go, except those of ids that this node is still
        busy with: they are in no other place until it has finished. Where the epoch has jumped by
        more than one, all go: their ids may have been another's in between, and changed there.
        """
        changes = epoch - self.epoch
        self._view, self._shown = View(epoch, members), BLIND
        if changes != 0:
            self._keep_ours(held, all_go=changes != 1)
        self._shown = self._view

    def _keep_ours(self, held: frozenset[str], *, all_go: bool) -> None:
        with self._lock:
            if all_go:
                self._entries.clear()
            else:
                self._entries.keep_only(lambda address: self.owns(address) or address in held)
        self._guests = {address for address in held if not self.owns(address)}

    def clear(self) -> None:
        """The lease may not be relied on: serve nothing that is kept."""
        with self._lock:
            self._entries.clear()

    def forget(self) -> None:
        """The lease is lost: what was known of members is worth nothing, either."""
        self._view = self._shown = BLIND
        self.clear()
        self._guests.clear()
