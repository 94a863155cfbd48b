"""The judge of a torture on handlers that ask for other ids: circles are found, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.torture_records import LEASE_S, ask, broken, ended, fault, inner, killed, run

from rqproc.lab.torture.answers import SLACK_S
from rqproc.lab.torture.nesting import UNNOTICED_LEASES, UNNOTICED_S
from rqproc.lab.torture.records import Ask, ObservedRun, Stop

LONG_S = UNNOTICED_LEASES * LEASE_S + UNNOTICED_S + 0.1
CIRCLE = "RequestCycle"

ONE = run(1.0, 2.0, key="nested:1", tag="r1")
TWO = run(1.1, 1.9, key="nested:2", tag="r2", pid=2)
THREE = run(1.2, 1.8, key="nested:3", tag="r3", pid=3)
OTHER = run(1.1, 1.2, key="charge:1", tag="1.1/1", pid=2)


# --- what a handler asks is a request like any other ---


def test_a_handler_gets_the_value_of_the_run_that_was_made_for_it() -> None:
    assert broken(ONE, OTHER, inner(ONE, 1.05, 1.3, OTHER)) == []
    wrong = replace(inner(ONE, 1.05, 1.3, OTHER), tag="1.1/2")
    assert broken(ONE, OTHER, wrong) == ["true values"]


def test_a_handler_that_is_never_answered_is_found() -> None:
    waits = inner(ONE, 1.05, None, key="charge:1")
    assert broken(replace(ONE, ended=20.0), waits) == ["in time"]


def test_a_handler_whose_process_ends_first_need_not_be_answered() -> None:
    cut, waits = replace(ONE, ended=None), inner(ONE, 1.05, None, key="charge:1")
    assert broken(cut, waits, killed(1.5), fault("kill", 1.5, 1.5)) == []


def test_a_handler_that_waits_past_its_deadline_in_a_process_that_ends_later_is_found() -> None:
    cut, waits = replace(ONE, ended=None), inner(ONE, 1.0, None, key="charge:1")
    late = 9.0 + SLACK_S + 0.01
    assert broken(cut, waits, killed(late), fault("kill", late, late)) == ["in time"]


def test_a_handler_may_be_answered_as_late_as_its_process_was_stopped() -> None:
    late = inner(ONE, 1.0, 9.0 + SLACK_S + 0.5, key="charge:1", error="RequestTimeout")
    run_of = replace(ONE, ended=13.0)
    pause = fault("pause", 2.0, 2.7)
    assert broken(run_of, late, Stop(1, 2.0, 2.7), pause) == []
    assert broken(run_of, late, Stop(2, 2.0, 2.7), pause) == ["in time"]


# --- circles ---


def refused(by: ObservedRun, key: str, at: float = 1.5) -> Ask:
    return inner(by, at, at + 0.1, key=key, error=CIRCLE)


def test_a_circle_of_two_that_one_is_told_of_is_lawful() -> None:
    last = run(1.95, 1.96, key="nested:2", tag="1.1/1", pid=2)
    waits = inner(ONE, 1.2, 1.97, last)
    assert broken(ONE, TWO, last, waits, refused(TWO, "nested:1")) == []


def test_a_circle_of_three_is_one_too() -> None:
    waits = [
        inner(ONE, 1.3, 1.95, key="nested:2", error="RequestTimeout", timeout_s=0.9),
        inner(TWO, 1.3, 1.85, key="nested:3", error="RequestTimeout", timeout_s=0.9),
    ]
    assert broken(ONE, TWO, THREE, *waits, refused(THREE, "nested:1")) == []
    assert broken(ONE, TWO, THREE, waits[0], refused(THREE, "nested:1")) == ["true circles"]


def test_an_id_that_asks_for_itself_is_a_circle() -> None:
    assert broken(ONE, refused(ONE, "nested:1")) == []


def test_a_circle_that_closes_none_is_found() -> None:
    assert broken(ONE, refused(ONE, "nested:2")) == ["true circles"]
    assert broken(ONE, TWO, refused(ONE, "nested:2")) == ["true circles"]


def test_a_wait_that_was_answered_before_closes_no_circle() -> None:
    made = run(1.25, 1.3, key="charge:1", tag="2.1/1", pid=3)
    early = replace(inner(TWO, 1.2, 1.35, made), key="nested:1")
    found = broken(ONE, TWO, replace(made, key="nested:1"), early, refused(ONE, "nested:2"))
    assert "true circles" in found


def test_both_sides_of_a_circle_must_not_be_refused() -> None:
    both = (refused(ONE, "nested:2"), refused(TWO, "nested:1"))
    assert broken(ONE, TWO, *both) == ["true circles", "true circles"]
    assert broken(ONE, TWO, *both, fault("wipe", 1.5, 1.55)) == []


def test_a_wait_of_a_process_that_died_stands_until_its_deadline() -> None:
    cut = replace(TWO, ended=None)
    waits = inner(cut, 1.2, None, key="nested:1")
    death = (killed(1.4, pid=2), fault("kill", 1.4, 1.4))
    assert broken(ONE, cut, waits, *death, refused(ONE, "nested:2", 1.6)) == []


def test_a_caller_is_never_told_of_a_circle() -> None:
    found = broken(ONE, ask(1.0, 1.1, key="nested:1", error=CIRCLE))
    assert found == ["named errors"]


# --- deadlocks ---


DELAY = fault("delay", 0.5, 20.0)
"""It explains that requests take their time, but not that they wait for each other."""


def locked(seconds: float) -> list[ObservedRun | Ask]:
    """Two runs that wait for each other."""
    until = 1.0 + seconds
    one, two = replace(ONE, ended=until), replace(TWO, ended=until)
    outcome = {"error": "RequestTimeout", "timeout_s": seconds - 0.2}
    return [
        one,
        two,
        inner(one, 1.0, until, key="nested:2", **outcome),
        inner(two, 1.0, until, key="nested:1", **outcome),
    ]


def test_two_runs_that_wait_for_each_other_for_long_are_found_once() -> None:
    assert broken(*locked(LONG_S), DELAY) == ["no deadlocks"]
    assert broken(*locked(LONG_S - 0.2), DELAY) == []


def test_a_deadlock_of_three_is_found_too() -> None:
    until = 1.0 + LONG_S
    runs = [replace(found, ended=until) for found in (ONE, TWO, THREE)]
    outcome = {"error": "RequestTimeout", "timeout_s": LONG_S - 0.2}
    keys = ("nested:2", "nested:3", "nested:1")
    asks = [inner(r, 1.0, until, key=key, **outcome) for r, key in zip(runs, keys, strict=True)]
    assert broken(*runs, *asks, DELAY) == ["no deadlocks"]
    assert broken(*runs, asks[0], asks[1], DELAY) == []


def test_a_loss_of_data_excuses_a_deadlock() -> None:
    assert broken(*locked(LONG_S), DELAY, fault("wipe", 2.0, 2.1)) == []
    assert broken(*locked(LONG_S), DELAY, fault("restart", 2.0, 2.1)) == ["no deadlocks"]


def test_a_deadlock_lasts_no_longer_than_its_processes() -> None:
    one, two, *waits = locked(LONG_S)
    assert isinstance(two, ObservedRun)
    open_waits = [replace(w, answered=None, error="") for w in waits if isinstance(w, Ask)]
    cut = [replace(r, ended=None) for r in (one, two) if isinstance(r, ObservedRun)]
    ends = [ended(1.0 + LONG_S, pid=1), ended(3.0, pid=2), fault("stall", 2.5, 3.0)]
    assert "no deadlocks" not in broken(*cut, *open_waits, *ends, strict=True)
    ends = [ended(1.2 + LONG_S, pid=pid) for pid in (1, 2)]
    about = fault("stall", LONG_S, 1.1 + LONG_S)
    assert "no deadlocks" in broken(*cut, *open_waits, *ends, about, strict=True)


@pytest.mark.parametrize("key", ["charge:1", "nested:3"])
def test_a_run_that_waits_for_what_does_not_wait_for_it_is_in_no_deadlock(key: str) -> None:
    one, two, waits, other = locked(LONG_S)
    assert isinstance(other, Ask)
    assert "no deadlocks" not in broken(one, two, waits, replace(other, key=key))
