"""The judge of a torture on runs that take too long: each crime is found, the lawful is let be."""

from __future__ import annotations

from dataclasses import replace

from unit.torture_records import LIMIT_S, ask, broken, ended, fault, history, killed, run

from rqproc.lab.torture.figures import figures
from rqproc.lab.torture.limits import SOON_S, STUCK_AFTER_S
from rqproc.lab.torture.records import Stop

GIVEN_UP_S = LIMIT_S + STUCK_AFTER_S
TOLD_S = GIVEN_UP_S + SOON_S

STUCK = run(1.0, 4.0, key="limited:1", tag="r1")
"""A thread that cannot be ended."""
CANCELLED = run(1.0, 1.0 + LIMIT_S, key="alimited:1", tag="r1")
SHORT = run(1.0, 1.05, key="limited:1", tag="r1")


def late(asked: float, answered: float, key: str = "limited:1") -> object:
    return ask(asked, answered, key=key, tag="r1", error="HandlerTimeout")


# --- in time ---


def test_a_caller_is_told_when_its_run_takes_too_long() -> None:
    assert broken(STUCK, late(0.9, 1.0 + GIVEN_UP_S)) == []
    assert broken(STUCK, late(0.9, 1.0 + TOLD_S + 0.1)) == ["overdue told"]


def test_who_waits_behind_it_is_told_as_well() -> None:
    behind = ask(1.2, 1.0 + GIVEN_UP_S, key="limited:1", tag="r2", error="HandlerTimeout")
    assert broken(STUCK, behind) == []
    assert broken(STUCK, replace(behind, answered=1.0 + TOLD_S + 0.1)) == ["overdue told"]


def test_who_comes_later_is_told_at_once() -> None:
    assert broken(STUCK, late(2.0, 2.1)) == []
    assert broken(STUCK, late(2.0, 2.0 + SOON_S + 0.1)) == ["overdue told"]


def test_who_gets_the_value_of_a_run_that_took_too_long_was_not_told() -> None:
    assert broken(STUCK, ask(0.9, 4.1, STUCK)) == ["overdue told"]


def test_who_was_never_told_is_found() -> None:
    assert broken(STUCK, ask(0.9, None, key="limited:1", tag="r1")) == ["in time", "overdue told"]


def test_a_fault_may_keep_a_caller_from_being_told() -> None:
    told = late(0.9, 1.0 + TOLD_S + 0.1)
    assert broken(STUCK, told, fault("stall", 1.4, 2.0)) == []
    assert broken(STUCK, told, fault("join", 1.4, 2.0)) == ["overdue told"]


def test_what_has_no_limit_may_take_long() -> None:
    made = run(1.0, 4.0, tag="r1")
    assert broken(made, ask(0.9, 4.1, made)) == []


# --- only then ---


def test_a_handler_timeout_where_no_run_took_too_long_is_found() -> None:
    assert broken(SHORT, late(0.9, 1.1)) == ["only overdue"]
    assert broken(STUCK, late(0.5, 1.0 + LIMIT_S - 0.1)) == ["only overdue"]


def test_the_overdue_run_of_another_key_is_no_reason() -> None:
    assert broken(replace(STUCK, key="limited:2"), late(0.9, 1.6)) == ["only overdue"]


def test_one_that_ended_before_the_request_was_sent_is_no_reason() -> None:
    """But its node may hear of its end a moment later."""
    assert broken(STUCK, late(4.1, 4.2)) == []
    assert broken(STUCK, late(4.3, 4.4)) == ["only overdue"]
    assert broken(STUCK, late(4.3, 4.4), Stop(1, 4.0, 4.2), fault("pause", 4.0, 4.2)) == []


def test_a_stop_of_its_process_counts_towards_a_runs_time() -> None:
    stop, pause = Stop(1, 0.6, 0.95), fault("pause", 0.6, 0.95)
    assert broken(SHORT, late(0.4, 1.2), stop, pause) == []
    assert broken(SHORT, late(0.4, 1.2), replace(stop, pid=2), pause) == ["only overdue"]


def test_a_resource_without_a_limit_never_ends_in_a_handler_timeout() -> None:
    found = broken(run(1.0, 4.0), ask(0.9, 1.6, key="charge:1", error="HandlerTimeout"))
    assert found == ["named errors", "only overdue"]


# --- what becomes of the run ---


def test_a_coroutine_that_is_cancelled_is_lawful() -> None:
    assert broken(CANCELLED, late(0.9, 1.1 + LIMIT_S, "alimited:1")) == []


def test_a_coroutine_that_works_on_is_found() -> None:
    on = replace(CANCELLED, ended=1.0 + LIMIT_S + SOON_S + 0.1)
    told = late(0.9, 1.1 + LIMIT_S, "alimited:1")
    assert broken(on, told) == ["coroutines cancelled"]
    assert broken(on, told, fault("pause", 1.1, 1.2)) == []


def test_an_id_that_is_begun_again_while_its_stuck_run_goes_on_is_found() -> None:
    told = late(0.9, 1.6)
    after, within = (run(at, at + 0.1, key="limited:1", tag="r2", pid=2) for at in (4.0, 2.0))
    assert broken(STUCK, told, after) == []
    assert broken(STUCK, told, within) == ["serial"]


def test_it_may_be_begun_again_once_the_process_has_ended() -> None:
    cut, told = replace(STUCK, ended=None), late(0.9, 1.6)
    again = run(2.5, 2.6, key="limited:1", tag="r2", pid=2)
    assert broken(cut, told, killed(2.4), again) == []
    assert broken(cut, told, killed(2.6), again) == ["serial"]
    outage = fault("stall", 2.0, 2.4)
    assert broken(cut, told, ended(2.4), again, outage, strict=True) == []


def test_runs_that_take_too_long_are_counted() -> None:
    short = run(5.0, 5.1, key="limited:1")
    found = figures(history(STUCK, CANCELLED, short, run(1.0, 9.0)))
    assert found.overdue == 2
