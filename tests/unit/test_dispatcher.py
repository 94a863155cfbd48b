"""The dispatcher: what becomes of each call and job, told and asked by hand."""

from __future__ import annotations

import logging
import pickle

import pytest
from dispatching import KNOWN, TTL_S, Bench, End, told

from rqproc.ids import address
from rqproc.model import DEFAULT_RESOURCE, Request
from rqproc.node.runs import Done, Failed, HandlerRun
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.messages import Claim


@pytest.fixture
def at() -> Bench:
    return Bench()


# --- the data path ---


def test_a_miss_is_claimed_run_and_answered_with_its_own_token(at: Bench) -> None:
    id = at.ask(1)
    assert at.claimed == [id]
    assert at.sent() == []
    run = at.run()
    assert (run.address, run.token, run.request) == ("1-price-1", 1, Request("price", 1))
    at.done(run)
    (end,) = at.ends()
    assert (end.how, end.id, end.answer) == (
        "call", id, answer_codec.Answer("miss", 0.0, 5.0, 1, "b", 7),
    )  # fmt: skip


def test_a_hit_is_answered_without_a_claim_with_its_age(at: Bench) -> None:
    at.compute(1)
    at.now += 2
    id = at.ask(1)
    assert at.claimed == []
    (end,) = at.ends()
    assert (end.how, end.id, end.answer) == (
        "hit",
        id,
        answer_codec.Answer("hit", 2.0, 3.0, 1, "b", 7),
    )
    assert at.dispatcher.held == 0


def test_the_answer_of_a_hit_is_what_any_answer_is(at: Bench) -> None:
    at.compute(1, {"a": "b"})
    at.now += 1.5
    id = at.ask(1)
    ((_, _, payload),) = at.sent()
    text = answer_codec.encode_answer(
        id, "hit", '{"a": "b"}', node="b", age_s=1.5, expires_in_s=3.5, token=1
    )
    assert payload == text.encode()


def test_who_asks_while_it_runs_joins_without_a_claim(at: Bench) -> None:
    first = at.ask(1)
    run = at.run()
    second = at.ask(1)
    assert at.claimed == []
    at.done(run)
    assert told(at.ends()) == [(first, "miss", 7), (second, "joined", 7)]
    assert at.dispatcher.idle


def test_of_calls_of_an_id_that_come_together_one_is_claimed(at: Bench) -> None:
    names = [at.named(1) for _ in range(3)]
    assert at.pop(*names) == [names[0].decode()]
    at.done(at.run())
    assert [source for _, source, _ in told(at.ends())] == ["miss", "joined", "joined"]


def test_if_the_one_that_was_claimed_is_gone_the_others_are_claimed(at: Bench) -> None:
    first, *others = [at.named(1) for _ in range(3)]
    at.intake.take([first, *others])
    asks = at.intake.asks()
    assert asks.claims == [first]
    assert not asks.last
    at.dispatcher.receive(Claim(first.decode(), "gone", "", 0, 0, b""), due=None)
    at.intake.go_on()
    assert at.intake.asks().claims == others


def test_a_job_that_waits_for_a_run_is_claimed_too(at: Bench) -> None:
    call = at.ask(1)
    assert at.pop(at.job("j", 1)) == ["j"]
    at.done(at.run())
    ends = [(end.how, end.id, end.value) for end in at.ends()]
    assert ends == [("call", call, 7), ("job", "j", 7)]


def test_at_its_expiry_an_entry_is_computed_anew(at: Bench) -> None:
    at.compute(1)
    at.now += TTL_S
    assert [end.source for end in at.compute(1, 8)] == ["miss"]


def test_a_choke_point_claims_everyone_and_runs_for_everyone_in_turn(at: Bench) -> None:
    names = [at.named(1, "charge", 3), at.named(1, "charge"), at.named(1, "charge")]
    assert at.pop(*names) == [name.decode() for name in names]
    first = at.run()
    assert at.scheduler.next_run() is None
    at.done(first, "1")
    at.done(at.run(), "2")
    assert first.request.args == (3,)
    assert [(end.source, end.value) for end in at.ends()] == [("miss", 1), ("miss", 2)]


def test_errors_are_told_to_all_who_wait_and_not_kept(at: Bench) -> None:
    at.ask(1)
    at.ask(1)
    at.scheduler.complete(at.run(), Failed("ValueError", "no", "Traceback\n"))
    ends = at.ends()
    assert [end.source for end in ends] == ["error", "error"]
    assert {end.error["remote_type"] for end in ends} == {"ValueError"}
    at.ask(1)
    assert at.run()


def test_a_jobs_error_is_kept_as_rq_keeps_it(at: Bench) -> None:
    at.pop(at.job("j", 1))
    at.scheduler.complete(at.run(), Failed("ValueError", "no", "Traceback\n"))
    (end,) = at.ends()
    assert (end.how, end.body) == ("job", codec.exc_string("Traceback\n"))
    assert end.error["remote_type"] == "ValueError"


def test_a_value_keeps_its_job_serializer(at: Bench) -> None:
    from base64 import b64decode

    data = pickle.dumps(("rqproc.request", None, (1,), {"resource": "price"}))
    at.pop(at.job("pickled", 1, data=data), at.job("plain", 1))
    at.done(at.run(), "[7]")
    pickled, plain = at.ends()
    assert pickle.loads(b64decode(pickled.body)) == [7]
    assert plain.value == [7]


def test_an_id_that_is_known_is_left_alone(at: Bench) -> None:
    """A caller has nudged, or an answer is on its way: another claim could run it again."""
    name = at.named(1, "charge", 5)
    at.pop(name)
    assert at.pop(name) == []
    at.done(at.run(), "1")
    sent = at.sent()
    assert at.pop(name) == [], "its answer is on its way"
    assert at.scheduler.next_run() is None
    at.dispatcher.acknowledged(sent)
    assert at.pop(name) == [name.decode()]


# --- what is refused ---


def test_arguments_to_a_cached_resource_are_refused(at: Bench) -> None:
    at.ask(1, "price", 5)
    (end,) = at.ends()
    assert "only ids go in" in end.error["message"]


def test_an_unknown_resource_is_told_with_the_known_ones(at: Bench) -> None:
    at.ask(1, "prize")
    (end,) = at.ends()
    assert end.error == {"type": "UnknownResource", "resource": "prize", "known": KNOWN}


def test_unreadable_data_is_answered_with_the_reason(at: Bench) -> None:
    at.pop(at.job("j", 1, data=b'["os.system",null,["true"],{}]'))
    (end,) = at.ends()
    assert end.error["remote_type"] == "Unreadable"
    assert "os.system" in end.error["message"]


def test_a_job_that_asks_for_another_id_than_its_address_says_is_refused(at: Bench) -> None:
    """Else it would run beside the other id's lane, or be told the other id's entry."""
    at.compute(1)
    at.pop(at.job("j", 3, data=codec.encode_request(Request("price", 1))))
    (end,) = at.ends()
    assert "addressed to another id" in end.error["message"]
    assert at.scheduler.next_run() is None


def test_the_data_of_a_call_without_arguments_is_not_looked_at(at: Bench) -> None:
    """Its id has said it all, and a hit was answered by that."""
    name = at.named(1)
    at.data[name] = b"garbage"
    at.pop(name)
    assert at.run().request == Request("price", 1)


@pytest.mark.parametrize(
    "place", ["2-price-1", "1-price-01", "1-price-", "1-price-_00", "1-p_zz-1"]
)
def test_a_call_whose_address_is_no_ids_own_is_refused(at: Bench, place: str) -> None:
    at.dispatcher.receive(Claim(f"r0-c1-{place}", "call", place, 1, 0, b""), due=None)
    (end,) = at.ends()
    assert end.error["remote_type"] == "Unreadable"
    assert at.scheduler.next_run() is None


def test_what_is_no_text_is_refused_and_can_be_sent(at: Bench) -> None:
    from rqproc.protocol.commands import Commands
    from rqproc.protocol.keys import Keys
    from rqproc.transport.connection import pack

    bad = b"r0-c1-1-\xff".decode(errors="surrogateescape")
    at.dispatcher.receive(Claim(bad, "call", bad[6:], 1, 0, b""), due=None)
    sent = at.sent()
    assert b"r0-c1-1-\xff" in pack((Commands(Keys()).answer("b#1", sent),))


def test_too_many_nodes_died_on_it(at: Bench) -> None:
    for what in (b"j", at.named(1)):
        at.dispatcher.receive(Claim(what.decode(), "lost", "1-price-1", 0, 0, b"", 3), due=None)
    job, call = at.ends()
    assert (job.how, call.how) == ("job", "call")
    assert job.error == call.error == {"type": "NodeLost", "attempts": 3}


def test_past_the_limit_of_an_id_its_requests_are_refused(at: Bench) -> None:
    at = Bench(max_waiters=2)
    at.ask(1)
    run = at.run()
    at.ask(1)
    late, job = at.ask(1), at.pop(at.job("j", 1))[0]
    other = at.ask(3)
    report = {"type": "Crowded", "node": "b", "queued": 2, "limit": 2}
    refused = at.ends()
    assert [(end.id, end.error["type"]) for end in refused] == [(late, "Crowded"), (job, "Crowded")]
    assert refused[0].error == report
    at.done(run)
    assert [end.value for end in at.ends()] == [7, 7]
    assert at.run().address in other


# --- invalidation ---


def test_an_invalidated_entry_is_computed_anew(at: Bench) -> None:
    at.compute(1, "old")
    id = at.invalidate(1)
    (end,) = at.ends()
    assert end.how == "call:dropped", "callers who keep it are to hear of it"
    assert told([end]) == [(id, "miss", True)]
    assert [end.value for end in at.compute(1, "new")] == ["new"]
    at.invalidate(3)
    assert [end.value for end in at.ends()] == [False]


def test_what_is_invalidated_while_it_runs_is_neither_joined_nor_kept(at: Bench) -> None:
    before = at.ask(1)
    old = at.run()
    at.invalidate(1)
    after = at.ask(1)
    at.ends()
    at.done(old, '"old"')
    assert told(at.ends()) == [(before, "miss", "old")]
    at.ask(1)
    at.done(at.run(), '"new"')
    ends = at.ends()
    assert {end.value for end in ends} == {"new"}
    assert ends[0].id == after


def test_an_old_run_that_ends_leaves_the_new_one_joinable(at: Bench) -> None:
    at.ask(1)
    old = at.run()
    at.invalidate(1)
    at.ask(1)
    at.done(old, "0")
    late = at.ask(1)
    at.ends()
    at.done(at.run(), "1")
    assert (late, "joined", 1) in told(at.ends())
    assert at.scheduler.next_run() is None


# --- deadlines ---


def test_a_run_that_nobody_waits_for_is_not_started(at: Bench) -> None:
    id = at.ask(1, due=at.now + 1)
    at.now += 1
    assert at.scheduler.next_run() is None
    assert [(end.id, end.how) for end in at.ends()] == [(id, "call:expired")]
    at.ask(1)
    assert at.run(), "its lane is free, and nobody joins what never ran"


def test_who_joined_a_run_that_is_not_started_is_claimed_instead(at: Bench) -> None:
    """Only the one that has given up had a claim: without one nothing may run."""
    at.ask(1, due=at.now + 1)
    joined = at.ask(1)
    at.now += 2
    assert at.scheduler.next_run() is None
    assert [end.how for end in at.ends()] == ["call:expired"]
    assert at.pop() == [joined]
    at.done(at.run())
    assert told(at.ends()) == [(joined, "miss", 7)]


def test_who_gave_up_is_left_out_of_a_run_that_others_wait_for(at: Bench) -> None:
    at.due = at.now + 1
    at.pop(at.job("hasty", 1))
    at.due = at.now + 9
    at.pop(at.job("patient", 1))
    at.now += 2
    run = at.run()
    assert run.deadline == at.now + 7
    at.done(run)
    ends = [(end.id, end.how) for end in at.ends()]
    assert ends == [("hasty", "job:expired"), ("patient", "job")]


def test_an_answer_is_kept_a_minute_longer_than_its_caller_waits(at: Bench) -> None:
    at.ask(1, due=at.now + 30)
    at.ask(1)
    at.done(at.run())
    assert [end.keep_ms for end in at.ends()] == [90_000, 60_000]


def test_whoever_gives_up_by_word_is_as_one_whose_time_is_over(at: Bench) -> None:
    id = at.ask(1)
    at.scheduler.give_up({id.encode()})
    assert at.scheduler.next_run() is None
    assert [end.how for end in at.ends()] == ["call:expired"]


# --- the member list ---


def test_behind_a_mark_nothing_is_served_until_the_members_are_known(at: Bench) -> None:
    at.compute(1)
    before, behind = at.named(1), at.named(1)
    at.intake.take([before, b"epoch", behind])
    assert [end.id for end in at.ends()] == [before.decode()]
    asks = at.intake.asks()
    assert (asks.wants_view, asks.claims, asks.last) == (True, [], False)
    at.dispatcher.learn(2, ["b", "c"])
    at.intake.go_on()
    assert at.ends() == []
    assert at.intake.asks().claims == [behind], "it is another's by now, as the server will say"


def test_each_mark_is_asked_for_anew(at: Bench) -> None:
    at.intake.take([b"epoch", b"epoch"])
    for _ in range(2):
        assert at.intake.asks().wants_view
        at.intake.go_on()
    assert not at.intake.has_asks


def test_one_epoch_later_entries_that_are_still_its_own_stay(at: Bench) -> None:
    at.compute(1)
    at.compute(3, 9)
    at.dispatcher.learn(2, ["a", "b", "c"])
    at.ask(1)
    at.ask(3)
    assert [end.source for end in at.ends()] == ["hit"]
    assert at.run().request.id == 3


def test_two_epochs_later_nothing_stays(at: Bench) -> None:
    """In between an id may have been another's, and changed there."""
    at.compute(1)
    at.dispatcher.learn(3, ["a", "b"])
    at.ask(1)
    assert at.run()


@pytest.mark.parametrize("members", [None, ["a", "b"]])
def test_without_a_new_epoch_everything_stays(at: Bench, members: list[str] | None) -> None:
    at.compute(1)
    at.dispatcher.learn(1, members)
    at.ask(1)
    assert [end.source for end in at.ends()] == ["hit"]


def test_a_value_of_another_owners_id_is_told_and_not_kept(at: Bench) -> None:
    """A holder runs an id whoever owns it by now: its next request may be the owner's."""
    at.ask(2)
    run = at.run()
    joined = at.ask(2)
    at.done(run)
    assert [end.source for end in at.ends()] == ["miss", "joined"]
    assert at.dispatcher.figures.tally().entries == 0
    assert at.ask(2) != joined
    assert at.run()


def test_after_a_lost_connection_an_entry_is_claimed_before_it_is_served(at: Bench) -> None:
    """A pop that came late may have taken a mark with it."""
    at.compute(1)
    at.intake.distrust_entries(10.0)
    id = at.ask(1)
    assert at.claimed == [id]
    (end,) = at.ends()
    assert (end.how, end.source, end.value) == ("call", "hit", 7)
    at.now += 10
    at.compute(1)
    at.ask(1)
    assert at.claimed == []


# --- leases and lost packets ---


def test_a_lost_lease_leaves_nothing_behind(at: Bench) -> None:
    at.compute(1)
    at.ask(3)
    running = at.run()
    at.ask(5)
    at.ask(1)
    at.dispatcher.forget()
    assert at.sent() == []
    assert (at.dispatcher.held, at.dispatcher.cache.epoch) == (1, -1)
    assert at.dispatcher.figures.tally().entries == 0
    assert not at.dispatcher.idle, "a handler still runs"
    assert at.dispatcher.known() == [(f"~{running.token}", running.token, running.address)]
    at.done(running, "9")
    ((how, id, where, payload, _),) = sent = at.sent()
    assert (how, id, where, payload) == ("call:ended", f"~{running.token}", "3-price-3", "")
    at.dispatcher.acknowledged(sent)
    assert at.scheduler.next_run() is None, "what waited is forgotten"
    assert at.dispatcher.figures.tally().entries == 0
    assert at.dispatcher.idle


def test_a_lane_stays_taken_by_what_runs_for_nobody(at: Bench) -> None:
    at.ask(1)
    old = at.run()
    at.dispatcher.forget()
    at.dispatcher.learn(5, ["b"])
    at.ask(1)
    assert at.scheduler.next_run() is None, "one at a time for each id"
    at.done(old, "1")
    assert at.run()


def test_while_the_lease_is_in_doubt_nothing_kept_is_served(at: Bench) -> None:
    at.compute(1)
    at.ask(3)
    run = at.run()
    at.dispatcher.forget_entries()
    at.done(run, "9")
    assert [end.value for end in at.ends()] == [9], "who waits is answered"
    for id in (1, 3):
        at.ask(id)
        assert at.run().request.id == id


def test_what_was_not_claimed_when_a_session_ends_is_forgotten(at: Bench) -> None:
    """The next session has it queued anew."""
    at.intake.take([at.named(1), at.named(1), b"r0-g1", b"epoch", at.named(3)])
    at.intake.abandon()
    assert not at.intake.has_asks
    assert at.dispatcher.known() == []


def test_endings_that_may_be_lost_are_sent_again_first_and_once(at: Bench) -> None:
    at.ask(1)
    at.done(at.run())
    lost = at.sent()
    at.ask(3)
    at.done(at.run())
    at.dispatcher.again(lost)
    sent = at.sent()
    assert sent[:1] == lost
    assert len(sent) == 2
    at.dispatcher.acknowledged(sent)
    assert at.dispatcher.idle


def test_hits_that_may_be_lost_are_not_sent_again(at: Bench) -> None:
    """Such a call is open if it was not answered: it is queued anew, and looked up then."""
    at.compute(1)
    at.ask(1)
    at.dispatcher.again(at.sent())
    assert at.sent() == []
    assert at.dispatcher.idle


def test_it_is_idle_when_all_is_acknowledged(at: Bench) -> None:
    at.ask(1)
    run = at.run()
    assert (at.dispatcher.idle, at.dispatcher.held) == (False, 1)
    at.done(run)
    sent = at.sent()
    assert not at.dispatcher.idle
    at.dispatcher.acknowledged(sent)
    assert at.dispatcher.idle


def test_a_session_is_told_of_all_that_is_taken_until_its_answer_has_arrived(at: Bench) -> None:
    """With its token, what is claimed; without, what has joined."""
    claimed = at.ask(1)
    run = at.run()
    joined = at.ask(1)
    assert at.dispatcher.known() == [(claimed, 1, "1-price-1"), (joined, 0, "1-price-1")]
    at.done(run)
    assert at.dispatcher.known() == [(claimed, 1, "1-price-1"), (joined, 0, "1-price-1")]
    at.ends()
    assert at.dispatcher.known() == []


@pytest.mark.parametrize(
    ("resource", "level"), [("price", logging.DEBUG), (DEFAULT_RESOURCE, logging.INFO)]
)
def test_answers_are_logged_the_default_resources_for_everyone(
    at: Bench, caplog: pytest.LogCaptureFixture, resource: str, level: int
) -> None:
    caplog.set_level(logging.DEBUG, "rqproc.node")
    at.ask(1, resource)
    at.done(at.run())
    at.ask(1, resource)
    shown = [f"b {resource} 1: computed 7", f"b {resource} 1: answered from its entry 7"]
    assert [record.getMessage() for record in caplog.records] == shown
    assert {record.levelno for record in caplog.records} == {level}


def test_it_counts_what_it_does(at: Bench) -> None:
    at.ask(1)
    at.ask(1)
    at.done(at.run())
    at.ask(1)
    at.ask(1, "prize")
    tally = at.dispatcher.figures.tally()
    assert (tally.hits, tally.joined, tally.misses) == (1, 1, 1)
    assert (tally.succeeded, tally.failed, tally.entries) == (3, 1, 1)


def test_it_tells_whether_it_has_answered_since_a_tally(at: Bench) -> None:
    before = at.dispatcher.figures.tally()
    at.ask(1)
    run = at.run()
    assert not at.dispatcher.figures.changed_since(before)
    at.done(run)
    assert at.dispatcher.figures.changed_since(before)
    before = at.dispatcher.figures.tally()
    assert not at.dispatcher.figures.changed_since(before)
    at.ask(1, "prize")
    assert at.dispatcher.figures.changed_since(before)


# --- runs that take too long, and those that wait ---


def overdue(at: Bench, id: int, *callers: int) -> tuple[HandlerRun, list[str]]:
    """A run of a resource with a timeout that has passed, and its callers' calls."""
    ids = [at.ask(id, "brisk", caller) for caller in callers or (1,)]
    run = at.run()
    at.now += 2.0
    at.scheduler.mind_the_time()
    return run, ids


def hows(ends: list[End]) -> list[tuple[str, str]]:
    return [(end.id, end.how) for end in ends]


def test_a_run_past_its_timeout_is_answered_and_keeps_one_hold(at: Bench) -> None:
    run, (first, behind) = overdue(at, 1, 1, 2)
    ends = at.ends()
    assert sorted(hows(ends)) == sorted([(first, "call:stuck"), (behind, "call")])
    report = {"type": "HandlerTimeout", "timeout_s": 1.0, "stuck": True}
    assert [end.error for end in ends] == [report, report]
    assert at.dispatcher.held == 1
    assert at.dispatcher.known() == [(first, run.token, run.address)]
    assert at.dispatcher.figures.tally().stuck == 1
    at.done(run, "1")
    (end,) = at.ends()
    assert (end.id, end.how, end.error) == (first, "call:ended", report)
    assert (at.dispatcher.held, at.dispatcher.figures.tally().stuck) == (0, 0)
    assert at.dispatcher.idle


def test_requests_of_an_id_that_is_stuck_are_refused_until_it_ends(at: Bench) -> None:
    run, _ = overdue(at, 1)
    at.ends()
    late = at.ask(1, "brisk")
    assert hows(at.ends()) == [(late, "call")]
    at.done(run, "1")
    at.ends()
    at.ask(1, "brisk")
    assert at.run().address == run.address


def test_after_a_stuck_run_nobody_joins_one_that_waited_behind_it(at: Bench) -> None:
    """It is given up with all who waited for it: its value will never come."""
    at.ask(1, "timed")
    run = at.run()
    at.change(1, codec.INVALIDATE, resource="timed")
    behind = at.ask(1, "timed")
    at.now += 2.0
    at.scheduler.mind_the_time()
    assert behind in {end.id for end in at.ends()}
    at.done(run, "1")
    at.ends()
    at.ask(1, "timed")
    at.done(at.run(), "2")
    assert [end.value for end in at.ends()] == [2]


def test_a_stuck_run_does_not_take_the_slot_of_another(at: Bench) -> None:
    for id in range(10):
        at.ask(id, "brisk")
        at.run()
    at.ask(11, "charge")
    assert at.scheduler.next_run() is None
    at.now += 2.0
    at.scheduler.mind_the_time()
    assert at.run().address == address("charge", 11)


def test_what_is_stuck_when_the_lease_is_lost_is_held_for_nobody(at: Bench) -> None:
    run, _ = overdue(at, 1)
    at.ends()
    at.dispatcher.forget()
    assert at.dispatcher.known() == [(f"~{run.token}", run.token, run.address)]
    at.done(run, "1")
    assert hows(at.ends()) == [(f"~{run.token}", "call:ended")]


def test_a_run_that_waits_for_another_id_lets_one_more_run(at: Bench) -> None:
    runs = []
    for id in range(10):
        at.ask(id, "charge")
        runs.append(at.run())
    at.ask(11, "charge")
    at.scheduler.change_slot(runs[0], "given back")
    at.scheduler.change_slot(runs[0], "given back")
    assert at.run().request.id == 11
    at.ask(12, "charge")
    at.scheduler.change_slot(runs[0], "wanted again")
    assert at.scheduler.next_run() is None, "it goes on when all its requests are answered"
    at.scheduler.change_slot(runs[0], "wanted again")
    assert at.scheduler.next_run() is None, "eleven run"
    at.done(runs[1])
    assert at.scheduler.next_run() is None, "ten run"
    at.done(runs[2])
    assert at.run().request.id == 12


def test_a_value_ages_from_its_handlers_end_not_from_when_that_is_heard(at: Bench) -> None:
    at.ask(1)
    run = at.run()
    made_at, at.now = at.now, at.now + TTL_S - 1
    at.scheduler.complete(run, Done("7", made_at))
    (end,) = at.ends()
    assert end.answer
    assert (end.answer.age_s, end.answer.expires_in_s) == (4.0, 1.0)
    at.now += 1
    at.ask(1)
    assert at.scheduler.next_run(), "it is gone"


def test_a_value_that_is_heard_of_too_late_is_not_kept(at: Bench) -> None:
    at.ask(1)
    run = at.run()
    made_at, at.now = at.now, at.now + TTL_S + 1
    at.scheduler.complete(run, Done("7", made_at))
    assert len(at.ends()) == 1
    assert at.dispatcher.figures.tally().entries == 0


# --- values that are made anew, or given ---


def test_who_refreshes_joins_a_run_that_waits_but_none_that_runs() -> None:
    bench = Bench()
    bench.ask(1)
    first = bench.run()
    late = [bench.change(1, codec.REFRESH) for _ in range(3)]
    bench.done(first)
    assert [end.id in late for end in bench.ends()] == [False]
    assert bench.cached(1) is None, "what was begun before is not kept"
    bench.done(bench.run(), "8")
    assert [(end.how, end.value) for end in bench.ends()] == [("call:dropped", 8)] * 3
    assert bench.compute_nothing(1) == 8
    assert bench.scheduler.misses == 2


def test_a_refresh_that_its_rate_refuses_leaves_the_run_under_way_alone() -> None:
    bench = Bench()
    bench.ask(1, "rated")
    first = bench.run()
    bench.change(1, codec.REFRESH, resource="rated", due=bench.now + 0.3)
    (refused,) = bench.ends()
    assert refused.error["type"] == "RateLimited"
    bench.done(first, "7")
    bench.ends()
    assert bench.compute_nothing(1, "rated") == 7


def test_a_value_that_is_given_runs_no_handler_and_waits_for_its_lane() -> None:
    bench = Bench()
    bench.ask(1)
    first = bench.run()
    given = bench.change(1, codec.SET, "given", None)
    joined = bench.ask(1)
    assert bench.scheduler.next_run() is None
    bench.done(first)
    assert bench.scheduler.next_run() is None
    ends = {end.id: (end.how, end.value) for end in bench.ends()}
    assert (ends[given], ends[joined]) == (("call:dropped", True), ("call", "given"))
    assert bench.compute_nothing(1) == "given"
    assert (bench.scheduler.misses, bench.dispatcher.idle) == (1, True)


def test_what_is_given_malformed_is_an_error() -> None:
    bench = Bench()
    for args in ((), (1,), (1, -1), (1, "x"), (1, 2, 3)):
        bench.change(1, codec.SET, *args)
        (end,) = bench.ends()
        assert end.error["type"] == "HandlerFailed"
    assert bench.dispatcher.idle


def test_an_id_whose_run_is_stuck_is_not_refreshed() -> None:
    bench = Bench()
    bench.ask(1, "brisk")
    run = bench.run()
    run.resource.ttl_s, run.keeps = 5.0, False
    bench.now += 2
    bench.scheduler.mind_the_time()
    bench.ends()
    for function, args in ((codec.REFRESH, ()), (codec.SET, (1, None))):
        bench.change(1, function, *args, resource="brisk")
        (end,) = bench.ends()
        assert end.error["type"] == "HandlerTimeout"
