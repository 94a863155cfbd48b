"""A proxy that loses what a test chooses: commands on their way, or replies and connections."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rqproc.lab.proxy import Fate, Proxy, Way


class CuttingProxy(Proxy):
    """One port before a server's unix socket.

    ``cut_replies(n)``: of the next chunks from the server the n-th is lost and its connection
    closed. ``swallow``: chunks to the server, for which it says yes, never arrive there.
    ``mute``: nothing comes back from there.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url.removeprefix("unix://"), judge=self._fate)
        self._lock = threading.Lock()
        self._cut_in = 0
        self.cuts = 0
        self.mute = False
        self.swallow: Callable[[bytes], bool] = lambda _: False

    @property
    def address(self) -> str:
        return self.url("all")

    def cut_replies(self, number: int = 1) -> None:
        with self._lock:
            self._cut_in = number

    def _fate(self, way: Way, chunk: bytes) -> Fate:
        if way == "requests":
            return "lost" if self.swallow(chunk) else "passes"
        with self._lock:
            counts = self._cut_in > 0
            self._cut_in -= counts
            if counts and not self._cut_in:
                self.cuts += 1
                return "cut"
        return "lost" if self.mute else "passes"
