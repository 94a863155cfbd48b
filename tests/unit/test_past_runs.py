"""What a node remembers of runs that have ended, as its stats tell it."""

from __future__ import annotations

from unit.dispatching import Bench

from rqproc.node.past_runs import MOST_SLOW, MOST_TOLD, SLOW_WINDOW_S
from rqproc.node.runs import Done, Failed
from rqproc.protocol import codec
from rqproc.stats import NodeStats, PastError, PastRun


def stats(bench: Bench) -> NodeStats:
    return bench.dispatcher.figures.stats()


def ran(bench: Bench, id: int, *, for_s: float = 0.0) -> None:
    """A run of an id begins now, and ends."""
    bench.ask(id, "charge", 1)
    run = bench.run()
    bench.now += for_s
    bench.done(run)
    bench.ends()


def test_the_latest_runs_are_told_up_to_a_number() -> None:
    bench = Bench()
    for id in range(MOST_TOLD + 2):
        ran(bench, id)
    assert [past.id for past in stats(bench).runs] == list(range(MOST_TOLD + 1, 1, -1))


def test_the_slowest_are_told_until_two_windows_are_over() -> None:
    bench = Bench()
    ran(bench, 1, for_s=9.0)
    for _ in range(MOST_SLOW + 1):
        ran(bench, 3, for_s=0.5)
    assert [past.run_s for past in stats(bench).slowest] == [9.0] + [0.5] * (MOST_SLOW - 1)
    bench.now += SLOW_WINDOW_S
    ran(bench, 5, for_s=2.0)
    assert [past.run_s for past in stats(bench).slowest[:2]] == [9.0, 2.0]
    bench.now += SLOW_WINDOW_S
    assert [past.run_s for past in stats(bench).slowest] == [2.0]


def test_an_error_is_told_with_its_run() -> None:
    bench = Bench()
    bench.ask(1, "charge", 1)
    bench.now += 0.5
    run = bench.run()
    bench.now += 2.0
    bench.scheduler.complete(run, Failed("KeyError", "'no'", "Traceback: ..."))
    bench.ends()
    found = stats(bench)
    assert found.runs == (PastRun("charge", 1, bench.now, 0.5, 2.0, "KeyError"),)
    assert found.errors == (
        PastError("charge", 1, bench.now, "KeyError", "'no'", "Traceback: ..."),
    )


def test_a_run_that_is_over_its_time_is_an_error_at_once_and_a_past_run_at_its_end() -> None:
    bench = Bench()
    bench.ask(1, "brisk")
    run = bench.run()
    bench.now += 2.0
    bench.scheduler.mind_the_time()
    bench.ends()
    late = PastError("brisk", 1, bench.now, "HandlerTimeout", "not done after 1 s")
    assert (stats(bench).runs, stats(bench).errors) == ((), (late,))
    bench.now += 1.0
    bench.scheduler.complete(run, Failed("KeyError", "'no'", "Traceback: ..."))
    bench.ends()
    assert stats(bench).runs == (PastRun("brisk", 1, bench.now, 0.0, 3.0, "KeyError"),)
    assert stats(bench).errors == (late,), "its callers were told of one"


def test_a_value_that_is_given_is_no_run() -> None:
    bench = Bench()
    bench.change(1, codec.SET, "given", None)
    assert bench.scheduler.next_run() is None
    bench.ends()
    assert stats(bench).runs == ()
    bench.ask(1, "charge", 1)
    bench.scheduler.complete(bench.run(), Done("1"))
    assert len(stats(bench).runs) == 1
