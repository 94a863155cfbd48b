"""Conversations, driven by hand: what a caller wants done, and when, as long as answers miss."""

from __future__ import annotations

import pytest
from caller import BEGAN, CLUSTER, Caller, answered, asked_for, batch, demanded, nobody

from rqproc import wire
from rqproc.conversation import NUDGE_S, REPLY_GRACE_S, Look
from rqproc.link import LinkLost, Refused
from rqproc.model import OnLost

NOSCRIPT = Refused("NOSCRIPT No matching script.")


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_first_all_calls_are_sent_as_new_ones(caller: Caller) -> None:
    look = caller.ask()
    demand = demanded(look)
    assert (asked_for(demand), demand.timeout_s) == (caller.ids, 10.0)
    assert (demand.again, demand.quiet, demand.withdraw) == (False, False, False)
    assert (look.wait_s, look.grace_s) == (NUDGE_S, REPLY_GRACE_S)


def test_all_answers_end_it(caller: Caller) -> None:
    caller.ask()
    assert caller.answer(0, 1) is None
    assert [caller.answers[id].value for id in caller.ids] == [0, 1]


def test_after_an_answer_it_waits_on_and_asks_for_nothing(caller: Caller) -> None:
    caller.ask()
    caller.now += 1.5
    look = caller.answer(0)
    assert look == Look((), 0.5, REPLY_GRACE_S)
    assert caller.answer(1) is None


def test_after_a_lost_link_the_same_calls_are_sent_again(caller: Caller) -> None:
    caller.ask()
    for _ in range(2):
        demand = demanded(caller.fail(LinkLost("cut")))
        assert asked_for(demand) == caller.ids
        assert demand.again, "the server may know them"
        assert not demand.quiet, "or it may not: then that nobody lives is the answer"


def test_after_a_late_cut_only_what_has_no_answer_is_sent_again(caller: Caller) -> None:
    caller.ask()
    caller.answer(0)
    assert asked_for(demanded(caller.fail(LinkLost("cut")))) == caller.ids[1:]
    assert caller.answer(1) is None
    assert [caller.answers[id].value for id in caller.ids] == [0, 1]


def test_a_cut_that_comes_with_the_last_answer_is_none_of_its_business(caller: Caller) -> None:
    caller.ask()
    for id in caller.ids:
        caller.wanted.take(answered(id))
    with pytest.raises(StopIteration):
        caller.talk.throw(LinkLost("cut"))


def test_a_server_without_the_script_is_asked_again_at_once(caller: Caller) -> None:
    """The switchboard tells it the scripts in the packet that carries the calls."""
    caller.ask()
    assert caller.pause(NOSCRIPT).seconds == 0.0
    assert asked_for(demanded(next(caller.talk))) == caller.ids
    assert caller.pause(NOSCRIPT).seconds > 0.0, "that did not help"


def test_answers_that_did_not_come_by_the_deadline_are_missing(caller: Caller) -> None:
    caller.ask()
    caller.answer(1)
    caller.now += 10.0
    assert caller.hear() is None
    assert list(caller.answers) == [caller.ids[1]]


def test_what_is_sent_again_has_only_the_time_that_is_left(caller: Caller) -> None:
    """Else a node would still run it when its caller has given up."""
    caller.ask()
    caller.now += 4.0
    demand = demanded(caller.fail(LinkLost("cut")))
    assert demand.timeout_s == BEGAN + 10.0 - caller.now < 6.0


def test_one_script_runs_to_its_reply(caller: Caller) -> None:
    assert caller.run().commands == (CLUSTER.survey(),)
    load, again = caller.fail(NOSCRIPT).commands
    assert (load, again) == (CLUSTER.load("survey")[0], CLUSTER.survey())
    with pytest.raises(StopIteration) as stop:
        caller.talk.send([b"sha", [1, [], []]])
    assert stop.value.value == [1, [], []]


# --- nudges ---


def test_whoever_waits_sends_the_calls_without_an_answer_again(caller: Caller) -> None:
    caller.ask()
    caller.answer(0)
    for left_s in (8.0, 6.0):
        look = caller.wait(NUDGE_S)
        demand = demanded(look)
        assert (asked_for(demand), demand.timeout_s) == (caller.ids[1:], left_s)
        assert (demand.again, demand.quiet, demand.withdraw) == (True, True, False)
        assert look.wait_s == NUDGE_S


def test_an_answer_between_two_nudges_does_not_put_the_next_one_off(caller: Caller) -> None:
    caller.ask()
    caller.now += 1.9
    look = caller.answer(0)
    assert look
    assert look.wait_s == pytest.approx(0.1)
    assert asked_for(demanded(caller.wait(0.1))) == caller.ids[1:]


def test_short_waits_have_short_slices(caller: Caller) -> None:
    caller.batch = batch(1, timeout_s=1.0)
    look = caller.ask()
    assert (look.wait_s, look.grace_s) == (0.25, REPLY_GRACE_S)


def test_the_last_slice_ends_at_the_deadline(caller: Caller) -> None:
    caller.ask()
    assert caller.wait(9.5).wait_s == pytest.approx(0.5)


def test_calls_that_ask_alike_wait_alike(caller: Caller) -> None:
    """Else they would not go out in one call of the script."""
    waits = set()
    for number in range(100):
        caller.now = 50_000.0 + number * 0.0137
        look = caller.ask()
        waits.add((demanded(look).timeout_s, look.grace_s))
    assert waits == {(10.0, REPLY_GRACE_S)}


def test_where_nobody_lives_a_call_that_is_new_is_told_so(caller: Caller) -> None:
    caller.ask()
    assert caller.hear(*map(nobody, caller.ids)) is None
    assert [caller.answers[id].report for id in caller.ids] == [{"type": "NoLiveNode"}] * 2


def test_where_nobody_lives_any_more_a_known_call_goes_on_being_asked_for(caller: Caller) -> None:
    """The server has lost its data, and the nodes have not joined anew yet."""
    caller.ask()
    caller.wait(NUDGE_S)
    for _ in range(3):
        caller.wanted.nobody = {id: nobody(id) for id in caller.ids}
        demand = demanded(caller.wait(NUDGE_S))
        assert (asked_for(demand), demand.quiet) == (caller.ids, True)
    assert caller.answer(0, 1) is None
    assert [caller.answers[id].value for id in caller.ids] == [0, 1]


def test_where_nobody_lived_last_that_is_the_answer_at_the_deadline(caller: Caller) -> None:
    caller.ask()
    caller.wait(NUDGE_S)
    caller.answer(0)
    caller.wanted.nobody = {caller.ids[1]: nobody(caller.ids[1])}
    caller.now = BEGAN + 10.0
    assert caller.hear() is None
    assert caller.answers[caller.ids[0]].value == 0
    assert caller.answers[caller.ids[1]].report == {"type": "NoLiveNode"}


# --- who does not want to wait ---


@pytest.mark.parametrize("on_lost", ["error", "local"])
def test_from_half_of_the_timeout_on_calls_are_withdrawn_before_they_are_asked_for_again(
    caller: Caller, on_lost: OnLost
) -> None:
    caller.on_lost = on_lost
    caller.ask()
    assert not demanded(caller.wait(NUDGE_S)).withdraw
    look = caller.wait(NUDGE_S)
    assert not demanded(look).withdraw
    assert look.wait_s == 1.0, "the next one is at half of the timeout"
    for left_s in (5.0, 3.0, 1.0):
        caller.now = BEGAN + 10.0 - left_s
        demand = demanded(caller.wait(0.0))
        assert demand.withdraw
        assert (asked_for(demand), demand.timeout_s) == (caller.ids, left_s)


def test_only_calls_without_an_answer_are_withdrawn(caller: Caller) -> None:
    caller.on_lost = "error"
    caller.ask()
    caller.answer(0)
    demand = demanded(caller.wait(5.0))
    assert (asked_for(demand), demand.withdraw) == (caller.ids[1:], True)


def test_who_waits_withdraws_nothing(caller: Caller) -> None:
    caller.ask()
    for _ in range(4):
        assert not demanded(caller.wait(NUDGE_S)).withdraw


def test_the_reason_of_a_withdrawal_is_an_answer(caller: Caller) -> None:
    caller.on_lost = "error"
    caller.ask()
    caller.wait(5.0)
    lost = wire.Answer(caller.ids[0], report={"type": "OwnerLost", "node": "n", "silent_ms": 9})
    assert caller.hear(lost, answered(caller.ids[1])) is None
    assert caller.answers[caller.ids[0]].report == lost.report


def test_who_does_not_want_to_wait_is_told_at_once_that_nobody_lives(caller: Caller) -> None:
    caller.on_lost = "error"
    caller.ask()
    assert not demanded(caller.wait(NUDGE_S)).quiet
    assert caller.hear(*map(nobody, caller.ids)) is None
