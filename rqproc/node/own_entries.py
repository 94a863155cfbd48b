"""Answers from a node's entries for the program that the node lives in, at once.

Knows the cache, the term and what may be relied on. Any thread may look through it; must not know
the worker. Only what the node has an entry of is found here. All else goes through Redis, which
alone can say that an id is in no other place.

An entry that is found was, at the moment of the look, one that a request through Redis would have
been answered with, but for this: who owns what is the server's to say, and the node learns of a
change by its queue or its next heartbeat. Until that was answered its program may be given the
value of an id that another node owns by now, and was perhaps told to drop.
  1. b joins and is the owner of 42.    2. Someone invalidates 42: b is asked, and has nothing.
  3. The program is given a's entry of 42, which is older than step 2.
  4. a's next heartbeat is told the new epoch: from now on nothing is found, until a's worker has
     learned who the members are.
So it lasts for a heartbeat and a round trip; where heartbeats fail, until the lease may not be
relied on, which ends all. The program's own invalidations drop a's entry too, see ``drop``.

While a is the owner an invalidation is answered by a's own dispatcher, and nothing older is found
after:
  1. The worker takes the invalidation.     2. It drops the entry, and lets nobody keep what is
     being computed.     3. It collects the answer and sends it: whoever gets that and then looks,
     looks after 2. Who had found the entry before 2 had asked before the invalidation was over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from threading import Lock

from rqproc.ids import Id, address, canonical, quote
from rqproc.model import Reply
from rqproc.node.cache import Cache
from rqproc.node.lease import Term

_value = json.JSONDecoder().raw_decode
"""Reads what a node has written itself: no space around it, nothing after it."""


class OwnEntries:
    """Open from the start, until it is closed for good. It is a ``calls.lookup.Nearby``.

    Args:
        term: gives the present term; a node that has rejoined has a new one.

    Attributes:
        hits: dict of resources to how many were found.
    """

    def __init__(self, node: str, cache: Cache, term: Callable[[], Term]) -> None:
        self._node = node
        self._cache = cache
        self._term = term
        self._open = True
        self._counting = Lock()
        self.hits: dict[str, int] = {}

    def close(self) -> None:
        """Find nothing from now on: the node is about to leave, or has ended."""
        self._open = False

    def find(self, resource: str, id: Id) -> Reply | None:
        """Return the reply from the entry of an id, with a value of its own each time.

        It counts as a use of the entry: what is not used goes first.

        Raises:
            InvalidId.
        """
        term = self._term()
        id, place = _addressed(resource, id)
        entry = self._cache.look(place, term.clock(), epoch=term.epoch)
        if entry is None:
            return None
        # The lease comes after the entry: who is stopped in between finds his lease too old.
        now = term.clock()
        if not self._open or term.over or term.draining or now >= term.trusted_until:
            return None
        left_s = entry.expires_at - now
        if left_s <= 0:
            return None
        with self._counting:
            self.hits[resource] = self.hits.get(resource, 0) + 1
        age_s = max(0.0, now - entry.computed_at)
        value = _value(entry.text.decode())[0]
        return Reply(id, value, self._node, "hit", age_s, left_s, entry.token)

    def drop(self, resource: str, id: Id, *, before: int | None = None) -> None:
        """Drop what is kept of an id, if it was made before a token: this program has had it
        invalidated, or made anew, be it elsewhere.
        """
        self._cache.drop(_addressed(resource, id)[1], self._term().clock(), before=before)

    def drop_all(self, resource: str | None, *, before: int) -> None:
        """The same of all ids of a resource, or of all resources."""
        self._cache.flush(quote(resource).encode() if resource is not None else b"", before)


def _addressed(resource: str, id: object) -> tuple[Id, bytes]:
    """Return the canonical id and its address. Raises: InvalidId."""
    try:
        return _of_hashable(resource, id)
    except TypeError:  # it cannot be looked up: it is no id either
        return canonical(id), b""


@lru_cache(maxsize=4096, typed=True)
def _of_hashable(resource: str, id: object) -> tuple[Id, bytes]:
    found = canonical(id)
    return found, address(resource, found).encode()
