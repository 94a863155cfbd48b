"""The bell: wakes a thread that waits for sockets. Ringing twice before it is heard rings once."""

from __future__ import annotations

import select
import socket
import threading
from typing import Protocol


class Readable(Protocol):
    """What has a file that becomes readable, as a link has."""

    def fileno(self) -> int: ...


class Bell:
    """Rung from any thread, heard by one, which waits for ``fileno`` to be readable."""

    def __init__(self) -> None:
        self._heard, self._rope = socket.socketpair()
        self._rung = False
        # Reentrant: a signal handler may ring in the very thread that clears.
        self._lock = threading.RLock()

    def fileno(self) -> int:
        return self._heard.fileno()

    def ring(self) -> None:
        with self._lock:
            if not self._rung and self._heard.fileno() >= 0:
                self._rung = True
                self._rope.send(b"\0")

    def clear(self) -> None:
        """Make it silent: what was rung for is looked at after this."""
        with self._lock:
            if self._rung:
                self._rung = False
                self._heard.recv(1)

    def wait(self, timeout_s: float) -> None:
        """Wait until it rings, for so many seconds at the most."""
        poll = select.poll()
        poll.register(self._heard, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            self.clear()

    def close(self) -> None:
        """Ringing it afterwards does nothing."""
        with self._lock:
            self._heard.close()
            self._rope.close()


class Poll:
    """Waits for a link to be readable, or a bell to ring."""

    def __init__(self, link: Readable, bell: Bell | None = None) -> None:
        self._bell = bell
        self._link_file = link.fileno()
        self._poll = select.poll()
        self._poll.register(self._link_file, select.POLLIN)
        if bell:
            self._poll.register(bell.fileno(), select.POLLIN)

    def wait(self, timeout_s: float) -> tuple[bool, bool]:
        """Return whether the bell has rung, which is cleared, and whether there is to be read."""
        ready = self._poll.poll(timeout_s * 1000)
        if not ready:
            return False, False
        rung = readable = False
        for file, _ in ready:
            if file == self._link_file:
                readable = True
            else:
                rung = True
        if rung and self._bell:
            self._bell.clear()
        return rung, readable
