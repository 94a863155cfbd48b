"""Where runs are held, and who is told of them.

Knows the simulation's events. Must not know nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rqproc.context import Current
from rqproc.ids import Id
from rqproc.testing.events import Event, History, Kind
from rqproc.testing.memory.primitives import SimEvent
from rqproc.testing.memory.simulation import Simulation

HELD_WITHIN_S = 60.0


class SimGate:
    """Where the runs of one id are held."""

    def __init__(self, simulation: Simulation, what: str) -> None:
        self._simulation = simulation
        self._what = what
        self._open = SimEvent(simulation)
        self._news = SimEvent(simulation)
        self._held = 0

    def wait(self, count: int = 1) -> None:
        until = self._simulation.now + HELD_WITHIN_S
        while self._held < count:
            self._news = SimEvent(self._simulation)
            came = self._news.wait(until - self._simulation.now)
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


class SimWatch:
    """Is told of runs, and holds them."""

    def __init__(self, simulation: Simulation, history: History) -> None:
        self._simulation = simulation
        self._history = history
        self._gates: dict[tuple[str, Id], SimGate] = {}

    @contextmanager
    def holding(self, key: tuple[str, Id], gate: SimGate) -> Iterator[None]:
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
        if self._simulation.is_over_here:
            return
        event = Event(self._simulation.now, kind, run.node, run.resource, run.id, run.token, text)
        self._history.add(event)

    def gate(self, run: Current) -> Callable[[], None] | None:
        gate = self._gates.get((run.resource, run.id))
        return gate.stop if gate else None
