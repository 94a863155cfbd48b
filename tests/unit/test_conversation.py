"""Conversations, driven by hand: what is said next after each thing that can go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rqproc import calls, wire
from rqproc.cluster import Cluster
from rqproc.conversation import (
    OUTAGE_S,
    REPLY_GRACE_S,
    Conversation,
    Pause,
    Send,
    ask,
    left_behind,
    run,
)
from rqproc.errors import RedisUnavailable
from rqproc.keys import Keys, results_key
from rqproc.link import Command, LinkLost, Refused
from rqproc.model import Request

CLUSTER = Cluster(Keys("shop"))
NOSCRIPT = Refused("NOSCRIPT No matching script.")


class Caller:
    """Carries a conversation out by hand, on a clock that only it moves."""

    def __init__(self) -> None:
        self.now = 50.0
        self.batch = calls.batch(
            [Request("price", id) for id in (1, 2)], kind="call", timeout_s=10.0
        )
        self.talk: Conversation[Any] = iter(())  # type: ignore[assignment]

    def ask(self, *, litter: Sequence[str] = ()) -> Send:
        self.talk = ask(
            CLUSTER, self.batch.order, litter=litter, server="there", clock=lambda: self.now
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
        entries = [self.entry(place) for place in places]
        found = None if nothing else [[b"the stream", entries]]
        try:
            return self.sent(self.talk.send([[b"", b""], found]))
        except StopIteration as stop:
            answers: dict[str, wire.Answer] = stop.value
            return answers

    def entry(self, place: int) -> tuple[bytes, list[bytes]]:
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
    assert read[:3] == ("XREAD", "BLOCK", 10_000)
    assert read[-2:] == (results_key(caller.batch.order.reply), "0-0")
    assert step.within_s == 10.0 + REPLY_GRACE_S


def test_what_earlier_calls_have_left_goes_in_the_same_packet_once(caller: Caller) -> None:
    step = caller.ask(litter=["old", "older"])
    assert step.commands[0] == ("UNLINK", "old", "older")
    assert [command[0] for command in caller.fail(LinkLost("cut")).commands] == ["EVALSHA", "XREAD"]


def test_what_a_call_leaves_behind_is_its_stream(caller: Caller) -> None:
    assert left_behind(caller.batch.order) == [results_key(caller.batch.order.reply)]


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
    assert read == ("XREAD", "BLOCK", 8_500, "STREAMS", read[4], b"0-1")
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
    assert routed(again.commands[0]) == ids(caller)
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
    assert caller.fail(LinkLost("cut")).commands[0][4] == 5_990


def test_a_wait_is_never_without_end(caller: Caller) -> None:
    """XREAD would take 0 ms for ever."""
    caller.ask()
    caller.now += 9.9999
    step = caller.answer(nothing=True)
    assert isinstance(step, Send)
    assert step.commands[0][2] == 1


@pytest.mark.parametrize("reason", ["READONLY no", "OOM no", "NOPERM no", "WRONGTYPE no", "ERR x"])
def test_a_refusal_that_will_not_pass_ends_it_at_once(caller: Caller, reason: str) -> None:
    caller.ask()
    with pytest.raises(RedisUnavailable, match=reason):
        caller.talk.throw(Refused(reason))


@pytest.mark.parametrize("reason", ["LOADING x", "BUSY x", "TRYAGAIN x", "MASTERDOWN x"])
def test_a_refusal_that_will_pass_is_waited_for(caller: Caller, reason: str) -> None:
    caller.ask()
    assert routed(caller.fail(Refused(reason)).commands[0]) == ids(caller)


def outage(caller: Caller, error: Exception) -> float:
    """Fail until it gives up; return how long that took."""
    began = caller.now
    while True:
        try:
            caller.fail(error)
        except RedisUnavailable:
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
    for _ in range(3):
        for _ in range(8):
            caller.fail(LinkLost("cut"))
        caller.answer(nothing=True)
    assert caller.now - 50.0 > OUTAGE_S


def test_pauses_grow_but_stay_short(caller: Caller) -> None:
    caller.run()
    pauses = []
    for _ in range(9):
        pause = caller.talk.throw(LinkLost("cut"))
        assert isinstance(pause, Pause)
        pauses.append(pause.seconds)
        next(caller.talk)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.01, 0.5)


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
