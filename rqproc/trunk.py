"""The blocking driver of requests: two links that all threads of a client share.

Knows threads, locks and links. Must not know what is being said: see ``switchboard``.

One of the callers reads for all. It sends what waits to be sent and a blocking read in one packet:
a caller that is alone sends and reads as if the link were its own. Whoever comes while it reads
sends on the other link, for all who came at the same moment, and waits to be woken. Whoever has
its own answer gives its place to one who waits. Nobody waits for a lock while another sends or
reads: what a lock is held for takes microseconds.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

from rqproc.cluster import Cluster
from rqproc.conversation import Look, Pause, Request
from rqproc.drive import drive
from rqproc.ground import Lock
from rqproc.lines import Lines
from rqproc.link import CONNECT_TIMEOUT_S, Link, LinkLost, Refused
from rqproc.packets import Packet, Seat
from rqproc.switchboard import TOLD, Switchboard
from rqproc.wanted import Wanted

SHORTEST_ERROR_BYTES = 20
"""``-NOSCRIPT No matching script.`` has 31, and the others are longer."""


class Trunk:
    """What the requests of a client go over; shared by any number of threads."""

    def __init__(self, lines: Lines, cluster: Cluster) -> None:
        self._lines = lines
        self._ground = lines.dial.ground
        self._monotonic = self._ground.monotonic
        self._cluster = cluster
        self.forget_parent()
        _ALL.add(self)

    def forget_parent(self) -> None:
        """Begin anew; in a forked child the sockets are the parent's, and so may the locks be."""
        self._board = Switchboard(self._cluster)
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._pull: Link | None = None
        self._push: Link | None = None
        self._closing = False

    def ask(self, wanted: Wanted, talk: Request) -> None:
        """Carry out a conversation about these calls. Raises: what it raises."""
        turn = self._ground.lock()
        turn.acquire()
        with self._lock:
            seat = self._board.sit(wanted, _release(turn))
        try:
            drive(talk, lambda step: self._do(seat, turn, step), failures=(LinkLost, Refused))
        finally:
            with self._lock:
                self._board.leave(seat)
            if self._closing:
                self.close()

    def close(self) -> None:
        """Close the links, as soon as nobody needs them any more."""
        with self._lock:
            self._closing = bool(self._board.seats)
        if self._closing or not self._reading.acquire(blocking=False):
            return
        try:
            self._say_goodbye()
        finally:
            self._reading.release()
            self._hand_on()

    def _say_goodbye(self) -> None:
        with self._lock:
            pull, goodbye = self._pull, self._board.goodbye()
        if pull and goodbye:
            with suppress(LinkLost, Refused):  # the box expires by itself
                pull.exchange((goodbye,), timeout_s=1.0)
        with self._lock:
            self._hang_up()
        if pull:
            pull.close()

    # --- inside ---

    def _do(self, seat: Seat, turn: Lock, step: Look | Pause) -> None:
        if isinstance(step, Pause):
            self._ground.sleep(step.seconds)
            return
        with self._lock:
            self._board.post(seat, step.demands, wait_s=step.wait_s, grace_s=step.grace_s)
        try:
            self._look(seat, turn, step)
        finally:
            seat.waiting = False
            self._hand_on()

    def _look(self, seat: Seat, turn: Lock, step: Look) -> None:
        """Read or send for all, or wait for who does, until there is something for this one."""
        end = self._monotonic() + step.wait_s
        while True:
            seat.waiting = True  # before a place is looked at: whoever leaves one looks at this
            if self._reading.acquire(blocking=False):
                seat.waiting = False
                try:
                    self._read(seat, end, step.grace_s)
                finally:
                    self._reading.release()
            elif self._may_send() and self._sending.acquire(blocking=False):
                seat.waiting = False
                try:
                    self._exchange_as_sender()
                finally:
                    self._sending.release()
            else:
                turn.acquire(timeout=max(0.0, end - self._monotonic()))
            if seat.fetch():
                return
            if self._monotonic() >= end:
                self._check_sent(seat, step)
                return

    def _check_sent(self, seat: Seat, step: Look) -> None:
        """Raises: LinkLost: for too long nobody could send what this one wants."""
        with self._lock:
            if step.wait_s >= step.grace_s and self._board.recall(seat):
                raise LinkLost("it does not answer", spent_s=step.wait_s)

    def _may_send(self) -> bool:
        return bool(self._board.outbox) and not self._board.first

    def _hand_on(self) -> None:
        """Wake one who waits, where nobody reads, or nobody sends what is to be sent."""
        if len(self._board.seats) < 2:
            return
        if self._reading.locked() and (self._sending.locked() or not self._board.outbox):
            return
        with self._lock:
            if seat := self._board.next_waiting():
                seat.wake()

    def _read(self, seat: Seat, end: float, grace_s: float) -> None:
        """Read for all until there is something for this one."""
        while not seat.news and seat.error is None:
            left_s = end - self._monotonic()
            if left_s <= 0:
                return
            self._exchange_as_reader(left_s, grace_s)

    def _exchange_as_reader(self, wait_s: float, grace_s: float) -> None:
        board = self._board
        generation, link = board.generation, None
        try:
            link = self._pull
            if link is None:
                link = self._pull = self._connect(wait_s + grace_s)
            if board.first:
                self._say_first(link, grace_s)
            with self._lock:
                if link is not self._pull:
                    return  # the other link was lost, and this one let go of
                generation, packet = board.generation, board.compose()
                wait_s = min(wait_s, packet.wait_s)
                commands = (*packet.commands, board.read(wait_s))
            replies = link.exchange(
                commands, timeout_s=wait_s + grace_s, prelude_bytes=_prelude(packet)
            )
            with self._lock:
                board.heard(packet, replies[:-1])
                board.take_in(replies[-1])
        except TOLD as error:
            self._break(error, generation)
        except BaseException:  # Ctrl-C, for one
            self._break(LinkLost("interrupted"), generation)
            raise
        finally:
            if link and link is not self._pull:
                link.close()

    def _say_first(self, link: Link, grace_s: float) -> None:
        with self._lock:
            first = self._board.first
        link.exchange(first, timeout_s=grace_s)
        with self._lock:
            self._board.said(len(first))

    def _exchange_as_sender(self) -> None:
        board = self._board
        generation, link = board.generation, None
        try:
            link = self._push
            if link is None:
                link = self._push = self._connect(board.grace_s)
            with self._lock:
                if link is not self._push or board.first or not board.outbox:
                    return
                generation, packet = board.generation, board.compose()
            replies = link.exchange(packet.commands, timeout_s=packet.grace_s)
            with self._lock:
                board.heard(packet, replies)
        except TOLD as error:
            self._break(error, generation)
        except BaseException:  # Ctrl-C, for one
            self._break(LinkLost("interrupted"), generation)
            raise
        finally:
            if link and link is not self._push:
                link.close()

    def _break(self, failure: Exception, generation: int) -> None:
        """Begin anew: tell everyone, and let go of both links."""
        with self._lock:
            if self._board.generation != generation:
                return  # it has been told: this is the other link's end
            self._board.broken(failure)
            self._hang_up()
        if not isinstance(failure, Refused) or failure.moved:
            self._lines.close()  # the server has gone, and the idle links with it

    def _hang_up(self) -> None:
        """Let go of both links. One that is in use is closed by who uses it."""
        pull, push = self._pull, self._push
        self._pull = self._push = None
        for link, in_use in ((pull, self._reading), (push, self._sending)):
            if link is None:
                continue
            link.interrupt()
            if in_use.acquire(blocking=False):
                link.close()
                in_use.release()

    def _connect(self, within_s: float) -> Link:
        return self._lines.dial.connect(timeout_s=min(CONNECT_TIMEOUT_S, within_s))


def _release(turn: Lock) -> Callable[[], None]:
    """Open a lock, if it is not open."""

    def wake() -> None:
        if turn.locked():
            turn.release()

    return wake


def _prelude(packet: Packet) -> int:
    """Bytes of the replies that tell a caller nothing: ``:1``, an empty text for each call.

    Never as many as the shortest error of a server has: an error must wake the caller.
    """
    size = sum(4 if sent is None else 4 + 6 * len(sent[0].jobs) for sent in packet.routes)
    return min(size, SHORTEST_ERROR_BYTES - 1)


_ALL: weakref.WeakSet[Trunk] = weakref.WeakSet()


def _after_fork() -> None:
    for trunk in _ALL:
        trunk.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
