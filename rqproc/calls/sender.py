"""What the threads of a client have to send, and the connection over which one sends it for all.

Knows connections, and a lock that nobody waits for. Must not know who reads, nor who waits.

Whoever has something to send leaves it here and tries to send all there is. Who finds another
sending leaves it to that one, who looks again when it has let go. What an interrupted one has begun
is in an unknown state: the next one gives the connection up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from rqproc.calls.call import Call
from rqproc.calls.multiplexer import CALLER_ERRORS, Multiplexer, ReplyHandler
from rqproc.calls.retry import GRACE_S, SHORTEST_S, Look
from rqproc.locks import TryLock, snapshot
from rqproc.transport.connection import (
    INTERRUPTED,
    Command,
    Connection,
    ConnectionLost,
    Refused,
    pack,
)  # fmt: skip
from rqproc.transport.connector import CONNECT_TIMEOUT_S, Connector


class OpenConnection(NamedTuple):
    """A connection, and what is done with the replies to come over it."""

    connection: Connection
    expected: deque[ReplyHandler]


class Sender:
    """One for a client.

    Args:
        retire: told of each connection that was lost, and interrupted: another may be reading.

    Attributes:
        line: what is sent over, and read from; None until someone has to send something.
        outbox: the calls that are to be sent, and how.
        sent_at: when anything was last sent.
        patience_s: seconds that sending may take whoever does it now, or did last.
        silent_since: since when the server could have said something and has not.
    """

    def __init__(
        self, core: Multiplexer, connector: Connector, *, retire: Callable[[Connection], None]
    ) -> None:
        self.line: OpenConnection | None = None
        self.outbox: dict[Call, Look] = {}
        self.sent_at = 0.0
        self.patience_s = GRACE_S
        self.silent_since = 0.0
        self._core = core
        self._connector = connector
        self._monotonic = connector.runtime.monotonic
        self._retire = retire
        self._lock = TryLock()
        self._found_lost: deque[tuple[Connection, Exception]] = deque()

    @property
    def locked(self) -> bool:
        return self._lock.locked

    def flush(self, call: Call | None = None) -> None:
        """Send for all, unless another does.

        Args:
            call: the caller's own, if it may wait for a connection to be made.
        """
        while self._lock.acquire():
            try:
                self._send(call)
            except CALLER_ERRORS as error:
                told = snapshot(self.outbox)
                self._broken(error)
                for one in told:
                    self.outbox.pop(one, None)
            self._lock.release()
            if not (self.outbox or self._found_lost or self._core.is_urgent):
                return
            if self.line is None and call not in self.outbox:
                self._wake_next()
                return

    def _wake_next(self) -> None:
        """There is no connection: one who has something to send has to make it."""
        for call in snapshot(self.outbox):
            if wake := call.wake:
                wake()

    def lost(self, connection: Connection, error: Exception) -> None:
        """One who waits or reads finds the connection of no use, if no other has before."""
        line = self.line
        if line is None or connection is not line.connection:
            return
        self._found_lost.append((connection, error))
        connection.interrupt()  # who sends over it must not wait for its time to be over
        self.flush()
        if self.line is line:
            self._connector.runtime.sleep(SHORTEST_S)  # that one is about to notice

    def mend(self) -> None:
        """Do what one has left undone who was interrupted."""
        if self._lock.locked and self._lock.acquire():
            self._give_up_lost()
            self._lock.release()
        if self.outbox or self._found_lost or self._core.is_urgent:
            self.flush()

    def close(self) -> bool:
        """Close the connection; return whether that was possible: another may be sending."""
        if not self._lock.acquire():
            return False
        if line := self.line:
            if goodbye := self._core.goodbye():
                with suppress(ConnectionLost, Refused):  # what it would remove expires by itself
                    line.connection.send(pack(goodbye), timeout_s=GRACE_S)
            line.connection.close()
        self._core.expected = deque()
        self.line = None
        self._lock.release()
        return True

    # --- the lock is held ---

    def _send(self, call: Call | None) -> None:
        """Raises: ConnectionLost, Refused, RqprocError."""
        if self._lock.lost or self._found_lost:
            self._give_up_lost()
        core, line = self._core, self.line
        late = line is None
        if line is None:
            if call not in self.outbox:
                return
            line = self._connect()
        self.patience_s = GRACE_S
        self.sent_at = now = self._monotonic()
        if not core.expected:
            self.silent_since = now
        commands: list[Command] = core.housekeeping() if core.has_more else []
        for one in snapshot(self.outbox):
            look = self.outbox.pop(one, None)
            if look is not None and one in core.pending.calls:  # else it has gone
                one.error = None  # of a connection before this one
                left_s = max(SHORTEST_S, one.deadline - now) if late or look.again else None
                commands += self._compose(one, look, left_s)
        if commands:
            line.connection.send(pack(commands), timeout_s=GRACE_S)

    def _compose(self, call: Call, look: Look, left_s: float | None) -> list[Command]:
        """Return what asks for a call; ``left_s``: if it is not all that its caller allows."""
        core = self._core
        if look.again and left_s:
            commands = core.compose_again(call, left_s, withdraw=look.withdraw)
        elif len(call.ids) == 1:
            commands = [core.compose_one(call, left_s)]
        else:
            commands = core.compose_new((call,), left_s)
        if call not in core.pending.calls:
            core.pending.leave(call)  # it has gone meanwhile
        return commands

    def _connect(self) -> OpenConnection:
        """Raises: ConnectionLost, Refused, RqprocError."""
        looks = snapshot(self.outbox.values())
        within_s = min((CONNECT_TIMEOUT_S, *(look.connect_s for look in looks)))
        self.patience_s = within_s
        connection = self._connector.connect(timeout_s=within_s, pushes=True)
        try:
            connection.listen(self._core.channels(), timeout_s=GRACE_S)
        except BaseException:
            connection.close()
            raise
        line = self.line = OpenConnection(connection, self._core.expected)
        return line

    def _give_up_lost(self) -> None:
        if self._lock.lost:
            self._broken(ConnectionLost(INTERRUPTED))
            self._lock.lost = False
        while self._found_lost:
            connection, error = self._found_lost[0]
            if self.line and connection is self.line.connection:
                self._broken(error)
            self._found_lost.popleft()

    def _broken(self, error: Exception) -> None:
        """Begin anew: tell everyone. Begun once more where it is interrupted."""
        line = self.line
        self._core.broken(error)
        if line:
            line.connection.interrupt()
            self._retire(line.connection)
        self.line = None  # last: who finds no connection has been told why
