"""The judge of a torture on runs: each crime is found, and what is lawful is let be."""

from __future__ import annotations

import pytest
from unit.torture_records import broken, ended, fault, history, killed, run

from rqproc.lab.torture.figures import figures
from rqproc.lab.torture.records import Stop

# --- one at a time ---


def test_runs_of_a_key_one_after_the_other_are_lawful() -> None:
    assert broken(run(1.0, 1.2), run(1.2, 1.3, pid=2), run(1.4, 1.5)) == []


def test_two_runs_of_a_key_that_overlap_are_found() -> None:
    assert broken(run(1.0, 1.2), run(1.1, 1.3, pid=2)) == ["serial"]


def test_an_overlap_within_one_process_is_found_too() -> None:
    assert broken(run(1.0, 1.2), run(1.1, 1.3)) == ["serial"]


def test_runs_of_resources_that_share_a_lane_must_not_overlap_either() -> None:
    runs = run(1.0, 1.2, key="till:1"), run(1.1, 1.3, key="book:1", pid=2)
    assert broken(*runs) == []
    assert broken(*runs, lanes={"till": "tenant", "book": "tenant"}) == ["serial"]


def test_a_long_run_is_held_against_all_that_lie_in_it() -> None:
    found = broken(run(1.0, 2.0), run(1.1, 1.2, pid=2), run(1.5, 1.6, pid=2))
    assert found == ["serial", "serial"]


def test_runs_of_different_keys_may_overlap() -> None:
    assert broken(run(1.0, 1.2), run(1.1, 1.3, key="charge:2")) == []


def test_a_run_that_a_kill_cut_short_lasts_until_the_kill() -> None:
    assert broken(run(1.0), killed(1.5), run(1.5, 1.6, pid=2)) == []
    assert broken(run(1.0), killed(1.5), run(1.4, 1.6, pid=2)) == ["serial"]


def test_a_run_in_a_process_that_ended_itself_lasts_until_shortly_before_that_was_seen() -> None:
    outage = fault("stall", 0.5, 1.5)
    assert broken(run(1.0), ended(1.6), run(1.5, 1.6, pid=2), outage, strict=True) == []
    assert broken(run(1.0), ended(1.6), run(1.4, 1.6, pid=2), outage, strict=True) == ["serial"]


def test_a_run_without_an_end_in_a_process_without_one_never_ends() -> None:
    assert broken(run(1.0), run(9.0, 9.1, pid=2)) == ["serial"]


# --- pauses ---


def test_a_pause_past_the_lease_ends_what_is_held_against_a_run() -> None:
    assert broken(run(1.0, 3.0), Stop(1, 1.1, 2.9), run(2.0, 2.1, pid=2)) == []


def test_what_came_before_such_a_pause_is_still_held_against_it() -> None:
    assert broken(run(1.0, 3.0), Stop(1, 1.5, 2.9), run(1.4, 1.45, pid=2)) == ["serial"]


def test_a_short_pause_excuses_nothing() -> None:
    assert broken(run(1.0, 2.0), Stop(1, 1.1, 1.8), run(1.5, 1.6, pid=2)) == ["serial"]


def test_the_pause_of_another_process_excuses_nothing() -> None:
    assert broken(run(1.0, 3.0), Stop(2, 1.1, 2.9), run(2.0, 2.1, pid=3)) == ["serial"]


def test_a_strict_process_that_works_on_long_after_its_pause_is_found() -> None:
    paused = (run(1.0, 5.0), Stop(1, 1.1, 2.9), run(4.0, 4.1, pid=2))
    assert broken(*paused) == []
    assert broken(*paused, strict=True) == ["serial"]


def test_a_run_that_was_on_its_way_when_its_process_was_paused_is_excused() -> None:
    late = run(2.95, 3.0, token=5)
    assert broken(late, Stop(1, 1.1, 2.9), run(2.9, 3.1, pid=2, token=6)) == []


def test_runs_that_outlive_a_pause_are_counted() -> None:
    stop = Stop(1, 1.1, 2.9)
    assert figures(history(run(1.0, 3.0), run(0.1, 0.2), run(2.95, 3.0), stop)).outlived == 2


# --- tokens ---


@pytest.mark.parametrize("token", [1000, 999])
def test_a_token_that_does_not_rise_is_found(token: int) -> None:
    assert broken(run(1.0, 1.1), run(1.2, 1.3, pid=2, token=token)) == ["tokens rise"]


def test_a_loss_of_data_does_not_excuse_a_lower_token() -> None:
    found = broken(run(1.0, 1.1), fault("wipe", 1.1, 1.2), run(1.2, 1.3, token=3))
    assert found == ["tokens rise"]


def test_tokens_of_different_keys_are_not_compared() -> None:
    assert broken(run(1.0, 1.1), run(1.2, 1.3, key="charge:2", token=3)) == []


# --- attempts ---


def _attempts(count: int) -> list[object]:
    """Runs of one request, each cut short by a kill."""
    found: list[object] = []
    for pid in range(1, count + 1):
        found += [run(pid, tag="r1", pid=pid), killed(pid + 0.5, pid=pid)]
        found.append(fault("kill", pid + 0.5, pid + 0.5))
    return found


def test_three_attempts_are_lawful_and_a_fourth_is_found() -> None:
    assert broken(*_attempts(3)) == []
    assert broken(*_attempts(4)) == ["bounded attempts"]


def test_a_loss_of_data_allows_one_attempt_more() -> None:
    assert broken(*_attempts(4), fault("wipe", 2.0, 2.1)) == []
    assert broken(*_attempts(4), fault("wipe", 9.0, 9.1)) == ["bounded attempts"]


def test_a_request_that_is_run_again_for_no_reason_is_found() -> None:
    again = (run(1.0, 1.1, tag="r1"), run(1.2, 1.3, tag="r1"))
    assert broken(*again) == ["no needless repeats"]
    assert broken(*again, fault("stall", 1.1, 1.15)) == []


@pytest.mark.parametrize("kind", ["join", "drain"])
def test_a_join_or_a_drain_is_no_reason(kind: str) -> None:
    again = (run(1.0, 1.1, tag="r1"), run(1.2, 1.3, tag="r1"))
    assert broken(*again, fault(kind, 1.1, 1.15)) == ["no needless repeats"]
