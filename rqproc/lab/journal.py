"""What several processes write down together, and one of them reads.

Knows a file of lines, which outlives whoever writes it. Must not know what is made of them.

A line is one write to a file opened for appending, so lines of several processes do not mix, a
killed process leaves whole ones, and nobody waits for a reader.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any


class Journal:
    """A file of lines of JSON. Opened before a fork, it is the children's too."""

    def __init__(self, path: Path) -> None:
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

    def write(self, said: object) -> None:
        """Write one line; what JSON does not know is written as its text."""
        os.write(self._writes, json.dumps(said, default=str).encode() + b"\n")

    def news(self) -> list[Any]:
        """Return what was written since the last call; nothing once it is closed."""
        with self._lock:
            if not self._is_open:
                return []
            while chunk := os.read(self._reads, 65536):
                self._rest += chunk
            *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]
