"""Timing: latencies of one caller, throughput of many. Knows clocks and threads, nothing else."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that one call takes."""

    p50_s: float
    p99_s: float


def latency(call: Callable[[], object], *, seconds: float) -> Latency:
    """Call again and again for some seconds, one call at a time."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end or len(times) < 2:
        call()
        times.append(time.perf_counter() - began)
    cuts = statistics.quantiles(times, n=100)
    return Latency(statistics.median(times), cuts[98])


def throughput(call: Callable[[], object], *, callers: int, seconds: float) -> float:
    """Return calls per second with so many callers, each with one call in flight.

    Raises:
        Exception: the first error that a caller met.
    """
    counts = [0] * callers
    errors: list[Exception] = []
    start = threading.Barrier(callers + 1)
    end = time.perf_counter() + 3600

    def work(place: int) -> None:
        start.wait()
        try:
            while time.perf_counter() < end:
                call()
                counts[place] += 1
        except Exception as error:  # noqa: BLE001 - raised by whoever measures
            errors.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(callers)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    end = began + seconds
    start.wait()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - began)


def median_latency(rounds: Sequence[Latency]) -> Latency:
    return Latency(
        statistics.median(r.p50_s for r in rounds), statistics.median(r.p99_s for r in rounds)
    )
