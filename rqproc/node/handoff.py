"""Entries of ids that move, on their way from node to node: so that a deploy does not empty every
cache at once.

Pure: it sends nothing. Knows the cache, resources, and what may be relied on of a moment. Must not
know sessions.

The way of an entry, from a to b, which owns its id in the epoch that both have learned::

    a  learns the epoch: what is another's by now is held ready, the most used first   cache
    a  hand_over: packets, each for whoever owns what is in it                        handoff.lua
    b  comes to a mark in its queue, learns the epoch, and takes what lies ready      handoff.lua
    b  keeps it, unless something has happened to that id since the epoch began       here

Nothing that it gives is older than what someone may rely on:

=========================== =======================================================================
what may happen             why nothing older is answered after
=========================== =======================================================================
it expires on its way       its end is told by the server's clock. a takes the last moment that it
                            was told for as late as it can have been, b for as early: each may only
                            shorten it
42 is invalidated, set or   by b, its owner: b takes nothing of what it has claimed since that
run                         epoch began. What was claimed before is older than a's entry
42 is held by a, or another what it is told goes there. a gives nothing of what it has anything of
                            under way when it learns the epoch, and drops it as it drops entries
                            while it waits to be given; the server passes on nothing that is held
all is flushed              b has the token up to which nothing is an entry any more
42 moves on, and comes back b takes it if it knows of each epoch since then that 42 was its own;
                            packets of older epochs that come late are refused by the server
a is killed or paused, a    what is on its way is lost, or comes late: see above. After a lost
connection is cut           connection a has a new session: packets of the old one are refused
b is killed or paused       what lies ready for it goes after HANDED_MS; b takes nothing while it
                            may not rely on its lease
=========================== =======================================================================

Values come to b as a's app made them: a deploy that changes what a handler returns has old values
answered until their ttl is over, as within a, or by near-caches. Of stateful ids nothing is given:
they have states.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence

from rqproc.ids import resource_of
from rqproc.log_events import tell
from rqproc.node.cache import Cache, Moved
from rqproc.node.entries import Entry
from rqproc.protocol.messages import Packet
from rqproc.resource import ResourceSpec
from rqproc.runtime import Clock

log = logging.getLogger("rqproc.node")

GIVE_S = 2.0
"""For so long after a change of members entries are given away, and a drain takes longer."""

SETTLE_S = 0.3
"""For most of what moves it takes no longer."""

TAKE_S = 10.0
"""For so long they are taken; a node remembers what it has claimed meanwhile."""

MOST_CLAIMED = 100_000
"""Of more than that it remembers nothing, and takes nothing more."""

MOST_LINES = 256
MOST_BYTES = 256 * 1024
"""Of one packet: others need the server meanwhile."""

AGAIN_S = 0.02
"""The pause where an owner has too much lying ready."""

Line = tuple[bytes, bytes]
"""An address, and what is told of its entry: token, when it was made, until when it is a hit, until
when it is fresh if it is kept for longer, all by the server's clock; its kind; its text.
"""


class Handoff:
    """What one node gives and takes. All of it belongs to whoever holds the worker's lock.

    Attributes:
        epoch: in which what is given has moved.
        wants: a mark has come: there may be something to take.
        given, taken: how many entries, ever.
    """

    def __init__(
        self, node: str, cache: Cache, resources: Mapping[str, ResourceSpec], clock: Clock
    ) -> None:
        self._node = node
        self._cache = cache
        self._resources = resources
        self._clock = clock
        self._allowed = True
        self._addresses: deque[bytes] = deque()
        self._later: list[Line] = []
        self._claimed: dict[bytes, int] = {}
        self._claimed_since = 0
        self._settles_at = self._give_until = self._take_until = self._next_at = -math.inf
        self._server_s = 0.0
        self.epoch = -1
        self.wants = False
        self.given = self.taken = 0

    def learned(self, epoch: int, server_ms: int) -> None:
        """The cache has learned a new epoch.

        Args:
            server_ms: the server's clock, some time before this moment.
        """
        now = self._clock()
        self.epoch = epoch
        self._server_s = server_ms / 1000 - now
        if now >= self._take_until:
            self._claimed.clear()
            self._claimed_since = epoch
        self._settles_at, self._give_until, self._next_at = now + SETTLE_S, now + GIVE_S, now
        self._take_until = now + TAKE_S
        self._later = []
        self._addresses = deque(self._cache.moved() if self._allowed else ())

    def claimed(self, address: bytes) -> None:
        """Something of an address is this node's to do: what others have kept of it is older."""
        if self._take_until > -math.inf:
            self._claimed[address] = self.epoch
            if len(self._claimed) > MOST_CLAIMED or self._clock() >= self._take_until:
                self._claimed.clear()
                self._take_until = -math.inf

    def give_up(self, *, for_good: bool = False) -> None:
        """Give and take no more of this epoch; or never."""
        self._addresses.clear()
        self._later = []
        self._take_until, self.wants = -math.inf, False
        self._allowed = self._allowed and not for_good

    # --- giving ---

    @property
    def settles_s(self) -> float:
        """Seconds that a node which is told to stop does well to wait: of two changes of members at
        once what moved by the first is given by nobody.
        """
        least_s = 0.0 if self.waits_s is None else 0.001
        return max(least_s, self._settles_at - self._clock())

    @property
    def waits_s(self) -> float | None:
        """Seconds until there is something to do; None for nothing."""
        if self.wants:
            return 0.0
        now = self._clock()
        if not (self._addresses or self._later) or now >= self._give_until:
            return None
        return max(0.0, self._next_at - now)

    def look_again_s(self, *, is_stopping: bool) -> float:
        """Return in how many seconds something must be looked at."""
        waits_s, settles_s = self.waits_s, self.settles_s if is_stopping else 0.0
        return min(math.inf if waits_s is None else waits_s, settles_s or math.inf)

    def packet(self) -> Sequence[Line]:
        """Return what is to be given now, once; nothing where that is over."""
        if self.waits_s != 0.0:
            return ()
        lines, self._later = self._later, []
        size = sum(len(text) for _, text in lines)
        while self._addresses and len(lines) < MOST_LINES and size < MOST_BYTES:
            address = self._addresses.popleft()
            moved = self._cache.take_moved(address)
            if line := moved and self._line(address, moved):
                lines.append((address, line))
                size += len(line)
        return lines

    def gave(self, lines: Sequence[Line], later: Sequence[int] | None) -> None:
        """A packet was given.

        Args:
            later: places of those that are to be given again; None where all are too late.
        """
        if later is None:
            self.give_up()
            return
        self.given += len(lines) - len(later)
        self._later = [lines[place] for place in later]
        if later:
            self._next_at = self._clock() + AGAIN_S
        elif not self._addresses:
            text = "%s: %d entries handed over so far"
            tell(log, "entries_given", text, self._node, self.given, count=self.given)

    def unsure(self, lines: Sequence[Line]) -> None:
        """Nobody knows whether a packet was given: it is given once more, by the next session."""
        self._later = list(lines)

    def _line(self, address: bytes, moved: Moved) -> bytes | None:
        entry, late_until, is_error = moved
        resource = self._resource(address)
        if resource is None:
            return None
        fresh_until = -math.inf if late_until is None else late_until - resource.policy.late_s
        ends = max(entry.expires_at, -math.inf if late_until is None else late_until)
        if ends <= self._clock():
            return None
        kind = b"error" if is_error else b"value"
        made, until, fresh = map(self._ms, (entry.computed_at, entry.expires_at, fresh_until))
        return b"%d %d %d %d %s %s" % (entry.token, made, until, fresh, kind, entry.text)

    def _ms(self, at: float) -> int:
        return math.floor((at + self._server_s) * 1000) if at > -math.inf else 0

    # --- taking ---

    @property
    def is_open(self) -> bool:
        """Whether anything may be taken now."""
        return self._allowed and self._clock() < self._take_until

    def take(self, packet: Packet | None, asked_at: float) -> None:
        """Keep what is worth it of a packet; None where there was none.

        Args:
            asked_at: when it was asked for, by this node's clock.
        """
        self.wants = packet is not None and packet.left > 0
        if packet is None or packet.epoch < self._claimed_since or not self.is_open:
            return
        for line in packet.lines:
            try:
                address, token, *moments, kind, text = line.split(b" ", 6)
                made, until, fresh = (_own(int(ms), packet.now_ms, asked_at) for ms in moments)
                entry = Entry(made, until, int(token), text)
            except ValueError:  # someone else has written it
                continue
            is_newer = self._claimed.get(address, -1) < packet.epoch
            if is_newer and self._cache.has_owned_since(packet.epoch, address):
                self.taken += self._adopt(address, entry, fresh, is_error=kind == b"error")

    def _adopt(self, address: bytes, entry: Entry, fresh: float, *, is_error: bool) -> bool:
        resource = self._resource(address)
        if resource is None or resource.ttl_s <= 0:
            return False
        policy = resource.policy
        late_until = fresh + policy.late_s if fresh > -math.inf and policy.keeps_late else None
        moved = Moved(entry, late_until, is_error)
        return self._cache.adopt(address, moved, self._clock(), policy.bounds)

    def _resource(self, address: bytes) -> ResourceSpec | None:
        return self._resources.get(resource_of(address))


def _own(ms: int, now_ms: int, asked_at: float) -> float:
    """Return a moment of the server's clock by this node's, no later than it is; 0 is never."""
    return asked_at + (ms - now_ms) / 1000 if ms else -math.inf
