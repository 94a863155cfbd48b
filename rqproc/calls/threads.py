"""The blocking driver of calls: one connection that all threads of a client share.

Knows threads, locks and connections. Must not know what is being said: see ``multiplexer``.

One of those who ask sends for all: see ``sender``. One of those who wait reads for all: a caller
that is alone sends and reads as if the connection were its own. Whoever has its own answer gives
its place to one who waits. Nobody waits for the lock of who sends, or of who reads: a caller waits
for its answer, by a lock of its own that is opened when there is something for it.

An exception from a signal's handler may come at any instruction, also in what cleans up after
another. So nothing hangs on a caller's last acts:
  1. A caller is known by its frame, and so are those who send and read (``TryLock``). When it has
     ended without a word, whoever comes next does what it has not done.
  2. What it had begun to send, or to take in, is in an unknown state: its connection is closed, and
     all others are told, as if it had been cut.
  3. Who waits for another looks after it every ``CHECK_S`` seconds.
"""

from __future__ import annotations

import sys
import threading
from functools import partial

from rqproc.calls.call import Call
from rqproc.calls.drive import drive
from rqproc.calls.multiplexer import Multiplexer
from rqproc.calls.retry import NUDGE_S, Look, Pause, first_look, persevere
from rqproc.calls.sender import OpenConnection, Sender
from rqproc.locks import TryLock, has_ended, opener, snapshot
from rqproc.protocol.commands import Commands
from rqproc.runtime import Runtime, renew_after_fork
from rqproc.transport.connection import INTERRUPTED, Connection, ConnectionLost, Refused
from rqproc.transport.connector import Connector

CHECK_S = 0.25
"""How often one who waits looks whether another, who sends or reads for it, was interrupted."""


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
        """Begin anew; in a forked child the socket is the parent's, and so may the locks be.

        Locks and a connection that were made before Python was patched are forgotten so too.
        """
        self._made_with = threading.Lock
        self._core = Multiplexer(self._commands)
        self._sender = Sender(self._core, self._connector, retire=self._retire)
        self._reading = TryLock()
        self._to_close: list[Connection] = []  # lost ones, over which another may still be reading
        self._tidy_above = 1  # so many calls that are waited for
        self._heard_at = 0.0  # when anything last came
        self._closing = False  # closed while others wait: the last of them closes the connection

    def ask(self, call: Call) -> None:
        """Have a call answered, as far as there are answers by its deadline.

        Raises:
            RedisUnavailable. ConfigError: this server cannot be used: too old, for one.
        """
        if self._made_with is not threading.Lock:
            self._renew()
        core, began = self._core, self._monotonic()
        error: ConnectionLost | Refused | None = None
        core.pending.calls[call] = sys._getframe()
        try:
            if len(core.pending.calls) > self._tidy_above:
                self._tidy()
            try:
                self._look(call, first_look(call))
            except (ConnectionLost, Refused) as failure:
                error = failure
            if call.left:
                self._persevere(call, error, began)
        except BaseException:  # Ctrl-C, for one: what it has left behind is in others' way
            self._mend()
            raise
        finally:
            self._leave(call)

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

    def _leave(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        self._sender.outbox.pop(call, None)
        self._core.pending.leave(call)
        if self._closing:
            self.close()

    def _tidy(self) -> None:
        """Look for callers who were interrupted before they had left: now and then is enough."""
        for call, frame in snapshot(self._core.pending.calls.items()):
            if has_ended(frame):
                self._leave(call)
        self._core.pending.tidy()
        self._tidy_above = 2 * len(self._core.pending.calls)

    def close(self) -> None:
        """Close the connection, as soon as nobody needs it any more."""
        self._closing = False
        self._tidy()
        if self._core.pending.calls or not self._sender.close():
            self._closing = True
        self._close_lost()

    def _renew(self) -> None:
        """Python has been patched since (gevent, eventlet): what was made before would keep all
        greenlets waiting for one.
        """
        line = self._sender.line
        self.forget_parent()
        if line:
            line.connection.close()

    # --- one look ---

    def _look(self, call: Call, look: Look) -> None:
        """Have what is to be sent sent, and wait. Raises: ConnectionLost, Refused."""
        call.error = None
        if look.again or not (call.names or call.groups):
            self._sender.outbox[call] = look
            self._sender.flush(call)
        end = min(self._monotonic() + look.wait_s, call.deadline)
        if call.error is None and not self._read_for_all(call, look, end):
            self._wait(call, look, end)
        if self._to_close:
            self._close_lost()
        if len(self._core.pending.calls) > 1:
            self._pass_reading_on()
        if call.left and (error := call.fetch_error()):
            raise error

    def _wait(self, call: Call, look: Look, end: float) -> None:
        """Wait until all answers are there or time is over; read, as soon as nobody else does."""
        turn = self._runtime.lock()
        turn.acquire()
        call.wake = opener(turn)
        while call.left and call.error is None:  # what has come before that has woken nobody
            if call in self._sender.outbox:
                self._sender.flush(call)
            if self._read_for_all(call, look, end):
                break
            left_s = end - self._monotonic()
            if left_s <= 0:
                self._end_look(call, look)
                break
            if not turn.acquire(timeout=min(left_s, CHECK_S)):
                self._mend()
        call.wake = None

    def _end_look(self, call: Call, look: Look) -> None:
        """Time is over: have the caller told, if the server is late too."""
        if call not in self._sender.outbox:
            self._check_silence(look.grace_s)
        elif self._is_held_up(look):
            self._sender.outbox.pop(call, None)
            call.error = ConnectionLost("it does not answer", spent_s=look.wait_s)

    def _is_held_up(self, look: Look) -> bool:
        """Whether who sends for one whose time is over may take longer than that one waits."""
        return look.wait_s >= look.grace_s or self._sender.patience_s > look.grace_s

    def _check_silence(self, grace_s: float) -> None:
        """Find the server silent for too long; whoever reads may have more patience with it.

        One reply may be there that is too short to wake the one who reads: see
        ``connection.PUSH_LOW_WATER``.
        """
        line, silent_s = self._sender.line, self._monotonic() - self._sender.silent_since
        if line is None or not line.expected or silent_s < grace_s:
            return
        connection, expected = line
        if not connection.has_unread(len(expected)):
            unheard_s = self._monotonic() - self._heard_at
            spent_s = min(unheard_s, silent_s + NUDGE_S)  # it was perhaps gone before it was asked
            self._sender.lost(connection, ConnectionLost("it does not answer", spent_s=spent_s))

    def _pass_reading_on(self) -> None:
        """Wake one who waits, where nobody reads."""
        if self._reading.locked:
            return
        for call in snapshot(self._core.pending.calls):
            if wake := call.wake:
                wake()
                return

    # --- who reads ---

    def _read_for_all(self, call: Call, look: Look, end: float) -> bool:
        """Read until this one's answers are there or time is over; False where another reads."""
        if self._sender.line is None:
            if call not in self._sender.outbox and call.error is None:  # and nobody has been told
                call.error = ConnectionLost("the connection was lost")
            return False
        reading = self._reading
        if not reading.acquire():
            return False
        if reading.lost:
            self._mend_reading()
        self._read(call, look, end)
        reading.release()
        return True

    def _read(self, call: Call, look: Look, end: float) -> None:
        """As ``_read_for_all``, which holds the lock."""
        core, reading, sender = self._core, self._reading, self._sender
        while call.left and call.error is None and (line := sender.line):
            wait_s = end - self._monotonic()
            if wait_s <= 0:
                self._end_look(call, look)
                return
            try:
                self._take(line, wait_s, look.grace_s)
            except (ConnectionLost, Refused) as error:
                sender.lost(line.connection, error)
            except BaseException:  # Ctrl-C, for one
                if line.connection.has_taken_nothing:
                    reading.release()  # in good order: nothing is lost with it
                raise
            if core is not self._core:  # a greenlet, copied into a forked child in mid-call
                self._core.pending.calls[call] = core.pending.calls[call]
                call.error = ConnectionLost("it is the parent's")

    def _take(self, line: OpenConnection, wait_s: float, grace_s: float) -> None:
        """Take in what comes within so long. Raises: ConnectionLost, Refused."""
        (connection, expected), sender = line, self._sender
        patience_s = min(wait_s, grace_s) if expected else wait_s
        began = self._monotonic()
        found = connection.take(patience_s)
        now = self._monotonic()
        if not found:
            self._check_silence(grace_s)
            return
        # A short reply wakes nobody (PUSH_LOW_WATER): it may have been there for long.
        came_at = now if now - began < patience_s else sender.sent_at
        self._heard_at = max(self._heard_at, came_at)
        sender.silent_since = max(sender.silent_since, came_at)
        self._core.take_in(found, expected)
        if self._core.is_urgent:
            sender.flush()

    # --- the end of a connection ---

    def _retire(self, connection: Connection) -> None:
        self._to_close.append(connection)
        self._close_lost()

    def _close_lost(self) -> None:
        """Close lost connections, if nobody reads; whoever does closes them afterwards."""
        while self._to_close and self._reading.acquire():
            while self._to_close:
                self._to_close[0].close()
                self._to_close.pop(0)
            self._reading.release()
        self._pass_reading_on()

    def _mend(self) -> None:
        """Do what one has left undone who was interrupted while it read, or sent."""
        if self._reading.locked and self._reading.acquire():
            if self._reading.lost:
                self._mend_reading()
            self._reading.release()
        self._sender.mend()
        self._close_lost()

    def _mend_reading(self) -> None:
        """What one had read who was interrupted may be lost. The lock is held."""
        if line := self._sender.line:
            self._sender.lost(line.connection, ConnectionLost(INTERRUPTED))
        self._reading.lost = False
