"""When a caller asks again, for how long, and when it gives up: steps taken by hand."""

from __future__ import annotations

import random

import pytest
from made_calls import BEGAN, a_call, answer, rest

from rqproc.calls.call import Call
from rqproc.calls.retry import (
    GRACE_S,
    NUDGE_S,
    OUTAGE_S,
    Look,
    Patience,
    Pause,
    Steps,
    first_look,
    persevere,
)
from rqproc.errors import RedisUnavailable
from rqproc.model import OnLost
from rqproc.protocol.answer_codec import Answer
from rqproc.transport.connection import ConnectionLost, Refused

CUT = ConnectionLost("cut")
NOFUNCTION = Refused("ERR Function not found")
NOBODY = Answer("error", report={"type": "NoLiveNode"})


class Caller:
    """One who was not answered at the first look."""

    def __init__(self) -> None:
        self.now = BEGAN
        self.chance = random.Random(1).random
        self.call = a_call(1, 2)
        self._steps: Steps

    def ask(
        self, timeout_s: float = 10.0, *, on_lost: OnLost = "wait", carried: bool = True
    ) -> Look:
        """Ask; the first look is over with nothing. Return what is done then."""
        self.call = a_call(1, 2, timeout_s=timeout_s, on_lost=on_lost)
        self.now = BEGAN + first_look(self.call).wait_s
        self.call.carried = self.call.heard = carried
        return self._look(self._begin(None))

    def fail_at_first(
        self, error: ConnectionLost | Refused, *, timeout_s: float = 10.0, on_lost: OnLost = "wait"
    ) -> Pause:
        """Ask; the first look fails at once."""
        self.now = BEGAN
        self.call = a_call(1, 2, timeout_s=timeout_s, on_lost=on_lost)
        return self._pause(self._begin(error))

    def _begin(self, error: ConnectionLost | Refused | None) -> Look | Pause | None:
        self._steps = persevere(
            self.call, error, began=BEGAN, server="there", clock=lambda: self.now,
            chance=self.chance,
        )  # fmt: skip
        return self.next()

    def next(self) -> Look | Pause | None:
        return next(self._steps, None)

    @staticmethod
    def _look(step: Look | Pause | None) -> Look:
        assert isinstance(step, Look)
        return step

    @staticmethod
    def _pause(step: Look | Pause | None) -> Pause:
        assert isinstance(step, Pause)
        return step

    def wait(self, seconds: float, *, heard: bool = True) -> Look:
        """So long nothing comes; return the next look."""
        self.now += seconds
        self.call.heard = heard
        return self._look(self.next())

    def pause(self, error: ConnectionLost | Refused) -> Pause:
        """The look fails; return the pause after it."""
        return self._pause(self._steps.throw(error))

    def fail(self, error: ConnectionLost | Refused) -> Look:
        """The look fails, and the pause after it passes; return the next look."""
        self.now += self.pause(error).seconds
        return self._look(self.next())

    def ends(self) -> Call:
        assert self.next() is None
        return self.call

    def fail_for_ever(self, error: ConnectionLost | Refused) -> None:
        while self.now < BEGAN + 1000:
            self.fail(error)

    def outage(self, error: ConnectionLost) -> float:
        """Each look fails; return how long that is borne."""
        began = self.now
        with pytest.raises(RedisUnavailable):
            self.fail_for_ever(error)
        return self.now - began


@pytest.fixture
def caller() -> Caller:
    return Caller()


# --- who waits ---


def test_the_first_look_is_as_long_as_one_does_not_ask_again() -> None:
    assert first_look(a_call()) == Look(NUDGE_S, GRACE_S)
    assert first_look(a_call(timeout_s=1.0)) == Look(0.25, GRACE_S)


def test_whoever_waits_asks_again_from_time_to_time(caller: Caller) -> None:
    assert caller.ask() == Look(NUDGE_S, GRACE_S, again=True)
    assert caller.wait(NUDGE_S) == Look(NUDGE_S, GRACE_S, again=True)


def test_all_answers_end_it(caller: Caller) -> None:
    caller.ask()
    for place in (0, 1):
        caller.call.take(place, rest(answer("x")))
    assert caller.ends().left == 0


def test_a_look_that_ends_early_is_gone_on_with_and_nothing_is_asked(caller: Caller) -> None:
    caller.ask()
    look = caller.wait(1.5)
    assert look.wait_s == pytest.approx(0.5)
    assert not look.again
    assert caller.wait(0.5).again


def test_the_last_look_ends_at_the_deadline(caller: Caller) -> None:
    caller.ask()
    assert caller.wait(7.5).wait_s == pytest.approx(0.5)


def test_answers_that_did_not_come_by_the_deadline_are_missing(caller: Caller) -> None:
    caller.ask()
    caller.call.take(1, rest(answer("x")))
    caller.now = BEGAN + 10.0
    assert caller.ends().missing() == [0]


def test_whoever_waits_withdraws_nothing(caller: Caller) -> None:
    caller.ask()
    assert not any(caller.wait(NUDGE_S).withdraw for _ in range(3))


def test_where_nobody_lived_last_that_is_the_answer_at_the_deadline(caller: Caller) -> None:
    caller.ask()
    caller.call.take(0, rest(answer("x")))
    caller.call.no_node_answers = {1: NOBODY}
    assert caller.wait(NUDGE_S).again
    caller.now = BEGAN + 10.0
    call = caller.ends()
    assert call.answers == [rest(answer("x")), NOBODY]


# --- who does not want to wait ---


@pytest.mark.parametrize("on_lost", ["error", "local"])
def test_from_half_of_the_timeout_on_what_is_lost_is_withdrawn(
    caller: Caller, on_lost: OnLost
) -> None:
    look = caller.ask(on_lost=on_lost)
    assert (look.again, look.withdraw) == (True, False)
    look = caller.wait(NUDGE_S)
    assert (look.again, look.withdraw) == (True, False)
    assert look.wait_s == 1.0, "the next one is at half of the timeout"
    for left_s in (5.0, 3.0, 1.0):
        caller.now = BEGAN + 10.0 - left_s
        look = caller.wait(0.0)
        assert (look.again, look.withdraw) == (True, True)


@pytest.mark.parametrize("timeout_s", [0.1, 1.0, 4.0, 10.0, 60.0])
def test_who_does_not_want_to_wait_knows_of_an_outage_by_half_of_the_timeout(
    caller: Caller, timeout_s: float
) -> None:
    """Whether connections are refused, or the server stands still; and after 3 s at most."""
    limit_s = min(timeout_s / 2, OUTAGE_S)
    caller.now += caller.fail_at_first(CUT, timeout_s=timeout_s, on_lost="error").seconds
    caller.next()
    caller.outage(CUT)
    assert caller.now - BEGAN <= limit_s
    look = first_look(caller.call)
    assert look.connect_s <= limit_s
    with pytest.raises(RedisUnavailable):
        caller.fail_at_first(
            ConnectionLost("it does not answer", spent_s=limit_s),
            timeout_s=timeout_s,
            on_lost="error",
        )


def test_who_does_not_want_to_wait_does_not_wait_out_an_outage_later_either(caller: Caller) -> None:
    caller.ask(on_lost="error")
    assert caller.outage(CUT) < OUTAGE_S


# --- outages ---


def test_after_a_lost_connection_it_is_asked_again_at_once(caller: Caller) -> None:
    caller.ask()
    caller.now += 0.3
    look = caller.fail(CUT)
    assert look.again
    assert not caller.call.heard


def test_an_outage_ends_after_3_s_if_the_server_never_had_the_call(caller: Caller) -> None:
    caller.now += caller.fail_at_first(CUT).seconds
    caller.next()
    caller.outage(CUT)
    assert OUTAGE_S <= caller.now - BEGAN < OUTAGE_S + 0.6


def test_once_the_server_has_had_a_call_an_outage_is_waited_out_to_the_deadline(
    caller: Caller,
) -> None:
    caller.ask()
    caller.outage(CUT)
    assert caller.now == pytest.approx(BEGAN + 10.0)


def test_a_pause_does_not_outlast_the_deadline(caller: Caller) -> None:
    caller.ask(timeout_s=1.0)
    for _ in range(1000):
        pause = caller.pause(CUT)
        assert caller.now + pause.seconds <= BEGAN + 1.0
        caller.now += pause.seconds
        if caller.now >= BEGAN + 1.0:
            break
        caller.next()
    with pytest.raises(RedisUnavailable, match="cut"):
        caller.next()


def test_the_time_that_was_waited_in_vain_counts(caller: Caller) -> None:
    with pytest.raises(RedisUnavailable, match="no route"):
        caller.fail_at_first(ConnectionLost("no route", spent_s=OUTAGE_S))


def test_an_outage_that_has_passed_is_not_told_at_the_deadline(caller: Caller) -> None:
    caller.ask()
    caller.fail(CUT)
    caller.call.heard = True
    caller.now = BEGAN + 10.0
    assert caller.ends().left == 2


def test_an_outage_is_not_over_because_a_look_ended_in_which_nothing_was_heard(
    caller: Caller,
) -> None:
    caller.ask()
    caller.fail(CUT)
    caller.now = BEGAN + 10.0
    with pytest.raises(RedisUnavailable, match="cut"):
        caller.next()


def test_what_is_heard_in_between_begins_the_outage_anew(caller: Caller) -> None:
    caller.ask(timeout_s=60.0, carried=False)
    for _ in range(3):
        caller.call.carried = False
        until = caller.now + OUTAGE_S * 0.7
        while caller.now < until:
            caller.fail(CUT)
        caller.wait(0.0)
    assert caller.now > BEGAN + OUTAGE_S


def test_pauses_differ_and_stay_short(caller: Caller) -> None:
    """Those whom one outage has hit do not come back all at the same moments."""
    runs: list[list[float]] = []
    for _ in range(2):
        caller.ask(timeout_s=1000.0)
        runs.append([])
        for _ in range(30):
            runs[-1].append(caller.pause(CUT).seconds)
            caller.next()
    assert runs[0] != runs[1]
    assert all(0.01 <= pause <= 0.5 for pause in runs[0])


def test_what_is_heard_makes_pauses_short_again(caller: Caller) -> None:
    caller.ask()
    for _ in range(30):
        caller.pause(CUT)
        caller.next()
    caller.wait(0.0)
    assert caller.pause(CUT).seconds <= 0.03


# --- refusals ---


@pytest.mark.parametrize("reason", ["MISCONF no", "OOM no", "NOPERM no", "WRONGTYPE no", "ERR x"])
def test_a_refusal_that_will_not_pass_ends_it_at_once(caller: Caller, reason: str) -> None:
    with pytest.raises(RedisUnavailable, match=reason):
        caller.fail_at_first(Refused(reason))
    caller.ask()
    with pytest.raises(RedisUnavailable, match=reason):
        caller.pause(Refused(reason))


@pytest.mark.parametrize(
    "reason", ["LOADING x", "BUSY x", "TRYAGAIN x", "MASTERDOWN x", "READONLY x", "CLUSTERDOWN x"]
)
def test_a_refusal_that_will_pass_is_waited_for(caller: Caller, reason: str) -> None:
    caller.ask()
    assert caller.fail(Refused(reason)).again


def test_what_is_told_has_the_advice_for_this_very_trouble(caller: Caller) -> None:
    with pytest.raises(RedisUnavailable, match=r"OOM no\. Free some .* `maxmemory`$"):
        caller.fail_at_first(Refused("OOM no."))
    caller.ask(timeout_s=1.0)
    with pytest.raises(RedisUnavailable, match=r"READONLY no. If .* redis\+sentinel://"):
        caller.fail_for_ever(Refused("READONLY no"))


def test_a_server_without_the_functions_is_asked_again_at_once(caller: Caller) -> None:
    """The packet that carries the calls brings it the functions."""
    assert caller.fail_at_first(NOFUNCTION).seconds == 0.0
    assert caller.next()
    assert caller.pause(NOFUNCTION).seconds > 0.0, "that did not help"


def test_patience_is_told_from_when_the_failing_began() -> None:
    now = [0.0]
    patience = Patience("there", lambda: now[0], chance=lambda: 0.5)
    patience.after(CUT)
    now[0] = OUTAGE_S - 0.5
    assert patience.after(CUT).seconds <= 0.5
    now[0] = OUTAGE_S
    with pytest.raises(RedisUnavailable):
        patience.after(CUT)
    patience.renew()
    assert patience.after(CUT).seconds > 0.0
