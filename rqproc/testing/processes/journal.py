"""What the processes of a real cluster write down: events, and what becomes of the nodes.

All of them look at the same clock: CLOCK_MONOTONIC is the machine's.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rqproc.lab.journal import Journal
from rqproc.testing.events import Event


class ClusterJournal(Journal):
    """Its lines are lists: a kind, a time, and facts. Its time begins when it is opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._began = time.monotonic()

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began

    def tell(self, kind: str, *facts: Any) -> None:
        self.write([kind, self.now_s, *facts])

    def event(self, event: Event) -> None:
        self.write(["event", *event])
