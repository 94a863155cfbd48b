"""The blocking driver of calls: one connection that all threads of a client share.

Knows threads, locks and connections. Must not know what is being said: see ``multiplexer``.

Each caller sends for itself. One of those who wait reads for all: a caller that is alone sends and
reads as if the connection were its own. Whoever has its own answer gives its place to one who
waits. Nobody waits for a lock while another reads.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from rqproc.calls.call import Call
from rqproc.calls.drive import drive
from rqproc.calls.multiplexer import TOLD, Multiplexer, ReplyHandler
from rqproc.calls.retry import GRACE_S, NUDGE_S, SHORTEST_S, Look, Pause, first_look, persevere
from rqproc.protocol.commands import Commands
from rqproc.runtime import Lock, Runtime, opener, renew_after_fork
from rqproc.transport.connection import Command, Connection, ConnectionLost, Refused, pack
from rqproc.transport.connector import CONNECT_TIMEOUT_S, Connector


class _Line(NamedTuple):
    """A connection, and what is done with the replies to come over it."""

    connection: Connection
    expected: deque[ReplyHandler]


class Threads:
    """What the requests of a client go over; shared by any number of threads."""

    def __init__(self, connector: Connector, commands: Commands) -> None:
        self._connector = connector
        self._runtime: Runtime = connector.runtime
        self._monotonic = connector.runtime.monotonic
        self._commands = commands
        self.forget_parent()
        renew_after_fork(self)

    def forget_parent(self) -> None:
        """Begin anew; in a forked child the socket is the parent's, and so may the locks be."""
        self._made_with = threading.Lock
        self._core = Multiplexer(self._commands)
        # Their order: who reads may wait for `_sending`, but who sends only tries `_reading`. So
        # nobody ever waits for that one, and the runtime, which has to know who waits, need not
        # know of it.
        self._sending = self._runtime.lock()
        self._reading = threading.Lock()
        self._line: _Line | None = None
        self._to_close: list[Connection] = []  # lost ones, over which another may still be reading
        self._waiting: dict[Call, None] = {}
        self._sent_at = 0.0  # when anything was last sent
        self._silent_since = 0.0  # since when the server could have said something and has not
        self._heard_at = 0.0  # when anything last came
        self._closing = False  # closed while others wait: the last of them closes the connection

    def ask(self, call: Call) -> None:
        """Have a call answered, as far as there are answers by its deadline.

        Raises:
            RedisUnavailable.
        """
        if self._made_with is not threading.Lock:
            self._renew()
        began = self._monotonic()
        error: Any = None
        try:
            self._core.calls[call] = None
            try:
                self._look(call, first_look(call))
            except (ConnectionLost, Refused) as failure:
                error = failure
            if call.left:
                self._persevere(call, error, began)
        finally:
            self._core.leave(call)
            if self._closing:
                self.close()

    def _persevere(self, call: Call, error: ConnectionLost | Refused | None, began: float) -> None:
        steps = persevere(
            call, error, began=began, server=self._connector.server, clock=self._monotonic,
            chance=self._runtime.chance,
        )  # fmt: skip
        drive(steps, partial(self._step, call), failures=(ConnectionLost, Refused))

    def _step(self, call: Call, step: Look | Pause) -> None:
        if isinstance(step, Pause):
            self._runtime.sleep(step.seconds)
        else:
            self._look(call, step)

    def close(self) -> None:
        """Close the connection, as soon as nobody needs it any more."""
        self._sending.acquire()
        try:
            self._closing = bool(self._core.calls)
            if self._closing:
                return
            line, self._line = self._line, None
            self._core.expected = deque()
            goodbye = self._core.goodbye()
        finally:
            self._sending.release()
        if line:
            if goodbye:
                with suppress(ConnectionLost, Refused):  # what it would remove expires by itself
                    line.connection.send(pack(goodbye), timeout_s=GRACE_S)
            line.connection.close()

    def _renew(self) -> None:
        """Python has been patched since (gevent, eventlet): what was made before would keep all
        greenlets waiting for one.
        """
        line = self._line
        self.forget_parent()
        if line:
            line.connection.close()

    # --- one look ---

    def _look(self, call: Call, look: Look) -> None:
        """Send what is to be sent, and wait. Raises: ConnectionLost, Refused."""
        call.error = None
        if look.send or not (call.names or call.groups):
            self._send(call, look)
        end = min(self._monotonic() + look.wait_s, call.deadline)
        self._wait(call, end, look.grace_s)
        error = call.fetch_error()
        if call.left and error is not None:
            raise error

    def _send(self, call: Call, look: Look) -> None:
        held, within_s = False, max(look.wait_s, look.grace_s)
        sending = self._sending  # whoever forks meanwhile has another one afterwards
        try:
            held = sending.acquire(timeout=min(within_s, look.left_s))
            if not held and within_s > look.left_s:
                return  # others were sending until its time was over
            if not held:
                raise ConnectionLost("it does not answer", spent_s=within_s)
            try:
                self._send_now(call, look)
            except TOLD as error:
                self._broken(error)
                raise
            except BaseException:  # Ctrl-C, for one
                self._broken(ConnectionLost("interrupted"))
                raise
        finally:
            if held:
                sending.release()

    def _send_now(self, call: Call, look: Look) -> None:
        """The lock is held."""
        call.error = None  # of a connection before this one
        line, core, left_s = self._line, self._core, None
        if look.send or line is None:
            line = line or self._connect(look)
            left_s = max(SHORTEST_S, call.deadline - self._monotonic())
        self._sent_at = self._monotonic()
        if not core.expected:
            self._silent_since = self._sent_at
        commands: list[Command] = core.housekeeping() if core.has_more else []
        if look.send:
            commands += core.compose_again(call, left_s or SHORTEST_S, withdraw=look.withdraw)
        elif len(call.ids) == 1:
            commands.append(core.compose_one(call, left_s))
        else:
            commands += core.compose_new((call,), left_s)
        line.connection.send(pack(commands), timeout_s=GRACE_S)

    def _wait(self, call: Call, end: float, grace_s: float) -> None:
        """Read for all, or wait for who does, until this one's answers are there or time is over.

        Raises:
            ConnectionLost: there is no connection, and nobody has been told of that.
        """
        turn: Lock | None = None
        reading, reads = self._reading, False
        try:
            while call.left and call.error is None:
                reads = reading.acquire(blocking=False)
                if reads:
                    self._read(call, end, grace_s)
                    return
                if turn is None:
                    turn = self._runtime.lock()
                    turn.acquire()
                    call.wake = opener(turn)
                    self._waiting[call] = None
                    continue  # what has come meanwhile has woken nobody
                left_s = end - self._monotonic()
                if left_s <= 0:
                    self._check_silence(grace_s)
                    return
                turn.acquire(timeout=left_s)
        finally:
            if reads:
                reading.release()
            call.wake = None
            if self._to_close:
                self._close_lost()
            if self._waiting:
                self._waiting.pop(call, None)
                self._pass_reading_on()

    def _check_silence(self, grace_s: float) -> None:
        """Find the server silent for too long; whoever reads may have more patience with it.

        One reply may be there that is too short to wake the one who reads.
        """
        line, silent_s = self._line, self._monotonic() - self._silent_since
        if line is None or not line.expected or silent_s < grace_s:
            return
        connection, expected = line
        if not connection.has_unread(len(expected)):
            unheard_s = self._monotonic() - self._heard_at
            spent_s = min(unheard_s, silent_s + NUDGE_S)  # it was perhaps gone before it was asked
            self._lost(connection, ConnectionLost("it does not answer", spent_s=spent_s))

    def _pass_reading_on(self) -> None:
        """Wake one who waits, where nobody reads."""
        if self._reading.locked():
            return
        for call in tuple(self._waiting):
            if wake := call.wake:
                wake()
                return

    def _read(self, call: Call, end: float, grace_s: float) -> None:
        """Read for all until this one's answers are there."""
        reading = self._reading
        while call.left and call.error is None:
            if reading is not self._reading:  # a copy of a greenlet, in a forked child
                raise ConnectionLost("it is the parent's")
            line, wait_s = self._line, end - self._monotonic()
            if wait_s <= 0:
                self._check_silence(grace_s)
                return
            if line is None:
                raise ConnectionLost("the connection was lost")
            connection, expected = line
            try:
                patience_s = min(wait_s, grace_s) if expected else wait_s
                self._take(connection, expected, patience_s, grace_s)
            except (ConnectionLost, Refused) as error:
                self._lost(connection, error)
            except BaseException:  # Ctrl-C, for one: what was read may be lost
                if not connection.has_taken_nothing:
                    self._lost(connection, ConnectionLost("interrupted"))
                raise

    def _take(
        self, connection: Connection, expected: deque[ReplyHandler], wait_s: float, grace_s: float
    ) -> None:
        """Take in what comes within so long. Raises: ConnectionLost, Refused."""
        began = self._monotonic()
        found = connection.take(wait_s)
        now = self._monotonic()
        if not found:
            self._check_silence(grace_s)
            return
        self._heard_at = now
        if now - began < wait_s:
            self._silent_since = now
        else:  # a short reply wakes nobody: it may have been there all the time
            self._silent_since = max(self._silent_since, self._sent_at)
        self._core.take_in(found, expected)
        if self._core.is_urgent:
            self._send_extra(connection)

    def _send_extra(self, connection: Connection) -> None:
        """Whoever sends meanwhile may take it along."""
        line = self._line
        if line is None or connection is not line.connection:
            return
        self._sending.acquire()
        try:
            if self._line and connection is self._line.connection and self._core.is_urgent:
                connection.send(pack(self._core.housekeeping()), timeout_s=GRACE_S)
        finally:
            self._sending.release()

    # --- the connection ---

    def _connect(self, look: Look) -> _Line:
        """Raises: ConnectionLost, Refused, RqprocError."""
        within_s = min(CONNECT_TIMEOUT_S, max(look.wait_s, look.grace_s))
        connection = self._connector.connect(timeout_s=within_s, pushes=True)
        try:
            connection.listen(self._core.channels(), timeout_s=GRACE_S)
        except BaseException:
            connection.close()
            raise
        line = self._line = _Line(connection, self._core.expected)
        return line

    def _lost(self, connection: Connection, error: Exception) -> None:
        """One who waits or reads finds the connection of no use, if no other has before."""
        line = self._line
        if line is None or connection is not line.connection:
            return  # and nobody is waited for who may be making a new one
        if not self._sending.acquire(blocking=False):
            connection.interrupt()  # who sends over it may hold the lock
            self._sending.acquire()
        try:
            if self._line and connection is self._line.connection:
                self._broken(error)
        finally:
            self._sending.release()

    def _broken(self, error: Exception) -> None:
        """Begin anew: tell everyone. The lock is held."""
        self._core.broken(error)  # first: who finds no connection has been told why
        line, self._line = self._line, None
        if line is None:
            return
        line.connection.interrupt()
        self._to_close.append(line.connection)
        self._close_lost()

    def _close_lost(self) -> None:
        """Close lost connections, if nobody reads; whoever does closes them afterwards."""
        if not self._reading.acquire(blocking=False):
            return
        try:
            while self._to_close:
                self._to_close.pop().close()
        finally:
            self._reading.release()
        self._pass_reading_on()
