"""Bytes in and out of a socket, each within a time: two kinds of sockets, by who keeps that time.

Knows sockets, TLS and what gevent and eventlet put in their place. Must not know what is said.
"""

from __future__ import annotations

import _socket
import errno
import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, suppress
from functools import lru_cache
from math import ceil
from typing import Any, Protocol

from rqproc.runtime import wait_for_file

TIMEOUT_STEP_S = 0.05

NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""Nothing has come in time, or there was no room."""


class TimedSocket(Protocol):
    """Not for two threads at once; but one may write while another reads.

    Attributes:
        waits: whether whoever reads has got nothing yet: interrupted then, it has lost nothing.
    """

    waits: bool

    def read(self, buffer: bytearray, timeout_s: float) -> int:
        """Return how many bytes there are now, 0 for the end.

        Raises:
            OSError: one of ``NOT_YET``, or of what the connection broke.
        """

    def read_now(self, buffer: bytearray) -> int:
        """``read`` without waiting."""

    def write(self, packet: bytes, timeout_s: float) -> None:
        """Write all of it. Raises: OSError, as ``read``."""

    def wake_at(self, size: int) -> None:
        """Whoever reads need not be woken for less than so many bytes."""

    def has_unread(self, replies: int) -> bool:
        """Whether there may be some of so many replies that were not read; any thread may ask."""


def timed(made: socket.socket) -> TimedSocket:
    """Return a connected socket with times."""
    # Those of gevent and eventlet, which never block in the kernel, do not know of its times.
    return Blocking(made) if type(made).__module__ == "socket" else Polled(made)


class Blocking:
    """A plain one of Python's own. The kernel keeps the time: no poll before each call."""

    waits = False

    def __init__(self, made: socket.socket) -> None:
        made.settimeout(None)
        self._socket = made
        self._low_water = 1
        self._receive_timeout_s = self._send_timeout_s = -1.0

    def read(self, buffer: bytearray, timeout_s: float) -> int:
        rounded_s = _stepped(timeout_s)
        if rounded_s != self._receive_timeout_s:
            self._receive_timeout_s = rounded_s
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(rounded_s))
        return self._socket.recv_into(buffer)

    def read_now(self, buffer: bytearray) -> int:
        return self._socket.recv_into(buffer, 0, socket.MSG_DONTWAIT)

    def write(self, packet: bytes, timeout_s: float) -> None:
        rounded_s = _stepped(timeout_s)
        if rounded_s != self._send_timeout_s:
            self._send_timeout_s = rounded_s
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(rounded_s))
        self._socket.sendall(packet)

    def wake_at(self, size: int) -> None:
        if size != self._low_water:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._low_water = size

    def has_unread(self, replies: int) -> bool:
        # More than one would have woken whoever reads.
        return replies == 1 and _has_unread(self._socket)


class Polled:
    """Of TLS, or of gevent or eventlet. It never blocks: whoever waits does so outside of it.

    OpenSSL lets no thread read while another writes. Greenlets wait in the loop that they share.
    """

    def __init__(self, made: socket.socket) -> None:
        made.setblocking(False)
        self._socket = made
        self._guard = threading.Lock()
        self.waits = False

    def read(self, buffer: bytearray, timeout_s: float) -> int:
        end = time.monotonic() + timeout_s
        while True:
            self.waits = False
            with suppress(*NOT_YET):
                return self.read_now(buffer)
            self.waits = True
            self._wait(end)

    def read_now(self, buffer: bytearray) -> int:
        with self._guard:
            return self._socket.recv_into(buffer)

    def write(self, packet: bytes, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        left = memoryview(packet)
        while left:
            sent = 0  # as gevent's TLS has it, where there is no room
            with self._guard, suppress(*NOT_YET):
                sent = self._socket.send(left)
            left = left[sent:]
            if not sent:
                self._wait(end, writable=True)

    def wake_at(self, size: int) -> None:
        """Bytes of TLS are others than those that are read, and greenlets cost little to wake."""

    def has_unread(self, replies: int) -> bool:
        # Greenlets that had no turn have read nothing of what is there.
        return not isinstance(self._socket, ssl.SSLSocket) and _has_unread(self._socket)

    def _wait(self, end: float, *, writable: bool = False) -> None:
        """Raises: BlockingIOError: it is over."""
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise BlockingIOError(errno.EAGAIN, "timed out")
        wait_for_file(self._socket.fileno(), left_s, writable=writable)


def interrupt(made: Any) -> None:
    """End the connection under whoever reads. ``made``: a socket, of greenlets too."""
    with suppress(OSError), ExitStack() as stack:  # closed already
        # By its file: TLS's own way would take the socket out of TLS.
        if isinstance(made, _socket.socket):
            _socket.socket.shutdown(made, socket.SHUT_RDWR)
            return
        beside = socket.fromfd(made.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        stack.callback(beside.close)
        beside.shutdown(socket.SHUT_RDWR)


def _has_unread(made: socket.socket) -> bool:
    with suppress(OSError):
        return bool(made.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    return False


@lru_cache(maxsize=64)
def _stepped(timeout_s: float) -> float:
    """In steps: callers that ask alike need no system call."""
    return max(ceil(timeout_s / TIMEOUT_STEP_S), 1) * TIMEOUT_STEP_S  # 0 is for ever


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
