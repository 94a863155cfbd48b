"""The two connections of a node's worker, from its reconciliation until one of them breaks: a
session.

Knows connections and the protocol's commands. Must not know what becomes of what is taken.

::

    takes     ──BLMPOP──▶ ids            blocks at the server while there is nothing to do
              ──claim, settle, HGET──▶   in between: waited for, the next BLMPOP behind the last
    answers   ──answer──▶                its reply is read later: see ``acknowledged``

A reply that nobody waits for must not wake the node while the caller is being woken, on the same
processors; so there are two. What must be asked while a pop blocks goes over the second one, too.

After a broken connection nobody knows which packets were carried out, so a new session begins:
  1. reconcile names a new session; a claim of an older one, late on its way, claims nothing by
     then.
  2. It tells all that this node has taken. What is open at the node and not among that was lost on
     its way here: it is queued anew.
  3. Endings that were not acknowledged are sent again; the server leaves alone what it has had.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rqproc.locks import Lock
from rqproc.log_events import tell
from rqproc.protocol import loading
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Claimed, Known
from rqproc.protocol.node_commands import Ending
from rqproc.runtime import Waker
from rqproc.transport.connection import Command, Connection, ConnectionLost, pack
from rqproc.transport.connector import Connector

log = logging.getLogger("rqproc.node")

BLOCK_S = 5.0
GRACE_S = 2.0
REST_S = 0.9
"""No server closes a connection that has rested for less: its ``timeout`` is in whole seconds."""
PATIENCE_S = BLOCK_S + GRACE_S

PORTION_BYTES = 1024 * 1024
PORTION = 256
"""Endings that are longer together, or more, are sent apart: others need the server meanwhile."""


def packets(endings: Sequence[Ending]) -> Iterator[Sequence[Ending]]:
    """Take endings apart, in their order, into what may be sent together."""
    first = size = 0
    for place, ending in enumerate(endings):
        of_this = sum(map(len, ending))
        if size and (size + of_this > PORTION_BYTES or place - first == PORTION):
            yield endings[first:place]
            first, size = place, 0
        size += of_this
    yield endings[first:]


class Connections:
    """The first is connected from the start, the second when the session has been opened.

    Args:
        number: higher than that of any session of this incarnation before.
        waker: woken by other threads; it ends ``wait`` too.
        lock: held by whoever uses this; ``wait`` lets go of it meanwhile.

    Raises:
        ConnectionLost, Refused, RedisUnavailable: no connection.
    """

    def __init__(
        self, connector: Connector, commands: Commands, *, node: str, incarnation: str, number: int,
        waker: Waker, lock: Lock,
    ) -> None:  # fmt: skip
        self._connector = connector
        self._commands = commands
        self._node = node
        self._incarnation = incarnation
        self.number = number
        self._lock = lock
        self._waker = waker
        self._monotonic = connector.runtime.monotonic
        self._popping_until = 0.0  # 0 where no pop is under way
        self._early: Sequence[bytes] = ()
        self._pops: dict[int, bytes] = {}
        self._unsure: deque[Sequence[Ending]] = deque()
        self._acknowledged: list[tuple[Sequence[Ending], Sequence[bytes]]] = []
        self._used_at = 0.0  # when the second one was last used
        self._popped_at = 0.0  # when a pop was last begun
        self._server = ""
        self._takes = connector.connect(timeout_s=GRACE_S)
        self._answers = self._takes  # until the server has let this session begin
        self._poll = connector.runtime.poller(self._takes, waker)

    def close(self) -> list[Ending]:
        """Close; return the endings of which nobody knows whether they were carried out."""
        self._takes.close()
        self._answers.close()
        sent = [*(endings for endings, _ in self._acknowledged), *self._unsure]
        self._acknowledged.clear()
        self._unsure.clear()
        return [ending for endings in sent for ending in endings]

    # --- the beginning ---

    def reconcile(self, known: Iterable[Known], *, rejoined: bool, bare: bool) -> Claimed:
        """Open the session at the server, or tell it once more; return the view, without claims.

        Args:
            bare: the functions may be missing; if so they are loaded, and the server is told that
                it has forgotten.

        Raises:
            ConnectionLost, Refused, RedisUnavailable, LeaseLost, SessionSuperseded.
        """
        server = self._server = self._takes.server_id(timeout_s=GRACE_S)
        if bare:
            loading.load(self._takes, self._commands, connector=self._connector, timeout_s=GRACE_S)
        reconcile = self._commands.reconcile(
            self._incarnation, session=self.number, server=server, rejoined=rejoined, bare=bare,
            known=known,
        )  # fmt: skip
        reply = self._takes.exchange((reconcile,), timeout_s=GRACE_S)[0]
        claimed = self._commands.read_claim(reply)
        if self._answers is self._takes:
            self._answers = self._connector.connect(timeout_s=GRACE_S)
        return claimed

    # --- connections that have rested ---

    def _rouse_answers(self) -> None:
        """Before the second connection is used: make another where the server has closed it while
        it rested.

        Raises:
            ConnectionLost, Refused, RedisUnavailable.
        """
        now = self._monotonic()
        rested_s, self._used_at = now - self._used_at, now
        if rested_s > REST_S and not self._unsure and self._answers.is_cut():
            self._answers.close()
            self._answers = self._connect_again()

    def _rouse_takes(self) -> None:
        """The same for the first one, on which no pop is under way. Raises: as the other."""
        if self._monotonic() > self._popped_at + REST_S:
            self._renew_takes()

    def _renew_takes(self) -> bool:
        if not self._takes.is_cut():
            return False
        self._takes.close()
        self._takes = self._connect_again()
        self._poll = self._connector.runtime.poller(self._takes, self._waker)
        return True

    def _connect_again(self) -> Connection:
        """Nothing was due on a connection that rested, so no new session need begin; but for
        another process of the server, to which this node has to say what it runs.
        """
        text = "the server has closed a connection that rested: a new one"
        tell(log, "connection_renewed", text)
        connection = self._connector.connect(timeout_s=GRACE_S)
        if connection.server_id(timeout_s=GRACE_S) != self._server:
            connection.close()
            raise ConnectionLost("the server is another process")
        return connection

    # --- taking ---

    @property
    def is_popping(self) -> bool:
        return self._popping_until > 0

    @property
    def has_ids(self) -> bool:
        """Whether a pop has brought ids that nobody has asked for yet, see ``popped``."""
        return bool(self._early)

    def pop(self, most: int) -> None:
        """Ask for up to ``most`` ids, as soon as there are any.

        Raises:
            ConnectionLost, Refused, RedisUnavailable.
        """
        self._rouse_takes()
        self._takes.send(self._pop(most), timeout_s=GRACE_S)

    def _pop(self, most: int) -> bytes:
        packed = self._pops.get(most)
        if packed is None:
            packed = pack((self._commands.pop(self._node, most=most, block_s=BLOCK_S),))
            self._pops = {most: packed}
        self._popped_at = self._monotonic()
        self._popping_until = self._popped_at + PATIENCE_S
        return packed

    def wait(self, patience_s: float) -> tuple[bool, bool]:
        """Wait for ids or the waker; return whether it was woken, and whether ids may have
        come.

        Raises:
            ConnectionLost: the server does not answer in time.
        """
        if self._early:
            return False, True
        self._lock.release()
        try:
            woken, readable = self._poll.wait(patience_s)
        finally:
            self._lock.acquire()
        if not readable and self._popping_until and self._monotonic() > self._popping_until:
            raise ConnectionLost("the server does not answer")
        return woken, readable

    def popped(self) -> Sequence[bytes]:
        """Return the ids that have come; none where there is nothing, or not all of it yet.

        Raises:
            ConnectionLost, Refused.
        """
        if self._early:
            ids, self._early = self._early, ()
            return ids
        if not self._popping_until and self._renew_takes():
            return ()
        if not self._takes.receive(wait=False):
            return ()
        arrived, reply = self._takes.next_reply()
        return self._ids(reply) if arrived else ()

    def _ids(self, reply: Any) -> Sequence[bytes]:
        """Return the ids that a pop has brought: the pop is over."""
        self._popping_until = 0.0
        ids: Sequence[bytes] = reply[1] if reply is not None else ()
        return ids

    def ask(self, commands: Sequence[Command], *, then_pop: int = 0) -> list[Any]:
        """Return the replies to commands.

        Args:
            then_pop: with a pop behind them, of so many ids, which is not waited for.

        Raises:
            ConnectionLost, Refused.
        """
        if self._popping_until:  # it blocks the one connection: use the other
            self._read_acknowledgements(wait=True)
            self._rouse_answers()
            return self._answers.exchange(commands, timeout_s=GRACE_S)
        self._rouse_takes()
        if not then_pop:
            return self._takes.exchange(commands, timeout_s=GRACE_S)
        self._takes.send(pack(commands) + self._pop(then_pop), timeout_s=GRACE_S)
        replies: list[Any] = []
        while len(replies) < len(commands):
            arrived, reply = self._takes.next_reply()
            if arrived:
                replies.append(reply)
            else:
                self._takes.receive()
        came, popped = self._takes.next_reply()
        if came:  # with the others, so nothing is left that the poll could see
            self._early = self._ids(popped)
        return replies

    def read(self, commands: Sequence[Command]) -> list[bytes | None]:
        """Return the texts that commands read; None where there is none, or something else.

        Raises:
            ConnectionLost.
        """
        self._read_acknowledgements(wait=True)
        if self._popping_until:
            self._rouse_answers()
        else:
            self._rouse_takes()
        connection = self._answers if self._popping_until else self._takes
        end = self._monotonic() + GRACE_S
        connection.send(pack(commands), timeout_s=GRACE_S)
        replies: list[Any] = []
        while len(replies) < len(commands):
            left_s = end - self._monotonic()
            if left_s <= 0:
                raise ConnectionLost("the server does not answer", spent_s=GRACE_S)
            replies += connection.take(left_s)
        return [reply if isinstance(reply, bytes) else None for reply in replies]

    # --- answering ---

    @property
    def unsure(self) -> int:
        """How many packets of endings are not known to be acknowledged."""
        return len(self._unsure) + len(self._acknowledged)

    def answer(self, endings: Sequence[Ending], *, draining: bool) -> None:
        """Send endings. They are this object's from now on, until they are acknowledged.

        Raises:
            ConnectionLost.
        """
        unsent = deque(packets(endings) if len(endings) > 1 else (endings,))
        try:
            self._rouse_answers()
            while unsent:
                self._unsure.append(unsent.popleft())
                command = self._commands.answer(
                    self._incarnation, self._unsure[-1], draining=draining
                )
                self._answers.send(pack((command,)), timeout_s=GRACE_S)
        finally:
            self._unsure.extend(unsent)

    def acknowledged(self) -> list[tuple[Sequence[Ending], Sequence[bytes]]]:
        """Return endings that the server has carried out since, and ids of jobs with dependents.

        Raises:
            ConnectionLost, Refused.
        """
        self._read_acknowledgements(wait=False)
        found, self._acknowledged = self._acknowledged, []
        return found

    def _read_acknowledgements(self, *, wait: bool) -> None:
        while self._unsure:
            arrived, reply = self._answers.next_reply()
            if arrived:
                self._acknowledged.append((self._unsure.popleft(), reply))
                self._used_at = self._monotonic()
            elif not self._answers.receive(wait=wait):
                if self._monotonic() > self._used_at + GRACE_S:
                    raise ConnectionLost("the server does not answer")
                return

    def drain(self) -> None:
        """Say that this node is no member any more. Raises: ConnectionLost, Refused."""
        self._read_acknowledgements(wait=True)
        self._rouse_answers()
        drain = self._commands.drain(self._node, self._incarnation)
        self._answers.exchange((drain,), timeout_s=GRACE_S)

    def finish(self) -> None:
        """Wait until all endings are acknowledged. Raises: ConnectionLost, Refused."""
        self._read_acknowledgements(wait=True)
