"""Callers side by side: how often they call, and how they end."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter

import pytest

from rqproc.lab.bench import timing


def test_a_call_is_repeated_as_often_as_asked() -> None:
    calls = itertools.count()
    timing.repeat(lambda: next(calls), callers=3, times=100)
    assert next(calls) == 100


def test_callers_call_side_by_side() -> None:
    together, numbers = threading.Barrier(4), itertools.count()

    def call() -> None:
        if next(numbers) < 4:
            together.wait(10)

    timing.rate(call, callers=4, seconds=0.01)
    assert not together.broken


def test_a_rate_is_of_all_callers_together() -> None:
    all_call, calls = threading.Barrier(5), Counter[int]()

    def call() -> None:
        if not calls[threading.get_ident()]:
            all_call.wait(10)
        time.sleep(0.001)
        calls[threading.get_ident()] += 1

    began = time.monotonic()
    per_s = timing.rate(call, callers=5, seconds=0.2)
    of_one_per_s = max(calls.values()) / (time.monotonic() - began)
    assert len(calls) == 5
    assert 2 * of_one_per_s < per_s <= calls.total() / 0.2


def test_even_the_shortest_measurement_has_something_to_tell() -> None:
    assert timing.rate(lambda: None, callers=1, seconds=0.001) > 0
    assert set(timing.latency(lambda: None, seconds=0.0)) == {"p50_s", "p99_s"}
    assert timing.per_call(lambda: None, seconds=0.0) > 0


@pytest.mark.parametrize("measure", [timing.rate, timing.repeat])
def test_a_callers_error_ends_all_of_them_and_is_raised(measure) -> None:  # type: ignore[no-untyped-def]
    before = set(threading.enumerate())
    numbers = itertools.count()

    def call() -> None:
        if next(numbers) == 50:
            raise OSError("gone")

    much = {"times": 10**9} if measure is timing.repeat else {"seconds": 60.0}
    with pytest.raises(OSError, match="gone"):
        measure(call, callers=4, **much)
    assert set(threading.enumerate()) <= before
