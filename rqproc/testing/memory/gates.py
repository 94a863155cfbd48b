"""Where runs are held, and who is told of them.

Knows the baton's events. Must not know nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rqproc.context import Current
from rqproc.placement import Id
from rqproc.testing.events import Event, History, Kind
from rqproc.testing.memory.baton import Baton
from rqproc.testing.memory.still import StillEvent

HELD_WITHIN_S = 60.0


class Gate:
    """Where the runs of one id are held."""

    def __init__(self, baton: Baton, what: str) -> None:
        self._baton = baton
        self._what = what
        self._open = StillEvent(baton)
        self._news = StillEvent(baton)
        self._held = 0

    def wait(self, count: int = 1) -> None:
        until = self._baton.now + HELD_WITHIN_S
        while self._held < count:
            self._news = StillEvent(self._baton)
            came = self._news.wait(until - self._baton.now)
            assert came, (
                f"{self._held} of {count} runs of {self._what} held within {HELD_WITHIN_S:g} s: "
                "those of one id come one after another, and with a ttl calls join the first"
            )

    def release(self) -> None:
        self._open.set()

    def stop(self) -> None:
        """Held, until it is opened."""
        self._held += 1
        self._news.set()
        self._open.wait()


class Watch:
    """Is told of runs, and holds them."""

    def __init__(self, baton: Baton, history: History) -> None:
        self._baton = baton
        self._history = history
        self._gates: dict[tuple[str, Id], Gate] = {}

    @contextmanager
    def holding(self, key: tuple[str, Id], gate: Gate) -> Iterator[None]:
        before = self._gates.get(key)
        self._gates[key] = gate
        try:
            yield
        finally:
            gate.release()
            if before:
                self._gates[key] = before
            else:
                del self._gates[key]

    def tell(self, kind: Kind, run: Current, text: str = "") -> None:
        if self._baton.is_over_here:
            return
        event = Event(self._baton.now, kind, run.node, run.resource, run.id, run.token, text)
        self._history.add(event)

    def gate(self, run: Current) -> Callable[[], None] | None:
        gate = self._gates.get((run.resource, run.id))
        return gate.stop if gate else None
