"""A session: what a node asks and tells a server over one pair of connections.

Knows the dispatcher, the connections and the protocol's commands. Must not know threads, terms that
end, nor how a handler is run.

A server that has lost what it knew gives out nothing until all nodes have said what they run: the
session settles. In the middle of a session that is an error, since this node has not told, either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from rqproc.log_events import tell
from rqproc.node.connections import Connections
from rqproc.node.dispatcher import Dispatcher
from rqproc.node.handoff import Handoff, Line
from rqproc.node.intake import Asks
from rqproc.node.lease import Term
from rqproc.protocol import codec
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Claimed, LeaseLost, Settling
from rqproc.runtime import Clock
from rqproc.transport.connection import Command, ConnectionLost, Refused

log = logging.getLogger("rqproc.node")

SETTLE_S = 0.1
"""How often a node asks whether a server that is another one gives out requests again."""

ACKNOWLEDGED_S = 0.02
"""How long the server's word on an answer is left unread where nothing else happens."""

HITS_TOGETHER = 16
"""So many batches of answers from entries are sent before the server's word on them is read."""


class Session:
    """From one reconciliation to the next failure.

    All of it is used under the worker's lock, ``take_most_popped`` alone from other threads too.

    Args:
        connections: the pair that this is said over, of this session's number; closed with it.
        dispatcher: is given what comes, and gives what has ended.
        term: under whose incarnation all is said; when it is over, so is this.
        clock: by which a server that settles is asked again; it need not be the term's.
        ended: called with the ids of finished jobs that others depend on.

    Attributes:
        draining: the server has been told that this node is no member any more.
    """

    def __init__(
        self, connections: Connections, commands: Commands, dispatcher: Dispatcher, term: Term, *,
        clock: Clock, ended: Callable[[Sequence[str]], None],
    ) -> None:  # fmt: skip
        self._connections = connections
        self._commands = commands
        self._dispatcher = dispatcher
        self._term = term
        self._clock = clock
        self._ended = ended
        self._settles_at: float | None = 0.0
        self._most_popped = 0
        self.draining = False

    def open(self, *, rejoined: bool, bare: bool) -> None:
        """Reconcile; see ``Connections.reconcile``.

        Raises:
            ConnectionLost, Refused, LeaseLost, SessionSuperseded, ConfigError.
        """
        opened = -1
        while opened != (opened := self._dispatcher.opened):
            # What is not said is released: an object that was made meanwhile, while the run that
            # made it has its claim.
            known = self._dispatcher.known()
            claimed = self._connections.reconcile(known, rejoined=rejoined, bare=bare)
            self._dispatcher.intake.had_mark = True  # one may have been lost with a connection
            self._learn(claimed)

    def close(self) -> None:
        """Close the connections: what may have been lost with them is done again by the next."""
        self._dispatcher.again(self._connections.close())
        self._dispatcher.intake.abandon()

    @property
    def settles_in_s(self) -> float | None:
        """Seconds until the server is asked again whether it has settled; None once it has."""
        return None if self._settles_at is None else max(0.0, self._settles_at - self._clock())

    def take_most_popped(self) -> int:
        """Return how many ids have come at once since it was asked last. The heartbeat's thread
        asks, without the lock:

          1. It reads the number.
          2. ``serve_hits`` notes a higher one.
          3. It sets the number back: the higher one is lost, and one beat may find that this node
             knows of too little. Several in a row must, see ``lease.BEATS_OF_LOSS``.
        """
        most, self._most_popped = self._most_popped, 0
        return most

    @property
    def is_popping(self) -> bool:
        return self._connections.is_popping

    @property
    def has_unacknowledged(self) -> bool:
        """Whether any ending is not acknowledged."""
        return self._connections.unsure > 0

    # --- taking ---

    def serve_hits(self, most: int, until: float, patience_s: float) -> bool:
        """Answer calls from entries as long as nothing else happens.

        This is the path of a hit, from the pop to the answer. The lock is let go of while it waits.

        Args:
            most: how many ids may be taken at once.
            until: moment on the term's clock at which other things must be looked at.
            patience_s: seconds for which nothing need come; after an answer no more than
                ``ACKNOWLEDGED_S``.

        Returns:
            whether this thread was woken: what others have left for it must be taken in.

        Raises:
            ConnectionLost, Refused.
        """
        connections, clock = self._connections, self._term.clock
        dispatcher, intake = self._dispatcher, self._dispatcher.intake
        batches = 0
        while True:
            woken, readable = connections.wait(patience_s)
            if woken or not readable or clock() >= until:
                return woken  # what has come is read when the lease has been looked at
            ids = connections.popped()
            if len(ids) > self._most_popped:
                self._most_popped = len(ids)
            intake.take(ids)
            if endings := dispatcher.collect():
                connections.answer(endings, draining=self.draining)
                batches += 1
                if patience_s > ACKNOWLEDGED_S:
                    patience_s = ACKNOWLEDGED_S
            if intake.has_asks or intake.awaits_ends or not most or batches == HITS_TOGETHER:
                return False
            if not connections.is_popping:  # it may be, where ids came with the replies before
                connections.pop(most)

    def ask_all(self, most: int) -> None:
        """Ask the server for whatever is wanted of it, until nothing is.

        Args:
            most: how many ids may be taken after that; 0 for none.

        Raises:
            ConnectionLost, Refused, LeaseLost, SessionSuperseded.
            Settling: in the middle of a session the server has lost what it knew.
        """
        dispatcher = self._dispatcher
        while dispatcher.intake.has_asks:
            self.push_out()
            if groups := dispatcher.intake.groups():
                self._read_groups(groups)
            asks = dispatcher.intake.asks()
            most = max(0, most - len(asks.claims))
            # What a pop has brought already is looked at before the next one.
            pops = asks.last and self._settles_at is None and not self._connections.has_ids
            self._ask(asks, most if pops else 0)
        if dispatcher.has_endings:
            self.push_out()

    def _read_groups(self, groups: Sequence[bytes]) -> None:
        inc, commands = self._term.incarnation, self._commands
        texts = self._connections.read([commands.group(group, inc) for group in groups])
        for group, text in zip(groups, texts, strict=True):
            self._dispatcher.intake.read_group(group, text)
        self.push_out()

    def pop(self, most: int) -> None:
        """Wait for up to so many ids, if the server gives out any. Raises: as ``ask_all``."""
        connections = self._connections
        if (
            most
            and not (connections.is_popping or connections.has_ids)
            and self._ask_whether_settled()
        ):
            connections.pop(most)

    def _ask_whether_settled(self) -> bool:
        if self._settles_at is None:
            return True
        if self._clock() < self._settles_at:
            return False
        try:
            self._take_in(self._connections.ask((self._claim(()),))[0])
        except Settling as error:
            self._settles_at = self._clock() + min(error.left_s, SETTLE_S)
            return False
        self._settles_at = None
        return True

    def _ask(self, asks: Asks, most: int) -> None:
        if packet := self._compose(asks):
            for reply in self._connections.ask(packet, then_pop=most):
                self._take_in(reply)
        self._dispatcher.intake.go_on()

    def _compose(self, asks: Asks) -> list[Command]:
        commands, number = self._commands, self._connections.number
        packet: list[Command] = []
        if asks.settles:
            inc, at, epoch = self._term.incarnation, codec.utc(), self._dispatcher.cache.epoch
            packet += [
                commands.settle(inc, *settle, session=number, epoch=epoch, at=at)
                for settle in asks.settles
            ]
        if asks.claims or asks.wants_view:
            packet.append(self._claim(asks.claims, asks.turns, asks.room))
        return packet

    def _claim(self, ids: Sequence[bytes], turns: int = 0, room: int = 0) -> Command:
        return self._commands.claim(
            self._term.incarnation, ids, session=self._connections.number,
            epoch=self._dispatcher.cache.epoch, at=codec.utc(), turns=turns, room=room,
        )  # fmt: skip

    def _take_in(self, reply: Any) -> None:
        """Take in the reply to a claim. Raises: LeaseLost, SessionSuperseded, Settling."""
        claimed = self._commands.read_claim(reply)
        self._learn(claimed)
        if self._term.over:
            raise LeaseLost
        for claim in claimed.claims:
            self._dispatcher.receive(claim, due=self._due(claim.deadline_ms, claimed))

    def _learn(self, claimed: Claimed) -> None:
        self._dispatcher.learn(
            claimed.epoch, claimed.members, claimed.slots, claimed.flushed, claimed.now_ms
        )

    def _due(self, deadline_ms: int, claimed: Claimed) -> float | None:
        if not deadline_ms:
            return None
        return self._term.clock() + (deadline_ms - claimed.now_ms) / 1000

    # --- entries of ids that move ---

    def exchange_entries(self) -> None:
        """Take a packet of what others have given, and give one, if there is any.

        Raises:
            ConnectionLost, Refused, LeaseLost, SessionSuperseded, Settling.
        """
        handoff, intake = self._dispatcher.handoff, self._dispatcher.intake
        if handoff is None:
            return
        if intake.had_mark:
            intake.had_mark, handoff.wants = False, handoff.is_open
        try:
            if handoff.wants:
                self._take_over(handoff)
            if lines := handoff.packet():
                self._hand_over(handoff, lines)
        except Refused as error:
            is_forbidden = error.code == "NOPERM"
            text = "entries are neither given nor taken: %s"
            tell(log, "handoff_refused", text, error, error=error)
            handoff.give_up(for_good=is_forbidden)
            raise

    def _take_over(self, handoff: Handoff) -> None:
        asked_at = self._term.clock()
        reply = self._connections.ask((self._commands.take_over(self._term.incarnation),))[0]
        packet = self._commands.read_take_over(reply)
        handoff.take(packet if self._term.trusted else None, asked_at)

    def _hand_over(self, handoff: Handoff, lines: Sequence[Line]) -> None:
        command = self._commands.hand_over(
            self._term.incarnation, lines, session=self._connections.number, epoch=handoff.epoch
        )
        try:
            reply = self._connections.ask((command,))[0]
        except ConnectionLost:
            handoff.unsure(lines)
            raise
        handoff.gave(lines, self._commands.read_hand_over(reply))

    # --- telling ---

    def push_out(self) -> None:
        """Send what has ended. Raises: ConnectionLost, Refused."""
        if endings := self._dispatcher.collect():
            self._connections.answer(endings, draining=self.draining)

    def acknowledge(self) -> bool:
        """Take in what the server has said of what was sent, so far; return whether it has.

        Raises:
            ConnectionLost, Refused.
        """
        acknowledged = self._connections.acknowledged()
        for endings, dependents in acknowledged:
            self._dispatcher.acknowledged(endings)
            if dependents:
                self._ended([id.decode() for id in dependents])
        return bool(acknowledged)

    def finish(self) -> None:
        """Send what is left, and wait for the server's word. Raises: ConnectionLost, Refused."""
        self.push_out()
        self._connections.finish()
        self.acknowledge()

    def drain(self) -> None:
        """Say, once, that this node is no member any more. Raises: ConnectionLost, Refused."""
        if not self.draining:
            self._connections.drain()
            self.draining = True
            if self._dispatcher.handoff is not None:  # whose is by now what was this node's
                self._dispatcher.intake.want_view()
