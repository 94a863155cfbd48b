"""Latencies of one caller, the rate of many, and what a probe is and has read.

Knows clocks and threads. Must not know what is called.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rqproc.lab.bench.environment import Bench, Rival

Reading = Mapping[str, float]
"""What one probe found in one round, by name. What cannot be measured here is left out."""

Readings = Mapping[str, Sequence[Reading]]
"""By the probe's name, one reading for each round."""

LATENCY_FIELDS = ("p50_s", "p99_s")

BATCH = 200

LEAD_IN = 0.25
"""How much longer than it is measured a crowd is at work: its start is like nothing after it."""


def latency(call: Callable[[], object], *, seconds: float) -> Reading:
    """Call again and again for some seconds, one call at a time; return p50 and p99."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end or len(times) < 2:
        call()
        times.append(time.perf_counter() - began)
    return summary(times)


def summary(times_s: Sequence[float]) -> Reading:
    """Return the p50 and the p99 of two times or more."""
    cuts = statistics.quantiles(times_s, n=100, method="inclusive")
    return dict(zip(LATENCY_FIELDS, (statistics.median(times_s), cuts[98]), strict=True))


def per_call(call: Callable[[], object], *, seconds: float) -> float:
    """Return the seconds that a call takes which is too short to be timed alone."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end or not times:
        for _ in itertools.repeat(None, BATCH):
            call()
        times.append((time.perf_counter() - began) / BATCH)
    return statistics.median(times)


def rate(call: Callable[[], object], *, callers: int, seconds: float) -> float:
    """Return calls per second with so many callers, each with one call in flight.

    Counted between two instants in the midst of it, so that what is under way at either of them,
    which may take long to be answered where many wait, cancels out.

    Raises:
        Exception: the first error that a caller met.
    """
    with _crowd(call, callers) as crowd:
        crowd.start()
        crowd.over.wait(seconds * LEAD_IN)
        began, before = time.perf_counter(), crowd.calls  # in this order: a late count is no more
        crowd.over.wait(seconds)
        while crowd.calls == before and not crowd.over.wait(seconds):
            pass  # one at the least
        return (crowd.calls - before) / (time.perf_counter() - began)


def repeat(call: Callable[[], object], *, callers: int, times: int) -> None:
    """Call so many times, with so many callers.

    Raises:
        Exception: the first error that a caller met.
    """
    numbers = itertools.count(1)

    def ask() -> None:
        if (number := next(numbers)) <= times:
            call()
        if number >= times:
            crowd.over.set()

    with _crowd(ask, callers) as crowd:
        crowd.start()
        crowd.over.wait()


@contextmanager
def _crowd(call: Callable[[], object], callers: int) -> Iterator[_Crowd]:
    """Callers, all of whom have ended in the end. Raises: the first error that one of them met."""
    crowd = _Crowd(call, callers)
    try:
        yield crowd
    finally:
        crowd.end()
    if crowd.errors:
        raise crowd.errors[0]


class _Crowd:
    """Threads that call until it is over."""

    def __init__(self, call: Callable[[], object], callers: int) -> None:
        self._call = call
        self._counts = [0] * callers
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(callers)]
        self.over = threading.Event()
        self.errors: list[Exception] = []

    @property
    def calls(self) -> int:
        """How many have been answered so far."""
        return sum(self._counts)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let each end when its call is answered; wait for it."""
        self.over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self, place: int) -> None:
        try:
            while not self.over.is_set():
                self._call()
                self._counts[place] += 1
        except Exception as error:  # noqa: BLE001 - raised by whoever measures
            self.errors.append(error)
            self.over.set()


@dataclass(frozen=True, slots=True)
class FormulaTerm:
    """One number of a probe's readings."""

    probe: str
    field: str

    def of(self, readings: Readings) -> list[float]:
        """Return it round by round; rounds that do not have it are left out."""
        found = readings.get(self.probe, ())
        return [reading[self.field] for reading in found if self.field in reading]

    def median(self, readings: Readings) -> float | None:
        return median(self.of(readings))


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Probe:
    """Measures one thing, for about so many seconds.

    Attributes:
        progress: what it measures, for those who wait.
        rival: whom it measures, if not rqproc.
        alone: it is measured once, before anything else is started: others would disturb it.
    """

    name: str
    progress: str
    run: Callable[[Bench, float], Reading]
    rival: Rival | None = None
    alone: bool = False

    def __getitem__(self, field: str) -> FormulaTerm:
        return FormulaTerm(self.name, field)
