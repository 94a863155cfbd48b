"""What several processes write down together, and one of them reads.

Knows a file of lines, which outlives whoever writes it. Must not know what is made of them.

A line is one write to a file opened for appending, so lines of several processes do not mix, a
killed process leaves whole ones, and nobody waits for a reader. All of them look at the same clock:
CLOCK_MONOTONIC is the machine's.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from rqproc.testing.events import Event


class Journal:
    """Opened before a fork, it is the children's too.

    Attributes:
        began: what the clock showed when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.began = time.monotonic()
        self._writes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._reads = os.open(path, os.O_RDONLY)
        self._lock = Lock()
        self._rest = b""
        self._is_open = True

    def close(self) -> None:
        with self._lock:
            self._is_open = False
            os.close(self._writes)
            os.close(self._reads)

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began

    def write(self, kind: str, *facts: Any) -> None:
        os.write(self._writes, json.dumps([kind, self.now_s, *facts], default=str).encode() + b"\n")

    def event(self, event: Event) -> None:
        os.write(self._writes, json.dumps(["event", *event]).encode() + b"\n")

    def news(self) -> Iterator[tuple[str, float, list[Any]]]:
        """Yield kind, time and facts of each line that was written since the last call."""
        with self._lock:
            for line in self._new_lines():
                kind, at_s, *facts = json.loads(line)
                yield kind, at_s, facts

    def _new_lines(self) -> list[bytes]:
        if not self._is_open:
            return []
        while chunk := os.read(self._reads, 65536):
            self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        return lines
