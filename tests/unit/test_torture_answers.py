"""The judge of a torture on answers: each crime is found, and what is lawful is let be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.torture_records import TTL_S, ask, broken, ended, fault, killed, run, value_of

from rqproc.lab.torture.answers import RETURN_S, SLACK_S
from rqproc.lab.torture.records import PUT, Ask, How, ObservedRun, Stop

MADE = run(1.0, 1.1, tag="r1")
KEPT = run(1.0, 1.1, key="kept:1")
OUTAGE = fault("stall", 0.0, 0.5)


def test_a_request_with_the_value_of_its_own_run_is_lawful() -> None:
    assert broken(MADE, ask(0.9, 1.2, MADE)) == []


# --- in time, and named ---


def test_a_request_that_never_came_back_is_found() -> None:
    assert broken(ask(1.0, None)) == ["in time"]


def test_a_request_that_ends_past_its_deadline_is_found() -> None:
    late = ask(1.0, 9.0 + SLACK_S + 0.01, error="RequestTimeout")
    assert broken(late, fault("stall", 0.0, 9.0)) == ["in time"]
    assert broken(replace(late, answered=9.0 + SLACK_S - 0.01), fault("stall", 0.0, 9.0)) == []


@pytest.mark.parametrize("error", ["NoLiveNode", "RedisUnavailable", "NodeLost", "Overloaded"])
def test_an_error_with_a_name_and_a_reason_is_lawful(error: str) -> None:
    assert broken(ask(0.2, 0.3, error=error), OUTAGE) == []


@pytest.mark.parametrize("error", ["HandlerFailed", "ConnectionError", "KeyError", "InvalidId"])
def test_any_other_error_is_found(error: str) -> None:
    assert broken(ask(0.2, 0.3, error=error), OUTAGE) == ["named errors"]


def test_an_error_while_nothing_happens_is_found() -> None:
    assert broken(ask(5.0, 5.1, error="NoLiveNode"), OUTAGE) == ["no needless errors"]


@pytest.mark.parametrize("kind", ["join", "drain"])
def test_a_join_or_a_drain_may_cost_nobody_an_error(kind: str) -> None:
    found = broken(ask(5.0, 5.1, error="RequestTimeout"), fault(kind, 5.0, 5.1))
    assert found == ["no needless errors"]


@pytest.mark.parametrize("kind", ["kill", "pause", "half-close", "drop", "mute", "delay"])
def test_what_some_nodes_suffer_leaves_others_alive(kind: str) -> None:
    some = fault(kind, 5.0, 5.1)
    found = broken(ask(5.0, 5.1, error="NoLiveNode"), some)
    assert found == ["no needless errors"]
    assert broken(ask(5.0, 5.1, error="NoLiveNode"), replace(some, total=True)) == []


@pytest.mark.parametrize("kind", ["kill", "pause", "half-close", "delay"])
def test_a_server_that_answers_is_not_unavailable(kind: str) -> None:
    found = broken(ask(5.0, 5.1, error="RedisUnavailable"), fault(kind, 5.0, 5.1))
    assert found == ["no needless errors"]


@pytest.mark.parametrize("kind", ["restart", "wipe", "stall"])
@pytest.mark.parametrize("error", ["NoLiveNode", "RedisUnavailable"])
def test_a_fault_of_the_server_may_cost_either(kind: str, error: str) -> None:
    assert broken(ask(5.0, 5.1, error=error), fault(kind, 5.0, 5.1)) == []


def test_a_request_that_waits_too_long_behind_others_may_time_out() -> None:
    late = ask(5.0, 7.0, error="RequestTimeout", timeout_s=2.0)
    assert broken(run(4.9, 6.4), late) == []
    assert broken(run(4.9, 5.4), late) == ["no needless errors"]
    assert broken(run(4.9, 6.4, key="charge:2"), late) == ["no needless errors"]


def test_a_request_that_grants_less_than_a_second_may_time_out() -> None:
    assert broken(ask(5.0, 5.5, error="RequestTimeout", timeout_s=0.5)) == []
    assert broken(ask(5.0, 5.5, error="NoLiveNode", timeout_s=0.5)) == ["no needless errors"]


def test_a_server_that_is_silent_for_long_may_seem_away_to_who_has_little_time() -> None:
    silent = ask(5.0, 6.5, error="RedisUnavailable", timeout_s=0.5)
    assert broken(silent) == []
    assert broken(replace(silent, answered=6.3)) == ["no needless errors"]
    assert broken(replace(silent, timeout_s=1.0)) == ["no needless errors"]


# --- true ---


def test_the_value_of_another_request_is_found() -> None:
    other = run(1.2, 1.3, tag="r2")
    wrong = replace(ask(0.9, 1.4, MADE), value=value_of(other))
    assert broken(MADE, other, wrong) == ["true values"]


def test_the_value_of_another_key_is_found() -> None:
    wrong = replace(ask(0.9, 1.4, KEPT), key="kept:2")
    assert broken(KEPT, wrong) == ["true values"]


def test_a_value_that_no_run_made_is_found() -> None:
    assert broken(ask(0.9, 1.2, MADE)) == ["true values"]


def test_a_value_of_a_run_that_never_ended_is_found() -> None:
    cut = replace(MADE, ended=None)
    assert broken(cut, killed(1.1), ask(0.9, 1.2, MADE)) == ["true values"]


def test_a_value_that_came_before_its_run_had_ended_is_found() -> None:
    assert broken(MADE, ask(0.9, 1.05, MADE)) == ["true values"]


def test_a_value_of_a_run_that_another_had_taken_over_from_is_found() -> None:
    stop = Stop(1, 1.1, 2.9)
    paused, second = run(1.0, 3.0, tag="r1", token=1), run(2.5, 2.6, tag="r1", token=2, pid=2)
    pause = fault("pause", 1.1, 2.9)
    assert broken(paused, second, stop, pause, ask(0.9, 3.1, paused)) == ["true values"]
    assert broken(paused, second, stop, pause, ask(0.9, 3.1, second)) == []


# --- jobs ---

JOB = ask(1.0, None, how="enqueue", tag="r1", timeout_s=0.0, accepted=1.1)


def test_a_job_that_was_accepted_and_has_no_result_is_found() -> None:
    assert broken(JOB) == ["nothing lost"]


def test_it_is_lawful_if_the_server_lost_its_data_since() -> None:
    assert broken(JOB, fault("wipe", 3.0, 3.1)) == []
    assert broken(JOB, fault("wipe", 0.5, 0.6)) == ["nothing lost"]
    assert broken(JOB, fault("restart", 3.0, 3.1)) == ["nothing lost"]


def test_a_job_that_was_not_accepted_may_be_forgotten() -> None:
    refused = replace(JOB, accepted=None, answered=1.2, error="RedisUnavailable")
    assert broken(refused, fault("stall", 1.0, 1.1)) == []


# --- fresh ---


def test_a_value_within_its_ttl_is_lawful() -> None:
    assert broken(KEPT, ask(1.1 + TTL_S, 1.2 + TTL_S, KEPT)) == []


def test_a_value_past_its_ttl_when_it_was_asked_for_is_found() -> None:
    asked = 1.1 + TTL_S + RETURN_S + 0.01
    assert broken(KEPT, ask(asked, asked + 0.1, KEPT)) == ["fresh"]


def test_an_answer_may_be_long_on_its_way() -> None:
    assert broken(KEPT, ask(1.5, 7.0, KEPT)) == []


def test_a_value_whose_process_was_stopped_after_making_it_may_be_as_much_older() -> None:
    asked = 1.1 + TTL_S + RETURN_S + 0.5
    assert broken(KEPT, Stop(1, 1.1, 1.7), ask(asked, asked, KEPT)) == []
    assert broken(KEPT, Stop(2, 1.1, 1.7), ask(asked, asked, KEPT)) == ["fresh"]


def test_an_older_value_than_one_that_was_given_before_is_found() -> None:
    later = run(1.3, 1.4, key="kept:1", pid=2)
    answers = (ask(1.3, 1.5, later), ask(1.6, 1.7, KEPT))
    assert broken(KEPT, later, *answers) == ["never back"]


def test_who_asked_before_the_later_value_was_given_may_get_the_older_one() -> None:
    later = run(1.3, 1.4, key="kept:1", pid=2)
    assert broken(KEPT, later, ask(1.3, 1.5, later), ask(1.45, 1.7, KEPT)) == []


def test_a_value_from_before_an_invalidation_is_found() -> None:
    dropped = ask(1.2, 1.3, key="kept:1", how="invalidate")
    assert broken(KEPT, dropped, ask(1.4, 1.5, KEPT)) == ["never back"]
    assert broken(KEPT, dropped, ask(1.25, 1.5, KEPT)) == []


@pytest.mark.parametrize("how", ["flush", "refresh", "set"])
def test_a_value_from_before_what_drops_it_is_found(how: How) -> None:
    dropped = ask(1.2, 1.3, key="kept:1", how=how)
    assert broken(KEPT, dropped, ask(1.4, 1.5, KEPT)) == ["never back"]
    assert broken(KEPT, dropped, ask(1.25, 1.5, KEPT)) == []


# --- values that are renewed, put and counted ---


def test_an_old_value_is_lawful_for_a_while_where_it_is_marked() -> None:
    made = run(1.0, 1.1, key="renewed:1")
    old = replace(value_of(made), stale=True)
    asked, until = 1.1 + TTL_S + 0.5, 1.1 + TTL_S + RETURN_S
    stale_s = {"renewed": 1.0}
    assert broken(made, replace(ask(asked, asked, made), value=old), stale_s=stale_s) == []
    assert broken(made, ask(asked, asked, made), stale_s=stale_s) == ["fresh"], "unmarked"
    later = replace(ask(until + 1.01, until + 1.02, made), value=old)
    assert broken(made, later, stale_s=stale_s) == ["fresh"]


def test_a_value_that_was_put_counts_from_when_its_caller_was_answered() -> None:
    made = run(1.0, 1.0, key="kept:1", token=PUT, pid=99)
    put = ask(1.0, 3.0, made, how="set")
    asked = 3.0 + TTL_S + RETURN_S
    assert broken(made, put, ask(asked - 0.01, asked, made)) == []
    assert broken(made, put, ask(asked + 0.01, asked + 0.02, made)) == ["fresh"]
    between = run(2.0, 2.1, key="kept:1")
    assert broken(made, put, between, ask(2.0, 2.2, between), ask(3.1, 3.2, made)) == []
    assert broken(made, put, between, ask(2.0, 2.2, between), ask(3.1, 3.2, between)) == []


def test_a_value_that_was_put_is_no_run() -> None:
    made = run(1.05, 1.05, key="kept:1", token=PUT, pid=99)
    assert broken(made, KEPT, run(1.2, 1.3, key="kept:1")) == []


def test_a_value_made_anew_from_before_that_was_asked_is_found() -> None:
    assert broken(KEPT, ask(0.9, 1.2, KEPT, how="refresh")) == []
    assert broken(KEPT, ask(1.05, 1.2, KEPT, how="refresh")) == ["refreshed"]


def test_an_object_that_forgets_calls_is_found() -> None:
    first, second = run(1.0, 1.1, key="tally:1"), run(1.3, 1.4, key="tally:1", pid=2)

    def call(asked: float, answered: float, made: ObservedRun, count: int) -> Ask:
        return replace(ask(asked, answered, made), value=replace(value_of(made), count=count))

    one, two = call(0.9, 1.2, first, 1), call(1.3, 1.5, second, 2)
    assert broken(first, second, one, two) == []
    again = call(1.3, 1.5, second, 1)
    assert broken(first, second, one, again) == ["counted"]
    assert broken(first, second, one, again, fault("wipe", 1.15, 1.2)) == []
    assert broken(first, second, one, call(1.15, 1.5, second, 1)) == [], "asked at once"
    assert broken(first, second, one, call(1.3, 1.5, second, 0)) == [], "not surely kept"


# --- the cluster ---


def test_ids_that_are_not_answered_again_are_found() -> None:
    assert broken(replace(OUTAGE, recovered=None)) == ["recovers"]


def test_a_node_that_ends_unasked_is_found() -> None:
    assert broken(ended(1.0)) == ["ends when told"]


def test_a_strict_node_may_end_itself_for_a_reason() -> None:
    assert broken(ended(1.0), OUTAGE) == ["ends when told"]
    assert broken(ended(1.0), OUTAGE, strict=True) == []
    assert broken(ended(9.0), OUTAGE, strict=True) == ["ends when told"]


def test_a_drain_that_nothing_disturbs_ends_with_0() -> None:
    drained = replace(ended(1.0, code=0), drained=True)
    assert broken(drained) == []
    assert broken(replace(drained, code=1)) == ["ends when told"]
    assert broken(replace(drained, code=1), OUTAGE) == []


def test_keys_and_processes_that_stay_are_found() -> None:
    assert broken(left_keys=("rqproc:torture:holders",)) == ["leaves nothing"]
    assert broken(left_pids=(17,)) == ["leaves nothing"]
