"""Conversations, driven by hand: what is said next after each thing that can go wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import pytest

from rqproc import calls, wire
from rqproc.cluster import Cluster
from rqproc.conversation import (
    NUDGE_S,
    OUTAGE_S,
    REPLY_GRACE_S,
    Conversation,
    Pause,
    Send,
    ask,
    run,
)
from rqproc.errors import RedisUnavailable
from rqproc.keys import Keys, results_key
from rqproc.link import Command, LinkLost, Refused
from rqproc.model import OnLost, Request
from rqproc.wanted import Wanted

CLUSTER = Cluster(Keys("shop"))
NOSCRIPT = Refused("NOSCRIPT No matching script.")

Entry = tuple[bytes, list[bytes]]


class Caller:
    """Carries a conversation out by hand, on a clock that only it moves."""

    def __init__(self) -> None:
        self.now = 50.0
        self.on_lost: OnLost = "wait"
        self.batch = calls.batch(
            [Request("price", id) for id in (1, 2)], kind="call", timeout_s=10.0
        )
        self.talk: Conversation[Any] = iter(())  # type: ignore[assignment]

    def ask(self, *, litter: Sequence[str] = ()) -> Send:
        self.wanted = Wanted(self.batch.order)
        self.talk = ask(
            CLUSTER,
            self.wanted,
            litter=litter,
            server="there",
            clock=lambda: self.now,
            on_lost=self.on_lost,
        )
        return self.sent(next(self.talk))

    def run(self) -> Send:
        command = CLUSTER.survey()
        self.talk = run(CLUSTER, "survey", command, server="there", clock=lambda: self.now)
        return self.sent(next(self.talk))

    def sent(self, step: Send | Pause) -> Send:
        assert isinstance(step, Send)
        return step

    def fail(self, error: Exception) -> Send:
        """The packet fails; the pause that follows passes; return what is sent then."""
        pause = self.talk.throw(error)
        assert isinstance(pause, Pause)
        self.now += pause.seconds
        return self.sent(next(self.talk))

    def answer(self, *places: int, nothing: bool = False) -> Send | dict[str, wire.Answer]:
        """The server answers with entries for these jobs; return the next step, or the end."""
        return self.hear({0: [self.entry(place) for place in places]} if not nothing else {})

    def refuse(self, *places: int, stream: int = 0) -> Send | dict[str, wire.Answer]:
        """The server says that nobody lives."""
        return self.hear({stream: [self.refusal(place) for place in places]})

    def hear(self, entries: dict[int, list[Entry]]) -> Send | dict[str, wire.Answer]:
        """``entries``: by the stream's number, in the order in which they were first read."""
        name = results_key(self.batch.order.reply)
        found = [
            [(name + (f"+{stream}" if stream else "")).encode(), told]
            for stream, told in entries.items()
        ]
        try:
            return self.sent(self.talk.send([[b"", b""], found or None]))
        except StopIteration:
            return self.wanted.answers

    def refusal(self, place: int) -> Entry:
        job = self.batch.order.jobs[place]
        return self.told(wire.Answer(job.id, report={"type": "NoLiveNode"}))

    def told(self, answer: wire.Answer) -> Entry:
        note = wire.note(answer.job_id, "error")
        fields = {"type": "2", "rqproc": note, "rqproc_error": json.dumps(answer.report)}
        return b"1-1", [part.encode() for pair in fields.items() for part in pair]

    def entry(self, place: int) -> Entry:
        note = wire.note(self.batch.order.jobs[place].id, "miss", token=place)
        body = wire.return_value(str(place), "json")
        fields = {"type": "1", "worker_name": "n", "return_value": body, "rqproc": note}
        return f"{place}-1".encode(), [part.encode() for pair in fields.items() for part in pair]


@pytest.fixture
def caller() -> Caller:
    return Caller()


def routed(command: Command) -> list[str]:
    """The ids of the jobs that a route command carries."""
    assert command[:2] == CLUSTER.route(calls.batch([], kind="job").order)[:2]
    return [str(id) for id in command[9::3]]


def ids(caller: Caller) -> list[str]:
    return [job.id for job in caller.batch.order.jobs]


def test_a_request_and_the_wait_for_its_answer_are_one_packet(caller: Caller) -> None:
    step = caller.ask()
    route, read = step.commands
    assert routed(route) == ids(caller)
    assert read[:3] == ("XREAD", "BLOCK", 2_000)
    assert read[-2:] == (results_key(caller.batch.order.reply), "0-0")
    assert step.within_s == NUDGE_S + REPLY_GRACE_S


def test_what_earlier_calls_have_left_goes_in_the_same_packet_once(caller: Caller) -> None:
    step = caller.ask(litter=["old", "older"])
    assert step.commands[0] == ("UNLINK", "old", "older")
    assert [command[0] for command in caller.fail(LinkLost("cut")).commands] == ["EVALSHA", "XREAD"]


def test_what_a_call_leaves_behind_is_its_stream(caller: Caller) -> None:
    caller.ask()
    caller.answer(0)
    assert caller.wanted.litter == []
    caller.answer(1)
    assert caller.wanted.litter == [results_key(caller.batch.order.reply)]


def test_after_a_lost_packet_the_stream_stays_since_it_tells_that_all_is_answered(
    caller: Caller,
) -> None:
    """The packet may be on its way still, and would have its calls run once more."""
    caller.ask()
    caller.fail(LinkLost("cut"))
    assert isinstance(caller.answer(0, 1), dict)
    assert caller.wanted.litter == []


def test_all_answers_end_it(caller: Caller) -> None:
    caller.ask()
    found = caller.answer(0, 1)
    assert isinstance(found, dict)
    assert [found[id].value for id in ids(caller)] == [0, 1]


def test_it_reads_on_behind_the_last_answer_and_asks_no_more(caller: Caller) -> None:
    caller.ask()
    caller.now += 1.5
    step = caller.answer(0)
    assert isinstance(step, Send)
    (read,) = step.commands
    assert read == ("XREAD", "BLOCK", 500, "STREAMS", read[4], b"0-1")
    assert step.prelude_bytes == 0
    assert isinstance(caller.answer(1), dict)


def test_after_a_lost_link_the_same_jobs_are_sent_again(caller: Caller) -> None:
    first = caller.ask()
    again = caller.fail(LinkLost("cut"))
    assert routed(again.commands[0]) == routed(first.commands[0]) == ids(caller)
    later = caller.fail(LinkLost("cut"))
    assert routed(later.commands[0]) == ids(caller)


def test_after_a_late_cut_the_jobs_are_sent_again_and_the_reading_goes_on(caller: Caller) -> None:
    caller.ask()
    caller.answer(0)
    again = caller.fail(LinkLost("cut"))
    assert routed(again.commands[0]) == ids(caller)[1:], "what was answered is not sent again"
    assert again.commands[1][-1] == b"0-1", "what was read is not read again"
    found = caller.answer(1)
    assert isinstance(found, dict)
    assert [found[id].value for id in ids(caller)] == [0, 1]


def test_a_server_without_the_script_is_told_it_first(caller: Caller) -> None:
    caller.ask()
    load, route, read = caller.fail(NOSCRIPT).commands
    assert load == CLUSTER.load("route")[0]
    assert (routed(route), read[0]) == (ids(caller), "XREAD")
    assert [command[0] for command in caller.fail(LinkLost("cut")).commands] == ["EVALSHA", "XREAD"]


def test_an_answer_that_comes_twice_counts_once(caller: Caller) -> None:
    caller.ask()
    assert isinstance(caller.answer(0, 0), Send)
    found = caller.answer(0, 1)
    assert isinstance(found, dict)
    assert len(found) == 2


def test_answers_that_did_not_come_by_the_deadline_are_missing(caller: Caller) -> None:
    caller.ask()
    caller.answer(1)
    caller.now += 10.0
    found = caller.answer(nothing=True)
    assert isinstance(found, dict)
    assert list(found) == [ids(caller)[1]]


def test_after_the_deadline_nothing_is_sent_any_more(caller: Caller) -> None:
    caller.ask()
    caller.talk.throw(LinkLost("cut"))
    caller.now += 10.0
    with pytest.raises(RedisUnavailable, match="cut"):
        next(caller.talk)


def test_an_outage_that_has_passed_is_not_told_at_the_deadline(caller: Caller) -> None:
    caller.ask()
    caller.fail(LinkLost("cut"))
    caller.now += 10.0
    assert caller.answer(nothing=True) == {}


def test_what_is_sent_again_has_only_the_time_that_is_left(caller: Caller) -> None:
    """Else a node would still run it when its caller has given up."""
    assert caller.ask().commands[0][4] == 10_000
    caller.now += 4.0
    pause = caller.talk.throw(LinkLost("cut"))
    assert isinstance(pause, Pause)
    caller.now += pause.seconds
    again = caller.sent(next(caller.talk))
    assert again.commands[0][4] == round(6_000 - pause.seconds * 1000)


def test_a_wait_is_never_without_end(caller: Caller) -> None:
    """XREAD would take 0 ms for ever."""
    caller.ask()
    caller.now += 9.9999
    step = caller.answer(nothing=True)
    assert isinstance(step, Send)
    assert step.commands[-1][2] == 1


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
    assert routed(caller.fail(Refused(reason)).commands[0]) == ids(caller)


def test_what_is_told_has_the_advice_for_this_very_trouble(caller: Caller) -> None:
    caller.ask()
    with pytest.raises(RedisUnavailable, match=r"OOM no\. Free some .* `maxmemory`$"):
        caller.talk.throw(Refused("OOM no."))
    caller.ask()
    with pytest.raises(RedisUnavailable, match=r"READONLY no. If .* redis\+sentinel://"):
        last(caller, Refused("READONLY no"))


def last(caller: Caller, error: Exception) -> NoReturn:
    """Fail until it gives up, with its error."""
    while True:
        caller.fail(error)


def outage(caller: Caller, error: Exception) -> float:
    """Return how long it takes until it gives up."""
    began = caller.now
    with pytest.raises(RedisUnavailable):
        last(caller, error)
    return caller.now - began


def test_an_outage_is_waited_out_for_so_long_and_no_longer(caller: Caller) -> None:
    caller.ask()
    assert OUTAGE_S <= outage(caller, LinkLost("refused")) < OUTAGE_S + 0.6
    caller.run()
    assert OUTAGE_S <= outage(caller, LinkLost("refused")) < OUTAGE_S + 0.6


def test_the_time_that_a_connect_has_waited_in_vain_counts(caller: Caller) -> None:
    caller.ask()
    with pytest.raises(RedisUnavailable):
        caller.talk.throw(LinkLost("no route", spent_s=OUTAGE_S))


def test_what_is_answered_in_between_begins_the_outage_anew(caller: Caller) -> None:
    caller.ask()
    for _ in range(2):
        until = caller.now + OUTAGE_S * 0.75
        while caller.now < until:
            caller.fail(LinkLost("cut"))
        caller.answer(nothing=True)
    assert caller.now - 50.0 > OUTAGE_S


def pauses(caller: Caller, count: int) -> list[float]:
    found = []
    for _ in range(count):
        pause = caller.talk.throw(LinkLost("cut"))
        assert isinstance(pause, Pause)
        found.append(pause.seconds)
        next(caller.talk)
    return found


def test_pauses_differ_and_stay_short(caller: Caller) -> None:
    """Those whom one outage has hit do not come back all at the same moments."""
    caller.run()
    found = pauses(caller, 30)
    caller.run()
    assert pauses(caller, 30) != found
    assert all(0.01 <= pause <= 0.5 for pause in found)


def test_an_answer_makes_pauses_short_again(caller: Caller) -> None:
    caller.ask()
    pauses(caller, 30)
    caller.answer(nothing=True)
    assert pauses(caller, 1)[0] <= 0.03


def test_one_script_runs_to_its_reply(caller: Caller) -> None:
    step = caller.run()
    assert step.commands == (CLUSTER.survey(),)
    load, again = caller.fail(NOSCRIPT).commands
    assert (load, again) == (CLUSTER.load("survey")[0], CLUSTER.survey())
    with pytest.raises(StopIteration) as stop:
        caller.talk.send([b"sha", [1, [], []]])
    assert stop.value.value == [1, [], []]


def test_the_thread_is_not_put_to_sleep_over_an_error(caller: Caller) -> None:
    """Whatever the server says in place of the answers is longer than what is slept through."""
    caller.batch = calls.batch([Request("price", i) for i in range(99)], kind="call", timeout_s=9.0)
    many = caller.ask(litter=["x"]).prelude_bytes
    caller.batch = calls.batch([Request("price", 1)], kind="call", timeout_s=9.0)
    one = caller.ask().prelude_bytes
    assert one == len(b"*1\r\n$0\r\n\r\n")
    assert one < many < len(b"-ERR unknown command\r\n")


def nudge(caller: Caller) -> Send:
    """Nothing comes for as long as the read waits; return what is sent then."""
    caller.now += NUDGE_S
    step = caller.answer(nothing=True)
    assert isinstance(step, Send)
    return step


def test_whoever_waits_sends_the_calls_without_an_answer_again(caller: Caller) -> None:
    caller.ask()
    caller.answer(0)
    route, read = nudge(caller).commands
    assert routed(route) == ids(caller)[1:]
    assert route[4] == 8_000
    assert read == ("XREAD", "BLOCK", 2_000, "STREAMS", read[4], b"0-1")
    assert [command[0] for command in nudge(caller).commands] == ["EVALSHA", "XREAD"]


def test_the_thread_sleeps_over_what_a_nudge_brings_back_too(caller: Caller) -> None:
    assert caller.ask().prelude_bytes == nudge(caller).prelude_bytes > 0


def test_an_answer_between_two_nudges_does_not_put_the_next_one_off(caller: Caller) -> None:
    caller.ask()
    caller.now += 1.9
    step = caller.answer(0)
    assert isinstance(step, Send)
    assert step.commands[0][2] == 100
    caller.now += 0.1
    step = caller.answer(nothing=True)
    assert isinstance(step, Send)
    assert routed(step.commands[0]) == ids(caller)[1:]


def test_short_waits_have_short_slices(caller: Caller) -> None:
    caller.batch = calls.batch([Request("price", 1)], kind="call", timeout_s=1.0)
    step = caller.ask()
    assert step.commands[1][2] == 250
    assert step.within_s == 0.25 + REPLY_GRACE_S


def test_the_last_slice_ends_at_the_deadline(caller: Caller) -> None:
    caller.ask()
    caller.now += 9.5
    step = caller.answer(nothing=True)
    assert isinstance(step, Send)
    assert step.commands[-1][2] == 500


def test_once_the_server_has_had_a_call_an_outage_is_waited_out(caller: Caller) -> None:
    caller.ask()
    nudge(caller)
    assert outage(caller, LinkLost("refused")) == pytest.approx(10.0 - NUDGE_S, abs=0.6)


def test_a_server_that_stands_still_is_an_outage_from_when_its_reply_was_due(
    caller: Caller,
) -> None:
    step = caller.ask()
    caller.now += step.within_s
    with pytest.raises(RedisUnavailable, match="timed out"):
        caller.talk.throw(LinkLost("timed out", spent_s=step.within_s))


def test_where_nobody_lives_a_call_that_is_new_is_told_so(caller: Caller) -> None:
    caller.ask()
    found = caller.refuse(0, 1)
    assert isinstance(found, dict)
    assert [found[id].report for id in ids(caller)] == [{"type": "NoLiveNode"}] * 2


def test_where_nobody_lives_any_more_a_call_is_sent_again_with_another_stream(
    caller: Caller,
) -> None:
    """The server has lost its data, and the nodes have not joined anew yet."""
    caller.ask()
    caller.answer(0)
    nudge(caller)
    waiting = caller.refuse(1)
    assert isinstance(waiting, Send)
    old = results_key(caller.batch.order.reply)
    (read,) = waiting.commands
    assert read == ("XREAD", "BLOCK", 2_000, "STREAMS", old, old + "+1", b"1-1", "0-0")
    route, read = nudge(caller).commands
    assert routed(route) == ids(caller)[1:]
    assert (route[5], read[5]) == (caller.batch.order.reply + "+1", old + "+1")
    found = caller.hear({1: [caller.entry(1)]})
    assert isinstance(found, dict)
    assert [found[id].value for id in ids(caller)] == [0, 1]
    assert caller.wanted.litter == [old, old + "+1"]


def test_calls_that_only_some_of_which_were_refused_are_awaited_in_two_streams(
    caller: Caller,
) -> None:
    """A draining node may hold one of them: it will answer where it was asked to."""
    caller.ask()
    nudge(caller)
    waiting = caller.refuse(1)
    assert isinstance(waiting, Send)
    old = results_key(caller.batch.order.reply)
    assert waiting.commands[0][4:] == (old, old + "+1", b"1-1", "0-0")
    one, other, _ = nudge(caller).commands
    assert (routed(one), one[5]) == (ids(caller)[:1], caller.batch.order.reply)
    assert (routed(other), other[5]) == (ids(caller)[1:], caller.batch.order.reply + "+1")
    found = caller.hear({0: [caller.entry(0)], 1: [caller.entry(1)]})
    assert isinstance(found, dict)
    assert [found[id].value for id in ids(caller)] == [0, 1]


def test_calls_refused_one_after_the_other_have_streams_of_their_own(caller: Caller) -> None:
    caller.ask()
    nudge(caller)
    caller.refuse(1)
    waiting = caller.refuse(0)
    assert isinstance(waiting, Send)
    old = results_key(caller.batch.order.reply)
    assert waiting.commands[0][4:7] == (old, old + "+1", old + "+2")
    found = caller.hear({1: [caller.entry(1)], 2: [caller.entry(0)]})
    assert isinstance(found, dict)
    assert len(found) == 2


def test_a_stream_in_which_all_was_refused_at_once_is_read_no_more(caller: Caller) -> None:
    """However long nobody lives, two streams are read: the first one and the last."""
    caller.ask()
    nudge(caller)
    caller.refuse(0, 1)
    for moves in (1, 2, 3):
        route, read = nudge(caller).commands
        old = results_key(caller.batch.order.reply)
        assert read[4:6] == (old, f"{old}+{moves}")
        assert route[5] == f"{caller.batch.order.reply}+{moves}"
        if moves < 3:
            caller.refuse(0, 1, stream=moves)


def test_a_node_that_had_begun_a_call_answers_it_where_it_was_asked_first(caller: Caller) -> None:
    caller.ask()
    nudge(caller)
    caller.refuse(0, 1)
    nudge(caller)
    found = caller.answer(0, 1)
    assert isinstance(found, dict)
    assert [found[id].value for id in ids(caller)] == [0, 1]


def hasty(caller: Caller, on_lost: OnLost = "error") -> Send:
    """Ask on behalf of someone who does not want to wait."""
    caller.on_lost = on_lost
    return caller.ask()


def withdrawn(command: Command) -> list[str]:
    """The ids of the jobs that a withdraw command names."""
    assert command[:2] == CLUSTER.withdraw(calls.batch([], kind="job").order, timeout_s=0)[:2]
    return [str(id) for id in command[5:]]


@pytest.mark.parametrize("on_lost", ["error", "local"])
def test_from_half_of_the_timeout_on_calls_are_withdrawn_before_they_are_asked_for_again(
    caller: Caller, on_lost: OnLost
) -> None:
    hasty(caller, on_lost)
    assert len(nudge(caller).commands) == 2
    step = nudge(caller)
    assert len(step.commands) == 2
    assert step.commands[-1][2] == 1_000, "the next packet goes out at half of the timeout"
    for left_ms in (5_000, 3_000, 1_000):
        caller.now = 60.0 - left_ms / 1000
        step = caller.answer(nothing=True)
        assert isinstance(step, Send)
        withdraw, route, read = step.commands
        assert withdrawn(withdraw) == routed(route) == ids(caller)
        assert withdraw[4] == left_ms
        assert read[0] == "XREAD"


def test_only_calls_without_an_answer_are_withdrawn(caller: Caller) -> None:
    hasty(caller)
    caller.answer(0)
    caller.now += 5.0
    step = caller.answer(nothing=True)
    assert isinstance(step, Send)
    assert withdrawn(step.commands[0]) == ids(caller)[1:]


def test_who_waits_withdraws_nothing(caller: Caller) -> None:
    caller.ask()
    for _ in range(4):
        assert [command[0] for command in nudge(caller).commands] == ["EVALSHA", "XREAD"]


def test_the_reason_of_a_withdrawal_is_an_answer(caller: Caller) -> None:
    hasty(caller)
    caller.now += 5.0
    caller.answer(nothing=True)
    lost = wire.Answer(ids(caller)[0], report={"type": "OwnerLost", "node": "n", "silent_ms": 9})
    found = caller.hear({0: [caller.told(lost), caller.entry(1)]})
    assert isinstance(found, dict)
    assert found[ids(caller)[0]].report == lost.report


def test_who_does_not_want_to_wait_is_told_at_once_that_nobody_lives(caller: Caller) -> None:
    hasty(caller)
    nudge(caller)
    found = caller.refuse(0, 1)
    assert isinstance(found, dict)
    assert len(found) == 2


@pytest.mark.parametrize("timeout_s", [0.1, 1.0, 4.0, 10.0, 60.0])
def test_who_does_not_want_to_wait_knows_of_an_outage_by_half_of_the_timeout(
    caller: Caller, timeout_s: float
) -> None:
    """Whether connections are refused, or the server stands still; and after 3 s at most."""
    limit_s = min(timeout_s / 2, OUTAGE_S)
    caller.batch = calls.batch([Request("price", 1)], kind="call", timeout_s=timeout_s)
    hasty(caller)
    assert outage(caller, LinkLost("refused")) <= limit_s
    step = hasty(caller)
    assert step.within_s <= limit_s
    with pytest.raises(RedisUnavailable):
        caller.talk.throw(LinkLost("timed out", spent_s=step.within_s))


def test_who_does_not_want_to_wait_does_not_wait_out_an_outage_later_either(
    caller: Caller,
) -> None:
    hasty(caller)
    nudge(caller)
    assert outage(caller, LinkLost("refused")) < OUTAGE_S


def test_a_server_without_the_scripts_is_told_both(caller: Caller) -> None:
    hasty(caller)
    commands = caller.fail(NOSCRIPT).commands
    assert commands[:2] == CLUSTER.load("route", "withdraw")


def test_calls_that_ask_alike_wait_alike(caller: Caller) -> None:
    """Else each would have its own timeout set on its connection."""
    waits = set()
    for number in range(100):
        caller.now = 50_000.0 + number * 0.0137
        waits.add(caller.ask().within_s)
    assert waits == {NUDGE_S + REPLY_GRACE_S}
