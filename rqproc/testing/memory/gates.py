"""Where runs are held in a cluster in memory.

Knows the simulation's events. Must not know nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from rqproc.ids import Id
from rqproc.testing.memory.primitives import SimEvent
from rqproc.testing.memory.simulation import Simulation


class SimGates:
    """All gates of a cluster; of an id the one that was shut last holds."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._gates: dict[tuple[str, Id], list[SimGate]] = defaultdict(list)

    def shut(self, resource: str, id: Id) -> SimGate:
        """Make a gate, before all runs of an id that are still to begin."""
        gates = self._gates[resource, id]
        gates.append(SimGate(self._simulation, gates))
        return gates[-1]

    def before(self, resource: str, id: Id) -> Callable[[], None] | None:
        """Return what waits at the gate of an id; None where there is none."""
        gates = self._gates.get((resource, id))
        return gates[-1].stop if gates else None


class SimGate:
    """One gate; it is one of ``gates`` until it is opened."""

    def __init__(self, simulation: Simulation, gates: list[SimGate]) -> None:
        self._opened = SimEvent(simulation)
        self._gates = gates
        self._held = 0

    def held(self) -> int:
        return self._held

    def open(self) -> None:
        if not self._opened.is_set():
            self._gates.remove(self)
            self._opened.set()

    def stop(self) -> None:
        """Held, until it is opened."""
        self._held += 1
        self._opened.wait()
