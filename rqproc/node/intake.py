"""What is taken from a node's queue: found in an entry, joined to a run, or to be claimed.

Pure: it sends nothing. It says what the server is to be asked, and goes on when that is answered.

Two things wait for such an answer:
  1. Of calls of an id whose values are kept, and that nobody computes yet, one is claimed. The
     others join the run that it becomes.
  2. What lies behind a mark was routed after the members had changed. It is looked at when they are
     known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rqproc.ids import is_address, resource_of
from rqproc.node.about_id import AboutIds
from rqproc.node.cache import Cache
from rqproc.node.entries import Entry
from rqproc.node.outbox import Outbox
from rqproc.node.reader import CALL, GROUP, Reader
from rqproc.node.runs import Taken
from rqproc.node.scheduler import Scheduler
from rqproc.node.unacknowledged import Unacknowledged
from rqproc.policy import Policy
from rqproc.resource import ResourceSpec
from rqproc.runtime import Clock

EPOCH_MARK = b"epoch"
"""Stands in a queue after each change of the members."""

SHORT_BYTES = 4096
"""Values up to here are answered together with others: 256 of them make a megabyte."""

_PARTS = re.compile(rb"([0-9]+) ([0-9]+-[A-Za-z0-9_]+-[A-Za-z0-9_]+)(?= |$)")
_call = CALL.fullmatch


class Settle(NamedTuple):
    """A group of whose calls some must be run; see ``Commands.settle``."""

    group: str
    length: int
    answers: str
    runs: list[tuple[str, bytes]]


class Asks(NamedTuple):
    """What the server is to be asked, before more is taken from the queue.

    Attributes:
        settles: groups to be settled.
        claims: to be claimed; where there are none, the view of the members is asked for.
        turns: so many of them, the first, are of jobs whose turn has come.
        room: so many others may be started at once, if they are jobs.
        wants_view: whether it is.
        last: whatever is answered, nothing that waits for it will have to be asked for.
    """

    settles: Sequence[Settle]
    claims: Sequence[bytes]
    turns: int
    room: int
    wants_view: bool
    last: bool


class Intake:
    """Sorts what is popped.

    Attributes:
        had_mark: a mark has come since this was set to False.
    """

    def __init__(
        self, resources: Mapping[str, ResourceSpec], *, cache: Cache,
        unacknowledged: Unacknowledged, outbox: Outbox, scheduler: Scheduler, reader: Reader,
        about: AboutIds, clock: Clock,
    ) -> None:  # fmt: skip
        self._resources = resources
        self._refreshes_ahead = any(one.policy.refresh_ahead for one in resources.values())
        self._cache = cache
        self._unacknowledged = unacknowledged
        self._outbox = outbox
        self._scheduler = scheduler
        self._reader = reader
        self._about = about
        self._clock = clock
        self._distrust_until = float("-inf")
        self.had_mark = False
        self.abandon()

    def abandon(self) -> None:
        """The session is over: what was not claimed is queued anew, by the next one."""
        self._groups: dict[bytes, None] = {}
        self._settles: list[Settle] = []
        self._claims: dict[bytes, None] = {}
        self._claimed_keys: set[bytes] = set()
        self._behind: dict[bytes, list[bytes]] = {}
        self._rest: Sequence[bytes] = ()
        self._wants_view = False
        self._asked_turns: set[bytes] = set()
        self._early: set[bytes] = set()

    def distrust_entries(self, for_s: float) -> None:
        """For so many seconds what has an entry is claimed before it is answered: a mark of changed
        members may have been lost with a connection.
        """
        self._distrust_until = self._clock() + for_s

    # --- what is taken from the queue ---

    def take(self, ids: Sequence[bytes]) -> None:
        """Take in what was popped.

        What lies behind a mark was routed after the members had changed: it is looked at when they
        are known here, which ``asks`` sees to. An id that is known is left alone: a caller nudges,
        or an answer is on its way. But a job that has ended may have been queued anew, to be
        retried or repeated, before the server's word on its end was read: that comes first.
        """
        now = self._clock()
        trusts_entries = now >= self._distrust_until
        known, get = self._unacknowledged.ids, self._cache.get
        hit = self._hit if self._refreshes_ahead else self._outbox.hit
        for place, id in enumerate(ids):
            if id in known:
                self._take_known(id)
                continue
            form = _call(id)
            if form is None:
                if id == EPOCH_MARK:
                    self._wants_view, self._rest = True, ids[place + 1 :]
                    self.had_mark = True
                    return
                self._take_other(id)
            elif form[1] != b"c":
                self._take_special(id, form)
            elif trusts_entries and (entry := get(form[2], now)):
                hit(id, form[2], entry, now)
            elif trusts_entries:
                self._take_missing(id, form[2])
            else:  # nor runs: who claims is told what is to be joined no more
                self._claims[id] = None

    def _hit(self, id: bytes, key: bytes, entry: Entry, now: float) -> None:
        self._outbox.hit(id, key, self._to_its_end(key, entry, now), now)

    def _to_its_end(self, key: bytes, entry: Entry, now: float) -> Entry:
        """Return an entry as it is told of: its end is that of its ttl, not the moment from which
        on a hit has the next value made.
        """
        resource = self._resource(key)
        late = self._cache.late(key, now) if resource and resource.policy.refresh_ahead else None
        if resource is None or late is None:
            return entry
        return entry._replace(expires_at=late.expires_at - resource.policy.late_s)

    def _take_known(self, id: bytes) -> None:
        """A job that has ended is claimed when its end is acknowledged, see ``forgotten``."""
        taken = self._unacknowledged.get(id)
        if taken and taken.ended and not _call(id):
            self._early.add(id)

    def forgotten(self, id: bytes) -> None:
        """The end of what was taken is acknowledged: by this id it may be taken anew."""
        if id in self._early:
            self._early.remove(id)
            self._claims[id] = None

    @property
    def awaits_ends(self) -> bool:
        """Whether something can be claimed as soon as an end is acknowledged."""
        return bool(self._early)

    def _take_special(self, id: bytes, form: re.Match[bytes]) -> None:
        """A call with arguments, a change, or a question, which is answered as a hit is: nothing is
        run for it, so nobody need grant it.
        """
        if form[1] == b"e" and is_address(form[2]):
            self._outbox.told(id, self._about.tell(form[2]))
        else:
            self._claims[id] = None

    def _take_other(self, id: bytes) -> None:
        if GROUP.fullmatch(id):
            self._groups[id] = None
        else:
            self._claims[id] = None

    def _take_missing(self, id: bytes, key: bytes) -> None:
        """Have a call without arguments, and without an entry, join a run, or claimed.

        Of calls of an id whose values are kept one is claimed, and the others wait for what comes
        of that.
        """
        if self._cache.has_more and self._take_kept(id, key):
            return
        if key in self._scheduler.joinable:
            self._join(id, key)
        elif key in self._claimed_keys:
            self._behind.setdefault(key, []).append(id)
        else:
            self._claims[id] = None
            if self._keeps(key):
                self._claimed_keys.add(key)

    def _take_kept(self, id: bytes, key: bytes) -> bool:
        """Answer with what is kept beside the entries; return whether there is any, and no run is
        to be begun for it.
        """
        now, resource = self._clock(), self._resource(key)
        kept = self.kept(key, resource.policy, now) if resource else None
        if kept is None or not (kept[1] == "error" or key in self._scheduler.joinable):
            return False
        self._outbox.kept(id, key.decode(), *kept, now)
        return True

    def kept(self, key: bytes, policy: Policy, now: float) -> tuple[Entry, str] | None:
        """Return what answers where there is no plain hit, and as what: "error", "hit" or
        "stale".
        """
        if error := self._cache.error(key, now):
            return error, "error"
        late = self._cache.late(key, now)
        if late is None:
            return None
        fresh_until = late.expires_at - policy.late_s
        if now >= fresh_until + policy.stale_s:
            return None
        return late._replace(expires_at=fresh_until), "hit" if now < fresh_until else "stale"

    def _join(self, id: bytes, key: bytes) -> None:
        taken = Taken(id, key.decode(), key, since=self._clock())
        self._unacknowledged.add(taken)
        if self._scheduler.accepts(taken):
            self._scheduler.join(taken)

    def _keeps(self, key: bytes) -> bool:
        """Whether values of an address are kept."""
        resource = self._resource(key)
        return resource is not None and resource.ttl_s > 0

    def _resource(self, key: bytes) -> ResourceSpec | None:
        return self._resources.get(resource_of(key))

    # --- what is asked of the server ---

    @property
    def has_asks(self) -> bool:
        """Whether anything is to be asked."""
        return bool(
            self._claims or self._groups or self._settles or self._wants_view
            or self._scheduler.left or self._scheduler.turns.unclaimed.keys() - self._asked_turns
        )  # fmt: skip

    def want_view(self) -> None:
        """Have the server asked who the members are."""
        self._wants_view = True

    def groups(self) -> Sequence[bytes]:
        """Return the groups that are to be read now, once, by ``read_group``."""
        groups, self._groups = self._groups, {}
        return list(groups)

    def asks(self) -> Asks:
        """Return what is to be asked now, once, when groups have been read.

        Its answers are taken in by ``learn`` and ``receive``, and then ``go_on``.
        """
        if self._scheduler.left:
            left, self._scheduler.left = self._scheduler.left, []
            self.take(left)
        last = not (self._groups or self._behind or self._rest)
        scheduler = self._scheduler
        scheduler.turns.give()  # before others of their ids are claimed
        turns = [id for id in scheduler.turns.unclaimed if id not in self._asked_turns]
        self._asked_turns.update(turns)
        room = scheduler.room - sum(_call(id) is not None for id in self._claims)
        claims = [*turns, *self._claims]
        asks = Asks(self._settles, claims, len(turns), max(0, room), self._wants_view, last)
        self._settles, self._claims, self._wants_view = [], {}, False
        return asks

    def go_on(self) -> None:
        """Look at what has waited for the answers to what was asked."""
        self._asked_turns &= self._scheduler.turns.unclaimed.keys()
        behind, rest = self._behind, self._rest
        self._behind, self._rest = {}, ()
        self._claimed_keys.clear()
        for key, ids in behind.items():
            cache, now = self._cache, self._clock()
            kept = cache.get(key, now) or cache.error(key, now) or cache.late(key, now)
            if key in self._scheduler.joinable or kept:
                self.take(ids)
            else:
                self._claims.update(dict.fromkeys(ids))
        if rest:
            self.take(rest)

    def read_group(self, group: bytes, text: bytes | None) -> None:
        """Take in which calls of a group are here, None for none: answer those that have a short
        entry; all others are to be run.
        """
        now, name = self._clock(), group.decode()
        trusts_entries = now >= self._distrust_until
        answers: list[str] = []
        runs: list[tuple[str, bytes]] = []
        # What does not begin with one was written there by someone else.
        parts = _PARTS.findall(text) if text and _PARTS.match(text) else []
        for place, key in parts:
            entry = self._cache.get(key, now) if trusts_entries else None
            if entry and len(entry.text) <= SHORT_BYTES:
                if self._refreshes_ahead:
                    entry = self._to_its_end(key, entry, now)
                answers.append(self._outbox.part(name, place, key, entry, now))
            else:
                id = f"{name.replace('-g', '-c', 1)}_{place.decode()}-{key.decode()}"
                runs.append((id, self._reader.plain_data(key)))
        length = len(text or b"")
        if parts and not runs:
            self._outbox.many(name, answers, length)
            return
        told = self._outbox.payload(name, answers) if answers else ""
        self._settles.append(Settle(name, length, told, runs))
