"""What has happened in a real cluster: what the test has done, and what its nodes have told.

Knows the journal's lines and what they mean. Must not know how anything is done to a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from rqproc.errors import RqprocError
from rqproc.testing.events import Event, History
from rqproc.testing.processes.journal import ClusterJournal
from rqproc.testing.processes.node_process import rebuilt


@dataclass
class Child:
    """A node's process.

    Attributes:
        serves: it has joined, and nobody has told it to end since.
        cut, paused: it takes nothing.
        error: why it could not join.
        code: its exit code, None while it lives.
    """

    name: str
    pid: int
    serves: bool = False
    cut: bool = False
    paused: bool = False
    error: RqprocError | None = None
    code: int | None = None


class EventLog:
    """Attributes: journal: where the nodes' part is read, once there is one."""

    def __init__(self) -> None:
        self.journal: ClusterJournal | None = None
        self._events: list[Event] = []
        self._children: dict[int, Child] = {}
        self._held: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def now_s(self) -> float:
        return self.journal.now_s if self.journal else 0.0

    def add(self, event: Event) -> None:
        self._events.append(event)

    def history(self) -> History:
        self.read()
        return History(sorted(self._events, key=lambda event: event.at_s))

    def held_at(self, gate: str) -> int:
        """Return how many runs have come to a gate."""
        self.read()
        return self._held[gate]

    def born(self, name: str, start: Callable[[], int]) -> Child:
        """Start a node's process, of which something may be told at once."""
        with self._lock:
            child = Child(name, start())
            self._children[child.pid] = child
        return child

    def read(self) -> None:
        """Take in what was told since the last time."""
        if self.journal is None:
            return
        with self._lock:
            for kind, at_s, *facts in self.journal.news():
                self._hear(kind, at_s, facts)

    def _hear(self, kind: str, at_s: float, facts: list[Any]) -> None:
        if kind == "event":
            self.add(Event(at_s, *facts))
        elif kind == "held":
            self._held[facts[0]] += 1
        elif child := self._children.get(facts[0]):
            self._hear_of(child, kind, at_s, facts[1:])

    def _hear_of(self, child: Child, kind: str, at_s: float, facts: list[Any]) -> None:
        if kind == "ready":
            child.serves = True
        elif kind == "failed":
            child.error = rebuilt(*facts)
        elif kind == "ended":
            (child.code,) = facts
            if child.serves:
                text = f"by itself, with exit code {child.code}"
                self.add(Event(at_s, "killed", child.name, text=text))
