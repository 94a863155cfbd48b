"""An event loop whose time is the cluster's.

Knows asyncio and the simulation's waker. Must not know what runs on it.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from rqproc.runtime import Runtime
from rqproc.testing.memory.primitives import SimWaker
from rqproc.testing.memory.simulation import Simulation

RESOLUTION_S = 1e-6
"""An event loop takes what is due within so long as due: sums of floats are not exact."""


class _Sleeper(selectors.BaseSelector):
    """In the place of a selector: there are no files, only calls from other threads."""

    def __init__(self, simulation: Simulation) -> None:
        self._waker = SimWaker(simulation)

    def wake(self) -> None:
        self._waker.wake()

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self._waker.wait(3600.0 if timeout is None else timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        raise NotImplementedError("there are no sockets in the test kit's event loops")

    def unregister(self, fileobj: Any) -> Any:
        raise NotImplementedError("there are no sockets in the test kit's event loops")

    def get_map(self) -> Any:
        return {}

    def close(self) -> None:
        """There is nothing to be given back."""


class SimEventLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the cluster's."""

    def __init__(self, runtime: Runtime, simulation: Simulation) -> None:
        self._runtime = runtime
        self._sleeper = _Sleeper(simulation)
        super().__init__(self._sleeper)
        self._clock_resolution = RESOLUTION_S

    def time(self) -> float:
        return self._runtime.monotonic()

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        threads = executor or self._runtime.threads(1, name="rqproc-to-thread")
        return asyncio.wrap_future(threads.submit(func, *args), loop=self)

    def close(self) -> None:
        """What is left now has been cancelled, and waits for something all the same."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        super().close()

    def _make_self_pipe(self) -> None:
        """Other threads wake it by its waker."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        self._sleeper.wake()
