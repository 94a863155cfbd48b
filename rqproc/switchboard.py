"""What all callers of one client say together, and who gets which answer. Without input or output.

Knows the scripts' calls, streams and cursors. Must not know connections, threads or event loops:
``trunk`` and ``atrunk`` carry it out. Not for two threads at once: its driver has a lock.

All answers come into one stream, the client's box. What was read is removed from it now and then.
Whatever goes out at the same moment goes in one packet, alike requests in one call of the script.

A packet with calls that may have been answered before finds their answers in the box: as long as
one is on its way, on whichever connection, nothing is removed.

After a lost connection nobody knows which packets the server has had, and one may still be on its
way. So the box is fenced, and a new one is for whoever asks from then on:
  1. The fence is set. From then on route looks for each call that names the old box.
  2. Then alone are calls sent again, with the box that they were first sent with.
  3. Nothing is removed from the old box any more, so route finds there what has been answered. It
     is read until nobody waits for an answer there, and expires.
Likewise where calls are sent again whose first packet has not been acknowledged yet: it may be
overtaken, on the other connection. There the fence goes before them in the same packet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf
from typing import Any

from rqproc import wire
from rqproc.cluster import Cluster, Job
from rqproc.errors import RqprocError
from rqproc.link import Command, LinkLost, Refused
from rqproc.names import Names, fresh_id
from rqproc.packets import MOST_GRACE_S, Alike, Box, Demand, Packet, Seat, Sender

TRIM_ENTRIES = 32
TRIM_BYTES = 65536
"""So much is read of a box before it is removed: seldom, but not much."""

TOLD = (LinkLost, Refused, RqprocError)
"""What everyone is told who waits for an answer; RqprocError: of sentinels, or of the embedded
server."""

HEARD_BY = 0.8
"""What a reader sends with its read is acknowledged after the read: by this part of the time after
which it is sent again, so that it need not be fenced for that."""

FENCE_S = 120.0
"""Seconds that a fence outlives the longest timeout of those who wait behind it."""


def _loads(cluster: Cluster) -> tuple[Command, ...]:
    """Whoever connects makes the scripts known: else whatever is sent at that moment is refused."""
    return cluster.load("route", "scatter", "withdraw")


class Switchboard:
    """The callers of one client."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._by_id: dict[str, Seat] = {}
        self._names = Names(fresh_id)
        self._sender = Sender(cluster, self._names)
        self._seats: dict[Seat, None] = {}
        self._outbox: list[tuple[Seat, Demand]] = []
        self._box = Box()
        self._old: list[Box] = []
        self._first = list(_loads(cluster))
        self._packets = 0
        self._under_way: dict[int, bool] = {}  # by number: has it calls that were sent before?
        self.generation = 0
        self.grace_s = MOST_GRACE_S
        self._wait_s = inf

    # --- callers ---

    def sit(self, wanted: Any, wake: Callable[[], None]) -> Seat:
        """Take a place, for the answers of an order."""
        seat = Seat(wanted, wake)
        self._seats[seat] = None
        for job in wanted.order.jobs:
            self._by_id[job.id] = seat
        return seat

    def leave(self, seat: Seat) -> None:
        """Wait for nothing any more."""
        self._seats.pop(seat, None)
        self.recall(seat)
        for job in seat.wanted.order.jobs:
            self._by_id.pop(job.id, None)
        self._names.forget(seat.wanted.order.jobs)
        if (box := seat.box) is not None:
            box.seats -= 1
            if not box.seats and box in self._old:
                self._old.remove(box)

    def post(self, seat: Seat, demands: Iterable[Demand], *, wait_s: float, grace_s: float) -> None:
        """Put something in the outbox.

        It may be sent again after ``wait_s``; the server is late if it has not had it in
        ``grace_s``.
        """
        for demand in demands:
            seat.error = None  # of what is sent again
            self._outbox.append((seat, demand))
            self.grace_s = min(self.grace_s, grace_s)
            self._wait_s = min(self._wait_s, wait_s)

    def recall(self, seat: Seat) -> bool:
        """Take back what was not sent yet; return whether there was anything."""
        outbox = self._outbox
        self._outbox = [entry for entry in outbox if entry[0] is not seat] if outbox else outbox
        return len(self._outbox) < len(outbox)

    @property
    def outbox(self) -> Sequence[object]:
        """What waits to be sent."""
        return self._outbox

    def next_waiting(self) -> Seat | None:
        """Return the caller that has waited longest, of those who will go on waiting."""
        waiting = (s for s in self._seats if s.waiting and not s.news and s.error is None)
        return next(waiting, None)

    @property
    def seats(self) -> Collection[Seat]:
        """Whoever waits for an answer."""
        return self._seats

    # --- what is said ---

    @property
    def first(self) -> Sequence[Command]:
        """What must have been said before anything else is: scripts, and fences."""
        return tuple(self._first)

    def said(self, count: int) -> None:
        """So much of it has been heard."""
        del self._first[:count]

    def _fence(self, box: Box, longest_s: float) -> Command:
        key, keep_ms = self._cluster.keys.fence(box.name), round((longest_s + FENCE_S) * 1000)
        return ("SET", key, 1, "PX", keep_ms)

    def compose(self) -> Packet:
        """Return what is to be sent now: all that waits in the outbox."""
        self._packets += 1
        packet = Packet([], [], self.grace_s, self._wait_s * HEARD_BY, self._packets)
        self.grace_s, self._wait_s = MOST_GRACE_S, inf
        if self._may_trim():
            self._trim(packet)
        if self._outbox:
            self._empty_outbox(packet)
        return packet

    def _empty_outbox(self, packet: Packet) -> None:
        outbox, self._outbox = self._outbox, []
        if len(outbox) == 1 and self._add_first(packet, *outbox[0]):
            return
        alike: dict[Alike, tuple[list[Job], list[Seat]]] = {}
        for seat, demand in outbox:
            known, box = seat.box is not None, self._place(seat, packet)
            calls = demand.calls
            if demand.again:
                calls = calls._replace(jobs=tuple(map(self._names.sent, calls.jobs)))
            if demand.withdraw and known:
                left_s = demand.timeout_s
                packet.say(self._cluster.withdraw(calls, reply=box.name, timeout_s=left_s))
            head = Alike(
                demand.timeout_s, calls.parent, calls.together, box.name, demand.again, demand.quiet
            )
            jobs, seats = alike.setdefault(head, ([], []))
            jobs.extend(calls.jobs)
            seats.extend([seat] * len(calls.jobs))
        for head, (jobs, seats) in alike.items():
            self._sender.send(packet, head, jobs, seats)
        self._under_way[packet.number] = any(demand.again for _, demand in outbox)

    def _add_first(self, packet: Packet, seat: Seat, demand: Demand) -> bool:
        """The most frequent case: one caller, for the first time."""
        calls = demand.calls
        if seat.box is not None or demand.again or len(calls.jobs) > 1:
            return False
        box = self._place(seat, packet)
        alike = Alike(demand.timeout_s, calls.parent, b"", box.name, again=False, quiet=False)
        self._sender.send_one(packet, alike, calls.jobs[0], seat)
        self._under_way[packet.number] = False
        return True

    def _place(self, seat: Seat, packet: Packet) -> Box:
        """Return the box in which a caller waits, from its first packet on."""
        if seat.box is None:
            seat.box, seat.packet = self._box, packet.number
            seat.box.seats += 1
        elif seat.box is self._box and seat.packet in self._under_way:
            packet.say(self._fence(*self._begin_box()))
        return seat.box

    def _begin_box(self) -> tuple[Box, float]:
        """Have a new box; return the old one, and the longest timeout of who waits there."""
        box, self._box = self._box, Box()
        self._old.append(box)
        return box, max(s.wanted.order.timeout_s for s in self._seats if s.box is box)

    def _may_trim(self) -> bool:
        much = self._box.entries >= TRIM_ENTRIES or self._box.bytes >= TRIM_BYTES
        return much and not any(self._under_way.values())

    def _trim(self, packet: Packet) -> None:
        box = self._box
        box.entries = box.bytes = 0
        packet.say(("XTRIM", box.key, "MINID", box.cursor))

    def read(self, wait_s: float) -> Command:
        """The blocking look at what has come since the last one."""
        wait_ms = max(round(wait_s * 1000), 1)  # 0 is for ever
        box = self._box
        if not self._old:
            return ("XREAD", "BLOCK", wait_ms, "STREAMS", box.key, box.cursor)
        boxes = [*self._old, box]
        keys, cursors = [b.key for b in boxes], [b.cursor for b in boxes]
        return ("XREAD", "BLOCK", wait_ms, "STREAMS", *keys, *cursors)

    def goodbye(self) -> Command | None:
        """What removes the box of a client that is closed; None where it is still needed."""
        if self._box.seats or self._under_way:
            return None
        box, self._box = self._box, Box()
        return ("UNLINK", box.key)

    # --- what is heard ---

    def heard(self, packet: Packet, replies: Sequence[Any]) -> None:
        """Take in the replies to a packet: its calls have arrived."""
        self._under_way.pop(packet.number, None)
        for sent, reply in zip(packet.routes, replies, strict=True):
            if sent is None:
                continue
            route, quiet = sent
            for seat in route.seats:
                seat.wanted.carried = seat.wanted.heard = True
            if quiet:
                for job, seat, report in zip(route.jobs, route.seats, reply, strict=True):
                    self._note_nobody(seat, self._names.given(job.id), report)

    @staticmethod
    def _note_nobody(seat: Seat, id: str, report: bytes) -> None:
        if b"NoLiveNode" in report:
            seat.wanted.nobody[id] = wire.refusal(id, report)
        else:
            seat.wanted.nobody.pop(id, None)

    def take_in(self, found: Iterable[Sequence[Any]] | None) -> None:
        """Give what a look has brought to those who wait for it, and wake them."""
        for name, entries in found or ():
            box = self._box_of(name.decode())
            for cursor, flat in entries:
                for answer in wire.answers(flat):
                    self._give(answer)
                if box:
                    box.cursor = cursor
                    box.entries += 1
                    box.bytes += len(flat[5])

    def _give(self, answer: wire.Answer) -> None:
        id = self._names.given(answer.job_id)
        seat = self._by_id.get(id)
        if seat is None:
            return
        seat.wanted.take(answer, id=id)
        if not seat.news:
            seat.news = True
            seat.wake()

    def _box_of(self, key: str) -> Box | None:
        if key == self._box.key:
            return self._box
        return next((box for box in self._old if box.key == key), None)

    def broken(self, error: Exception) -> None:
        """A packet has failed: nobody knows which of the last ones have arrived."""
        self.generation += 1
        self._outbox.clear()
        self._first += [load for load in _loads(self._cluster) if load not in self._first]
        if self._box.seats:
            self._first.append(self._fence(*self._begin_box()))
        elif self._under_way:
            self._box = Box()  # nobody sends again what lies there, but it may come late
        self._under_way.clear()
        for seat in self._seats:
            seat.error = error
            seat.wake()
