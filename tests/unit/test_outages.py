"""How long a caller waits for a server that is away, and what it tells then."""

from __future__ import annotations

import pytest
from caller import Caller, asked_for, batch, demanded

from rqproc.conversation import NUDGE_S, OUTAGE_S
from rqproc.errors import RedisUnavailable
from rqproc.link import LinkLost, Refused


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_after_the_deadline_nothing_is_sent_any_more(caller: Caller) -> None:
    caller.ask()
    caller.pause(LinkLost("cut"))
    caller.now += 10.0
    with pytest.raises(RedisUnavailable, match="cut"):
        next(caller.talk)


def test_an_outage_that_has_passed_is_not_told_at_the_deadline(caller: Caller) -> None:
    caller.ask()
    caller.fail(LinkLost("cut"))
    caller.now += 10.0
    assert caller.hear() is None
    assert caller.answers == {}


def test_an_outage_is_not_over_because_a_look_ended_in_which_nothing_was_heard(
    caller: Caller,
) -> None:
    caller.ask()
    caller.fail(LinkLost("cut"))
    caller.now += 10.0
    with pytest.raises(RedisUnavailable, match="cut"):
        caller.hear(carried=False)


@pytest.mark.parametrize("reason", ["MISCONF no", "OOM no", "NOPERM no", "WRONGTYPE no", "ERR x"])
def test_a_refusal_that_will_not_pass_ends_it_at_once(caller: Caller, reason: str) -> None:
    caller.ask()
    with pytest.raises(RedisUnavailable, match=reason):
        caller.talk.throw(Refused(reason))


@pytest.mark.parametrize(
    "reason", ["LOADING x", "BUSY x", "TRYAGAIN x", "MASTERDOWN x", "READONLY x", "CLUSTERDOWN x"]
)
def test_a_refusal_that_will_pass_is_waited_for(caller: Caller, reason: str) -> None:
    caller.ask()
    assert asked_for(demanded(caller.fail(Refused(reason)))) == caller.ids


def test_what_is_told_has_the_advice_for_this_very_trouble(caller: Caller) -> None:
    caller.ask()
    with pytest.raises(RedisUnavailable, match=r"OOM no\. Free some .* `maxmemory`$"):
        caller.talk.throw(Refused("OOM no."))
    caller.ask()
    with pytest.raises(RedisUnavailable, match=r"READONLY no. If .* redis\+sentinel://"):
        caller.give_up(Refused("READONLY no"))


def test_an_outage_is_waited_out_for_so_long_and_no_longer(caller: Caller) -> None:
    caller.ask()
    assert OUTAGE_S <= caller.outage(LinkLost("refused")) < OUTAGE_S + 0.6
    caller.run()
    assert OUTAGE_S <= caller.outage(LinkLost("refused")) < OUTAGE_S + 0.6


def test_the_time_that_a_connect_has_waited_in_vain_counts(caller: Caller) -> None:
    caller.ask()
    with pytest.raises(RedisUnavailable):
        caller.talk.throw(LinkLost("no route", spent_s=OUTAGE_S))


def test_what_is_heard_in_between_begins_the_outage_anew(caller: Caller) -> None:
    caller.ask()
    for _ in range(2):
        until = caller.now + OUTAGE_S * 0.75
        while caller.now < until:
            caller.fail(LinkLost("cut"))
        caller.wait(0.0)
    assert caller.now - 50.0 > OUTAGE_S


def pauses(caller: Caller, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(caller.pause(LinkLost("cut")).seconds)
        next(caller.talk)
    return found


def test_pauses_differ_and_stay_short(caller: Caller) -> None:
    """Those whom one outage has hit do not come back all at the same moments."""
    caller.run()
    found = pauses(caller, 30)
    caller.run()
    assert pauses(caller, 30) != found
    assert all(0.01 <= pause <= 0.5 for pause in found)


def test_what_is_heard_makes_pauses_short_again(caller: Caller) -> None:
    caller.ask()
    pauses(caller, 30)
    caller.wait(0.0)
    assert pauses(caller, 1)[0] <= 0.03


def test_once_the_server_has_had_a_call_an_outage_is_waited_out(caller: Caller) -> None:
    caller.ask()
    caller.wait(NUDGE_S)
    assert caller.outage(LinkLost("refused")) == pytest.approx(10.0 - NUDGE_S, abs=0.6)


def test_a_server_that_stands_still_is_an_outage_from_when_its_reply_was_due(
    caller: Caller,
) -> None:
    look = caller.ask()
    within_s = look.wait_s + look.grace_s
    caller.now += within_s
    with pytest.raises(RedisUnavailable, match="timed out"):
        caller.talk.throw(LinkLost("timed out", spent_s=within_s))


@pytest.mark.parametrize("timeout_s", [0.1, 1.0, 4.0, 10.0, 60.0])
def test_who_does_not_want_to_wait_knows_of_an_outage_by_half_of_the_timeout(
    caller: Caller, timeout_s: float
) -> None:
    """Whether connections are refused, or the server stands still; and after 3 s at most."""
    limit_s = min(timeout_s / 2, OUTAGE_S)
    caller.on_lost = "error"
    caller.batch = batch(1, timeout_s=timeout_s)
    caller.ask()
    assert caller.outage(LinkLost("refused")) <= limit_s
    look = caller.ask()
    within_s = look.wait_s + look.grace_s
    assert within_s <= limit_s
    with pytest.raises(RedisUnavailable):
        caller.talk.throw(LinkLost("timed out", spent_s=within_s))


def test_who_does_not_want_to_wait_does_not_wait_out_an_outage_later_either(
    caller: Caller,
) -> None:
    caller.on_lost = "error"
    caller.ask()
    caller.wait(NUDGE_S)
    assert caller.outage(LinkLost("refused")) < OUTAGE_S
