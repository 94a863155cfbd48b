"""The stopwatch of the tests."""

from __future__ import annotations

import threading

from watch import Watch


def test_time_that_passes_is_counted() -> None:
    watch = Watch()
    threading.Event().wait(0.1)
    while watch.s <= 0.05:  # where that one is late, it counts for less
        threading.Event().wait(0.01)
    assert 0.05 < watch.stop() <= watch.whole_s
    assert watch.whole_s >= 0.1


def test_a_hold_up_that_is_not_over_when_it_is_read_is_not_counted() -> None:
    """Whoever is measured may be the first to go on after it."""
    watch = Watch()
    with watch._reading:
        watch._began -= 100.0
        watch._slept_from -= 100.0
    assert watch.stop() < 50.0 < watch.whole_s
