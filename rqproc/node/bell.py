"""The bell: wakes a thread that waits for sockets. Ringing twice before it is heard rings once."""

from __future__ import annotations

import select
import socket
import threading


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
