"""Replies that a caller keeps for itself, and which of them it may serve at a moment.

Pure. Knows replies, ids and a clock that it is given. Must not know connections, nor who tells it
what was dropped.

A reply is served while three things hold: the owner's entry would live; nobody has said that the id
was dropped; and somebody would have: the subscription that tells has answered not long ago.

Each reply is kept in a place that is made before it is asked for, and whoever drops an id takes its
place away. So a reply that is older than a drop is served to nobody, whichever comes first:

  1. A caller asks for 42: there is a place for it now.
  2. The owner answers with what it has.
  3. 42 is invalidated: the owner drops its entry, and the server publishes that with its answer.
  4. We hear of it: the place goes, and a reply that was in it.
  5. The reply of 2 arrives late, on a connection of its own: nobody looks into its place any more.
  6. Who asks after 4 makes another place, and is answered by an owner that has dropped its entry.

A subscription that is lost, or begins, takes all places away: what was asked for before the server
knew of it may have been dropped unheard.
"""

from __future__ import annotations

import marshal
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from rqproc.errors import InvalidId
from rqproc.ids import Id, canonical, parse_address, unquote
from rqproc.locks import snapshot
from rqproc.model import Reply

ROUNDED_S = 0.0005
"""By so much the time left to an entry may be rounded up on its way."""

Key = tuple[str, Id]

_SCALARS = frozenset((str, int, float, bool, type(None)))
_canonical = lru_cache(maxsize=4096)(canonical)


@dataclass(frozen=True, slots=True)
class NearEntry:
    """A reply, when it was asked for and when it is gone, in seconds of the clock.

    Attributes:
        value: makes the value, one that nobody else has where it could be changed.
    """

    reply: Reply
    asked_at: float
    expires_at: float
    value: Callable[[], Any]

    def reply_at(self, now: float) -> Reply:
        """Its age counts from when it was asked for, as if the owner had answered at once."""
        return Reply(
            id=self.reply.id,
            value=self.value(),
            node=self.reply.node,
            source="near",
            age_s=self.reply.age_s + now - self.asked_at,
            expires_in_s=max(0.0, self.expires_at - now),
            token=self.reply.token,
        )


class EntrySlot:
    """Where a reply may be kept. ``used``: it was served since its turn to go came last."""

    __slots__ = ("kept", "used")

    def __init__(self) -> None:
        self.kept: NearEntry | None = None
        self.used = False

    def put(self, kept: NearEntry) -> None:
        """The later run's reply stays, in whatever order they come."""
        if self.kept is None or self.kept.reply.token <= kept.reply.token:
            self.kept = kept


class Near:
    """The replies that one caller keeps. For any number of threads.

    There is no lock, which one who is interrupted could leave taken: places are made and taken away
    by single operations of a dictionary.

    Args:
        most: places that there may be, 1 or more.
    """

    def __init__(self, most: int, *, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._places: OrderedDict[Key, EntrySlot] = OrderedDict()
        self._trusted_until = -math.inf

    def __len__(self) -> int:
        return len(self._places)

    # --- what callers ask ---

    def find(self, id: object, resource: str) -> NearEntry | None:
        """Return what may be served now, None where the owner must be asked.

        Raises:
            InvalidId.
        """
        kind = type(id)
        if kind is not int and kind is not str:  # True and 1.0 would be found as 1
            return None
        try:
            place = self._places.get((resource, id))  # type: ignore[arg-type]  # an Id
            if place is None and kind is str and self._places:
                place = self._places.get((resource, _canonical(id)))  # "7" is kept as 7
        except TypeError:  # the resource is no name, as will be said of it
            return None
        if place is None or (kept := place.kept) is None:
            return None
        now = self._clock()
        if now >= kept.expires_at or now >= self._trusted_until:
            return None
        place.used = True
        return kept

    def reply(self, id: object, resource: str) -> Reply | None:
        """``find``, with the story of the value."""
        now = self._clock()  # first: what is found then had not ended by it
        kept = self.find(id, resource)
        return kept.reply_at(now) if kept else None

    def expect(self, resource: str, ids: Iterable[Id]) -> Expected:
        """Make places for what is asked for next; to be called before it is."""
        places = {id: self._place((resource, id)) for id in ids}
        return Expected(self, resource, self._clock(), places)

    # --- what callers and the subscription tell ---

    def drop(self, resource: str, id: Id) -> None:
        self._places.pop((resource, id), None)

    def drop_all(self, resource: str | None) -> None:
        """All ids of a resource were dropped, or all there are."""
        for key in snapshot(self._places):
            if resource in (None, key[0]):
                self._places.pop(key, None)

    def discard(self, resource: str, id: Id, place: EntrySlot) -> None:
        """Take a place away in which nothing is kept, unless that has been done.

        One that another makes at this moment may go too: its reply is not kept then.
        """
        if place.kept is None and self._places.get((resource, id)) is place:
            self._places.pop((resource, id), None)

    def begin(self) -> None:
        """From now on every drop will be told, while there is trust."""
        self._places.clear()

    def trust(self, until: float) -> None:
        """Drops have been told so far, and replies may be served until then without a new word."""
        self._trusted_until = until

    def hear(self, address: bytes) -> None:
        """An id was dropped, or all of a resource. What cannot be read may be about any."""
        try:
            if address.startswith(b"*"):
                self.drop_all(unquote(address[1:].decode()) or None)
                return
            _, resource, id = parse_address(address.decode())
        except (ValueError, InvalidId):
            self._places.clear()
        else:
            self.drop(resource, id)

    def distrust(self) -> None:
        """Drops may not be told from now on."""
        self._trusted_until = -math.inf
        self._places.clear()

    # --- inside ---

    def _place(self, key: Key) -> EntrySlot:
        if (found := self._places.get(key)) is None:
            while len(self._places) >= self._most:
                self._let_one_go()
            found = self._places.setdefault(key, EntrySlot())
        return found

    def _let_one_go(self) -> None:
        """The oldest; but one that has been served since its last turn comes after all others."""
        with suppress(KeyError, RuntimeError, StopIteration):  # another changes them just now
            key, place = next(iter(self._places.items()))
            if place.used:
                place.used = False
                self._places.move_to_end(key)
            else:
                del self._places[key]


@dataclass(frozen=True, slots=True)
class Expected:
    """What is being asked for at one moment, and where its replies may be kept."""

    near: Near
    resource: str
    asked_at: float
    places: Mapping[Id, EntrySlot]

    def keep(self, outcomes: Mapping[Id, object]) -> None:
        """Keep those replies that their owner keeps, before anyone gets to change their values."""
        for id, place in self.places.items():
            if kept := self._kept(outcomes.get(id)):
                place.put(kept)
            else:
                self.near.discard(self.resource, id, place)

    def _kept(self, outcome: object) -> NearEntry | None:
        """The owner answered after it was asked: its entry lives as much longer than ours."""
        if not isinstance(outcome, Reply) or outcome.expires_in_s <= ROUNDED_S:
            return None
        try:
            value = _maker(outcome.value)
        except ValueError:  # deeper than marshal goes
            return None
        expires_at = self.asked_at + outcome.expires_in_s - ROUNDED_S
        return NearEntry(outcome, self.asked_at, expires_at, value)


def _maker(value: Any) -> Callable[[], Any]:
    """Return what makes a value as JSON has them again and again."""
    kind = type(value)
    if kind in _SCALARS:
        return lambda: value
    within = value.values() if kind is dict else value
    if kind in (dict, list) and all(type(part) in _SCALARS for part in within):
        copy: Callable[[], Any] = value.copy().copy
        return copy
    # Three times as fast as JSON; and these bytes have been nowhere.
    return partial(marshal.loads, marshal.dumps(value))
