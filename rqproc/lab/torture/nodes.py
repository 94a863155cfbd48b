"""The nodes under torture, each a process; what was done to it and when it ended is written down.

Knows processes and signals. Must not know why anything is done.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from rqproc.lab.processes import NodeDidNotStart, NodeProcess
from rqproc.lab.torture.records import Death, Stop

END_WITHIN_S = 15.0
LAST_LINES = 12


class TorturedNode(NodeProcess):
    """One node's process. Attributes: stops, death: what was done to it, once that is over."""

    def __init__(
        self, name: str, url: str, namespace: str, arguments: Sequence[str], *,
        environ: Mapping[str, str],
    ) -> None:  # fmt: skip
        super().__init__(name, url, namespace, arguments, environ=environ)
        self.death: Death | None = None
        self.stops: list[Stop] = []
        self._killed: float | None = None
        self._drained = False
        self._stopped: float | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name=f"watch-{name}", daemon=True).start()

    @property
    def alive(self) -> bool:
        """It has not ended, nor been told to."""
        return not self._ended.is_set() and not self._drained and self._killed is None

    def kill(self) -> None:
        self._killed = time.monotonic()
        super().kill()
        self._ended.wait()

    def drain(self) -> None:
        self.will_drain()
        self.signal(signal.SIGTERM)

    def will_drain(self) -> None:
        """Note that it is asked to by other ways than a signal."""
        self._drained = True

    def pause(self) -> None:
        self._stopped = time.monotonic()
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._stopped is not None
        self.signal(signal.SIGCONT)
        self.stops.append(Stop(self.pid, self._stopped, time.monotonic()))
        self._stopped = None

    def ends(self) -> bool:
        """Wait for its end, for a while; return whether it came."""
        return self._ended.wait(END_WITHIN_S)

    def _watch(self) -> None:
        code = self.process.wait()
        seen = time.monotonic()
        self.wait()
        words = "".join(self.lines[-LAST_LINES:]).strip() if code else ""
        self.death = Death(self.pid, self.name, seen, code, self._killed, self._drained, words)
        self._ended.set()


class TortureNodes:
    """All nodes, those too that have ended. A context: none lives after it."""

    def __init__(self, launch: Callable[[str], TorturedNode], size: int) -> None:
        self._launch = launch
        self.size = size
        self.nodes: list[TorturedNode] = []
        self._names = (f"n{number}" for number in range(1, 100_000))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for node in self.nodes:
            node.__exit__()

    @property
    def alive(self) -> list[TorturedNode]:
        return [node for node in self.nodes if node.alive]

    def start_all(self) -> None:
        """Start as many as there shall be, and wait until they serve.

        Raises:
            NodeDidNotStart.
        """
        while len(self.alive) < self.size:
            self.start()
        for node in self.nodes:
            node.wait_ready()

    def start(self, name: str = "") -> TorturedNode:
        """Start a node, under a new name or that of one that has ended."""
        node = self._launch(name or next(self._names))
        self.nodes.append(node)
        return node

    def tend(self) -> None:
        """Start successors for those who have ended without being told, until there are enough.

        Raises:
            NodeDidNotStart: it happens again and again.
        """
        while len(self.alive) < self.size:
            lost = [b for b in self.nodes[-20:] if b.death and b.death.code not in (0, -9)]
            if len(lost) == 20 and lost[-1].death:
                raise NodeDidNotStart(f"nodes keep ending: {lost[-1].death.words}")
            self.start()

    def drain_all(self) -> None:
        """Let every node finish and end; those that do not are killed, which the record shows."""
        for node in self.alive:
            node.drain()
        for node in self.nodes:
            if not node.ends():
                node.will_drain()
                node.__exit__()
                node.ends()

    def stops(self) -> tuple[Stop, ...]:
        return tuple(stop for node in self.nodes for stop in node.stops)

    def deaths(self) -> tuple[Death, ...]:
        return tuple(node.death for node in self.nodes if node.death)
