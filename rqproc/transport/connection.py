"""One connection to Redis on which several commands leave in one packet.

Knows RESP. Must not know functions, keys or what the commands mean.

redis-py makes the connection (URL, TLS, authentication, database); from then on the packet is
packed and parsed by hiredis alone, since a client library's command layer costs more than Redis
does. Nothing is repeated here: what may be sent again, only the caller of a command knows.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hiredis

from rqproc.runtime import renew_after_fork
from rqproc.transport.replies import code, loss_advice, shown, trouble
from rqproc.transport.sockets import NOT_YET, interrupt, timed

Arg = bytes | str
"""No numbers: hiredis runs Python code to pack them, and where a signal's handler raises in that it
crashes the process."""
Command = tuple[Arg, ...]

BUFFER_BYTES = 65536

PUSH_LOW_WATER = 4
"""Bytes for which a thread is woken that waits for what is pushed: ``_\\r\\n``, the reply to a call
that was queued, has three and tells it nothing."""

INTERRUPTED = "who used it was interrupted"
"""Why a connection is lost on which a packet may be half sent, or half read."""

FLOW_S = 0.25
"""Seconds within which the next bytes of a reply come that is late but on its way."""


class ConnectionLost(ConnectionError):
    """The connection broke; whether the server carried out the last packet is unknown.

    ``spent_s`` are the seconds that were already waited in vain.
    """

    def __init__(self, reason: str, *, spent_s: float = 0.0, advice: str = "") -> None:
        super().__init__(reason)
        self.spent_s = spent_s
        self.advice = advice or loss_advice(reason)


class Refused(Exception):
    """The server answered a command with an error. The connection is closed: what followed may
    block.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(shown(reason))
        self.reason = shown(reason)
        self._trouble = trouble(reason)

    @property
    def code(self) -> str:
        """The error's first word: NOFUNCTION, READONLY, OOM, LOADING, NOPERM, ..."""
        return code(self.reason)

    @property
    def passing(self) -> bool:
        """Whether the server may accept the same command a moment later."""
        return self._trouble.passing

    @property
    def moved(self) -> bool:
        """Whether another server may be the primary by now: other connections lead nowhere
        either.
        """
        return self._trouble.moved

    @property
    def advice(self) -> str:
        return self._trouble.advice


def pack(commands: Sequence[Command]) -> bytes:
    """Return the bytes of several commands."""
    packed: list[bytes] = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
    return b"".join(packed)


class Connection:
    """One connection. Not for two threads at once; but once it listens, one may ``send`` while
    another does ``take``, and ``send`` does not close it.
    """

    _listens = False

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self._socket: socket.socket = opened._sock
        self._timed = timed(self._socket)
        self._reader = hiredis.Reader()
        self._buffer = bytearray(BUFFER_BYTES)
        self._sent_at = time.monotonic()
        self._patience_s = 0.0
        renew_after_fork(self)

    def forget_parent(self) -> None:
        """In a forked child: the parent's end of a connection is its last one."""
        with suppress(OSError):
            self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._opened.disconnect()

    def interrupt(self) -> None:
        """End, from another thread, a read that blocks on this connection: it raises
        ConnectionLost.
        """
        interrupt(self._socket)

    @property
    def has_taken_nothing(self) -> bool:
        """Whether whoever takes waits: interrupted then, it has lost nothing."""
        return self._timed.waits

    def send(self, packet: bytes, *, timeout_s: float) -> None:
        """Write a packet.

        Raises:
            ConnectionLost: not written whole within the timeout.
            Refused: the server has closed the connection, and said why before.
        """
        self._sent_at = time.monotonic()
        self._patience_s = timeout_s
        try:
            self._timed.write(packet, timeout_s)
        except OSError as error:
            if self._listens:  # what comes is another's, who may be taking
                raise self._why(error) from error
            self._hear_out()
            raise self._lost(error) from error

    def _hear_out(self) -> None:
        """Raises: Refused: an error is the last thing that the server has said."""
        with suppress(OSError):
            size = self._timed.read_now(self._buffer)
            self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # any buffer
        self.next_reply()

    def receive(self, *, wait: bool = True) -> bool:
        """Take in bytes, waiting for them up to the timeout of the last send; False for none yet.

        Raises:
            ConnectionLost: the server closed the connection, or nothing came in time.
        """
        try:
            if wait:
                size = self._timed.read(self._buffer, self._patience_s)
            else:
                size = self._timed.read_now(self._buffer)
        except OSError as error:
            if not wait and isinstance(error, NOT_YET):
                return False
            raise self._lost(error) from error
        if not size:
            raise self._lost(ConnectionResetError("the server closed the connection"))
        self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # any buffer
        self._timed.wake_at(1)
        return True

    def take(self, timeout_s: float) -> list[Any]:
        """Return whatever has come, waiting for it so long: replies, errors and pushes as hiredis
        gives them, in the order of the server. Nothing where nothing has come in time.

        Raises:
            ConnectionLost: the connection broke, or it is no Redis that answers.
        """
        try:
            size = self._timed.read(self._buffer, timeout_s)
        except (*NOT_YET, TimeoutError):
            return []
        except OSError as error:
            raise self._lost(error) from error
        if not size:
            raise self._lost(ConnectionResetError("the server closed the connection"))
        reader = self._reader
        reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # any buffer
        found = []
        try:
            while (reply := reader.gets()) is not False:
                found.append(reply)
        except hiredis.ProtocolError as error:
            self.close()
            raise ConnectionLost(f"what answers is no Redis: {error}") from error
        # The end of something may be short: it must wake the thread.
        self._timed.wake_at(1 if reader.has_data() else PUSH_LOW_WATER)
        return found

    def has_unread(self, replies: int = 1) -> bool:
        """Whether there may be some of so many replies that were not taken, for any thread to ask;
        without TLS.
        """
        return self._timed.has_unread(replies)

    def is_cut(self) -> bool:
        """Whether the other end has closed this connection, on which nothing is due: servers do so
        with those that rest for longer than their ``timeout``.
        """
        try:
            size = self._timed.read_now(self._buffer)
        except NOT_YET:
            return False
        except OSError:
            return True
        self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # any buffer
        return not size

    def listen(self, channels: Sequence[str], *, timeout_s: float) -> None:
        """Have what is published on channels pushed here; for a connection with ``pushes``.

        Raises:
            ConnectionLost: it took longer than ``timeout_s`` seconds. Refused.
        """
        self.send(pack((("SUBSCRIBE", *channels),)), timeout_s=timeout_s)
        heard = 0
        while heard < len(channels):
            found = self.take(timeout_s)
            if not found:
                self.close()
                raise ConnectionLost("it does not answer", spent_s=timeout_s)
            for reply in found:
                if isinstance(reply, Exception):
                    self.close()
                    raise Refused(str(reply))
                heard += 1
        self._listens = True

    def next_reply(self) -> tuple[bool, Any]:
        """Return ``(True, reply)`` if a whole one has arrived, else ``(False, None)``.

        Raises:
            Refused: the reply is an error.
            ConnectionLost: it is no reply of a Redis.
        """
        try:
            reply = self._reader.gets()
        except hiredis.ProtocolError as error:
            self.close()
            raise ConnectionLost(f"what answers is no Redis: {error}") from error
        if reply is False:
            return False, None
        if isinstance(reply, hiredis.ReplyError):
            self.close()
            raise Refused(str(reply))
        return True, reply

    def exchange(
        self, commands: Sequence[Command], *, timeout_s: float, prelude_bytes: int = 0
    ) -> list[Any]:
        """Send commands in one packet and return their replies.

        Args:
            prelude_bytes: about how many bytes of replies come before the one that matters. The
                thread is not woken for them alone. An error that is shorter would not wake it
                either, and more than the true number plus four would be too many.

        Raises:
            ConnectionLost: the connection broke or a reply took longer than ``timeout_s`` seconds.
            Refused: the server answered one of them with an error.
        """
        self.send(pack(commands), timeout_s=timeout_s)
        self._timed.wake_at(prelude_bytes + 1)
        replies: list[Any] = []
        partly = False
        while len(replies) < len(commands):
            arrived, reply = self.next_reply()
            if arrived:
                replies.append(reply)
                continue
            if partly:  # the rest has only the time that is left, as long as it takes if it flows
                left_s = self._sent_at + timeout_s - time.monotonic()
                self._patience_s = max(left_s, FLOW_S)
            partly = self.receive()
        return replies

    def server_id(self, *, timeout_s: float) -> str:
        """Return the run id of the server's process.

        Raises:
            ConnectionLost. Refused: it may not be asked.
        """
        self.send(pack((("INFO", "server"),)), timeout_s=timeout_s)
        reply: Any = False
        while reply is False:
            self.receive()
            reply = self._reader.gets()
        if isinstance(reply, Exception):
            self.close()
            raise Refused(str(reply))
        found = re.search(rb"run_id:(\w+)", reply)
        return found[1].decode() if found else ""

    def _lost(self, error: OSError) -> ConnectionLost:
        self.close()
        return self._why(error)

    def _why(self, error: OSError) -> ConnectionLost:
        late = isinstance(error, (*NOT_YET, TimeoutError))
        spent_s = time.monotonic() - self._sent_at
        return (
            ConnectionLost("it does not answer", spent_s=spent_s)
            if late
            else ConnectionLost(str(error))
        )
