"""What a node keeps for which ids, by the member list that it last saw.

Knows entries and who owns what. Must not know claims' contents, lanes or handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rqproc.node.entries import Entries, Entry
from rqproc.placement import owner

Busy = Callable[[str], bool]


class Shelf:
    """The entries of one node.

    Args:
        busy: whether requests of an address are held here: then it is in no other place.
    """

    def __init__(self, name: str, entries: Entries, busy: Busy) -> None:
        self._name = name
        self._entries = entries
        self._busy = busy
        self._members: Sequence[str] = ()
        self._guests: set[str] = set()
        self.epoch = -1

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, address: str) -> Entry | None:
        return self._entries.get(address)

    def owns(self, address: str) -> bool:
        slot = int(address.partition("|")[0])
        return owner(slot, self._members) == self._name

    def keep(self, address: str, entry: Entry) -> None:
        """Keep a value: as the owner until it expires, else as long as its id stays here.

        A busy id stays with its holder though another node has become the owner. If nothing were
        kept for it here, a busy one would be computed again and again.
        """
        if not self.owns(address):
            if not self._busy(address):
                return
            self._guests.add(address)
        self._entries.put(address, entry)

    def drop(self, address: str) -> bool:
        """Return whether there was an entry."""
        return self._entries.drop(address)

    def finished_with(self, address: str) -> None:
        """Forget what was kept for an id of another owner, once nothing of it is held here."""
        if address in self._guests and not self._busy(address):
            self._guests.remove(address)
            self._entries.drop(address)

    def learn(self, epoch: int, members: Sequence[str], *, held: frozenset[str]) -> None:
        """Take in the member list.

        Entries that are another node's by now go, except those of ids that this node is still
        busy with: they are in no other place until it has finished. Where the epoch has jumped by
        more than one, all go: their ids may have been another's in between, and changed there.
        """
        changes = epoch - self.epoch
        self.epoch, self._members = epoch, members
        if changes == 0:
            return
        if changes != 1:
            self._entries.clear()
        else:
            self._entries.keep_only(lambda address: self.owns(address) or address in held)
        self._guests = {address for address in held if not self.owns(address)}

    def clear(self) -> None:
        """The lease may not be relied on: serve nothing that is kept."""
        self._entries.clear()

    def forget(self) -> None:
        """The lease is lost: what was known of members is worth nothing, either."""
        self._entries.clear()
        self._guests.clear()
        self.epoch = -1
