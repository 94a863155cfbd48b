"""The desk: what becomes of each claim, told and asked by hand, on a clock that stands still."""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from itertools import count
from typing import Any

import pytest

from rqproc import wire
from rqproc.app import App
from rqproc.cluster import Claim, Finish
from rqproc.model import DEFAULT_RESOURCE, Request
from rqproc.node.desk import Desk, Done, Failed, Run
from rqproc.node.entries import Entries
from rqproc.node.lanes import Lanes
from rqproc.placement import address

TTL_S = 5.0
KNOWN = ["brisk", "charge", "demo", "price"]


def shop() -> App:
    app = App("redis://nowhere")

    @app.resource(ttl=TTL_S)
    def price(id: int) -> int:
        raise AssertionError("the desk runs nothing")

    @app.resource(ttl=0.5, name=DEFAULT_RESOURCE)
    def demo(id: int) -> int:
        raise AssertionError("the desk runs nothing")

    @app.resource(ttl=0)
    def charge(id: int, *amounts: int) -> int:
        raise AssertionError("the desk runs nothing")

    @app.resource(ttl=0, timeout=1.0)
    def brisk(id: int, *amounts: int) -> int:
        raise AssertionError("the desk runs nothing")

    return app


class Counter:
    """A desk with a clock in its hand. Odd ids are its own while there are two members."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lanes = Lanes[Run](10)
        self.desk = Desk(
            "b",
            shop().resources,
            entries=Entries(100, lambda: self.now),
            lanes=self.lanes,
            clock=lambda: self.now,
        )
        self.desk.learn(1, ["a", "b"])
        self._numbers = count(1)

    def claim(self, id: int, resource: str = "price", *args: int, function: str = wire.REQUEST,
              data: bytes | None = None, kind: Any = "call") -> Claim:  # fmt: skip
        token = next(self._numbers)
        body = data or wire.encode_request(Request(resource, id, args), function=function)
        return Claim(f"j{token}", token, address(resource, id), kind, f"j{token}", 0, body, 0)

    def receive(self, claim: Claim, *, due: float | None = None) -> Claim:
        self.desk.receive(claim, due=due)
        return claim

    def ask(self, id: int, resource: str = "price", *args: int, due: float | None = None) -> Claim:
        return self.receive(self.claim(id, resource, *args), due=due)

    def invalidate(self, id: int) -> Claim:
        return self.receive(self.claim(id, function=wire.INVALIDATE))

    def run(self) -> Run:
        run = self.desk.next_run()
        assert run
        return run

    def finishes(self) -> list[Finish]:
        """Collect, as if the server acknowledged at once."""
        found = self.desk.collect()
        self.desk.acknowledged(found)
        return found

    def compute(self, id: int, value: object) -> list[Finish]:
        """Ask, run and answer."""
        self.ask(id)
        self.desk.complete(self.run(), Done(json.dumps(value)))
        return self.finishes()


@pytest.fixture
def at() -> Counter:
    return Counter()


def source(finish: Finish) -> str:
    return finish.note.split(" ")[1]


def value(finish: Finish) -> Any:
    return json.loads(b64decode(finish.body))


def sources(finishes: list[Finish]) -> list[tuple[str, str, Any]]:
    return [(finish.claim.id, source(finish), value(finish)) for finish in finishes]


# --- the data path ---


def test_a_miss_is_run_and_answered_with_its_own_token(at: Counter) -> None:
    claim = at.ask(1)
    assert at.desk.collect() == []
    run = at.run()
    assert (run.address, run.token, run.request) == (
        claim.address,
        claim.token,
        Request("price", 1),
    )
    at.desk.complete(run, Done("7"))
    (finish,) = at.finishes()
    assert finish.note == f"{claim.id} miss 0 5000 {claim.token}"
    assert (finish.claim, finish.outcome, value(finish)) == (claim, "ok", 7)


def test_a_hit_is_answered_at_once_with_its_age(at: Counter) -> None:
    at.compute(1, 7)
    at.now += 2
    claim = at.ask(1)
    (finish,) = at.finishes()
    assert finish.note == f"{claim.id} hit 2000 3000 1"
    assert at.desk.next_run() is None


def test_who_asks_while_it_runs_joins(at: Counter) -> None:
    first, second = at.ask(1), at.ask(1)
    run = at.run()
    third = at.ask(1)
    assert at.desk.next_run() is None
    at.desk.complete(run, Done("7"))
    joined = [(claim.id, "joined", 7) for claim in (second, third)]
    assert sources(at.finishes()) == [(first.id, "miss", 7), *joined]


def test_at_its_expiry_an_entry_is_computed_anew(at: Counter) -> None:
    at.compute(1, 7)
    at.now += TTL_S
    assert [source(finish) for finish in at.compute(1, 8)] == ["miss"]


def test_a_choke_point_runs_for_everyone_in_turn(at: Counter) -> None:
    for amount in (3, 4):
        at.ask(1, "charge", amount)
    first = at.run()
    assert at.desk.next_run() is None
    at.desk.complete(first, Done("1"))
    at.desk.complete(at.run(), Done("2"))
    assert first.request.args == (3,)
    assert [(source(f), value(f)) for f in at.finishes()] == [("miss", 1), ("miss", 2)]


def test_errors_are_told_to_all_who_wait_and_not_kept(at: Counter) -> None:
    at.ask(1)
    at.ask(1)
    at.desk.complete(at.run(), Failed("ValueError", "no", "Traceback\n"))
    finishes = at.finishes()
    assert [finish.outcome for finish in finishes] == ["error", "error"]
    assert {json.loads(finish.report)["remote_type"] for finish in finishes} == {"ValueError"}
    assert {finish.body for finish in finishes} == {wire.exc_string("Traceback\n")}
    at.ask(1)
    assert at.run()


def test_a_value_keeps_its_job_serializer(at: Counter) -> None:
    import pickle

    data = pickle.dumps(("rqproc.request", None, (1,), {"resource": "price"}))
    at.receive(at.claim(1, data=data, kind="job"))
    at.ask(1)
    at.desk.complete(at.run(), Done("[7]"))
    pickled, plain = at.finishes()
    assert pickle.loads(b64decode(pickled.body)) == [7]
    assert value(plain) == [7]


# --- what is refused ---


def test_arguments_to_a_cached_resource_are_refused(at: Counter) -> None:
    at.ask(1, "price", 5)
    (finish,) = at.finishes()
    message = json.loads(finish.report)["message"]
    assert "only ids go in" in message
    assert finish.body == wire.exc_string(f"TypeError: {message}\n")


def test_an_unknown_resource_is_told_with_the_known_ones(at: Counter) -> None:
    at.ask(1, "prize")
    (finish,) = at.finishes()
    report = {"type": "UnknownResource", "resource": "prize", "known": KNOWN}
    assert json.loads(finish.report) == report


def test_unreadable_data_is_answered_with_the_reason(at: Counter) -> None:
    at.receive(at.claim(1, data=b'["os.system",null,["true"],{}]'))
    (finish,) = at.finishes()
    assert json.loads(finish.report)["remote_type"] == "Unreadable"
    assert "os.system" in json.loads(finish.report)["message"]


def test_a_job_that_asks_for_another_id_than_its_address_says_is_refused(at: Counter) -> None:
    """Else it would run beside the other id's lane, or be told the other id's entry."""
    at.compute(1, 7)
    data = wire.encode_request(Request("price", 1))
    at.receive(at.claim(3, data=data))
    (finish,) = at.finishes()
    assert "addressed to another id" in json.loads(finish.report)["message"]
    assert at.desk.next_run() is None


# --- invalidation ---


def test_an_invalidated_entry_is_computed_anew(at: Counter) -> None:
    at.compute(1, "old")
    claim = at.invalidate(1)
    (told,) = at.finishes()
    assert told.outcome == "dropped", "callers who keep it are to hear of it"
    assert sources([told]) == [(claim.id, "miss", True)]
    assert [value(finish) for finish in at.compute(1, "new")] == ["new"]
    at.invalidate(3)
    assert [value(finish) for finish in at.finishes()] == [False]


def test_what_is_invalidated_while_it_runs_is_neither_joined_nor_kept(at: Counter) -> None:
    before = at.ask(1)
    old = at.run()
    at.invalidate(1)
    after = at.ask(1)
    at.finishes()
    at.desk.complete(old, Done('"old"'))
    assert sources(at.finishes()) == [(before.id, "miss", "old")]
    at.ask(1)
    at.desk.complete(at.run(), Done('"new"'))
    told = at.finishes()
    assert {value(finish) for finish in told} == {"new"}
    assert told[0].claim == after


def test_an_old_run_that_ends_leaves_the_new_one_joinable(at: Counter) -> None:
    at.ask(1)
    old = at.run()
    at.invalidate(1)
    at.ask(1)
    at.desk.complete(old, Done("0"))
    late = at.ask(1)
    at.finishes()
    at.desk.complete(at.run(), Done("1"))
    assert (late.id, "joined", 1) in sources(at.finishes())
    assert at.desk.next_run() is None


# --- deadlines ---


def test_a_run_that_nobody_waits_for_is_not_started(at: Counter) -> None:
    claim = at.ask(1, due=at.now + 1)
    at.now += 1
    assert at.desk.next_run() is None
    assert [(f.claim, f.outcome) for f in at.finishes()] == [(claim, "expired")]
    at.ask(1)
    assert at.run(), "its lane is free, and nobody joins what never ran"


def test_who_gave_up_is_left_out_of_a_run_that_others_wait_for(at: Counter) -> None:
    at.ask(1, due=at.now + 1)
    patient = at.ask(1, due=at.now + 9)
    at.now += 2
    run = at.run()
    assert run.deadline == at.now + 7
    at.desk.complete(run, Done("7"))
    expired, answered = at.finishes()
    assert expired.outcome == "expired"
    assert (answered.claim, source(answered)) == (patient, "miss")


def test_an_answer_is_kept_a_minute_longer_than_its_caller_waits(at: Counter) -> None:
    at.compute(1, 7)
    at.ask(1, due=at.now + 30)
    at.ask(1)
    assert [finish.keep_s for finish in at.finishes()] == [90.0, 60.0]


# --- the member list ---


def test_one_epoch_later_entries_that_are_still_its_own_stay(at: Counter) -> None:
    at.compute(1, 7)
    at.compute(3, 9)
    at.desk.learn(2, ["a", "b", "c"])
    at.ask(1)
    at.ask(3)
    assert [source(finish) for finish in at.finishes()] == ["hit"]
    assert at.run().request.id == 3


def test_two_epochs_later_nothing_stays(at: Counter) -> None:
    """In between an id may have been another's, and changed there."""
    at.compute(1, 7)
    at.desk.learn(3, ["a", "b"])
    at.ask(1)
    assert at.run()


@pytest.mark.parametrize("members", [None, ["a", "b"]])
def test_without_a_new_epoch_everything_stays(at: Counter, members: list[str] | None) -> None:
    at.compute(1, 7)
    at.desk.learn(1, members)
    at.ask(1)
    assert [source(finish) for finish in at.finishes()] == ["hit"]


def test_a_value_of_another_owners_id_is_kept_while_it_is_busy_here(at: Counter) -> None:
    """A holder serves an id whoever owns it by now; once it has finished, it forgets."""
    at.ask(2)
    at.desk.complete(at.run(), Done("7"))
    first = at.desk.collect()
    at.ask(2)
    second = at.desk.collect()
    at.desk.acknowledged(first)
    at.ask(2)
    third = at.desk.collect()
    assert [source(finish) for finish in (*second, *third)] == ["hit", "hit"]
    at.desk.acknowledged([*second, *third])
    at.ask(2)
    assert at.run()


def test_a_busy_id_that_becomes_anothers_is_forgotten_when_it_is_finished(at: Counter) -> None:
    at.compute(1, 7)
    at.ask(1)
    hit = at.desk.collect()
    at.desk.learn(2, ["b", "c"])
    at.ask(1)
    second = at.desk.collect()
    assert [source(finish) for finish in (*hit, *second)] == ["hit", "hit"]
    at.desk.acknowledged([*hit, *second])
    assert at.desk.tally().entries == 0


# --- leases and lost packets ---


def test_a_lost_lease_leaves_nothing_behind(at: Counter) -> None:
    at.compute(1, 7)
    at.ask(3)
    running = at.run()
    at.ask(5)
    at.ask(1)
    at.desk.forget()
    assert at.desk.collect() == []
    assert (at.desk.held, at.desk.epoch, at.desk.tally().entries) == (1, -1, 0)
    assert not at.desk.idle, "a handler still runs"
    (hold,) = at.desk.unfinished()
    assert (hold.id, hold.address) == (f"~{running.token}", running.address)
    at.desk.complete(running, Done("9"))
    assert [(f.claim, f.outcome) for f in at.finishes()] == [(hold, "released")], "for nobody"
    assert at.desk.next_run() is None, "what waited is forgotten"
    assert at.desk.tally().entries == 0
    assert at.desk.idle


def test_a_lane_stays_taken_by_what_runs_for_nobody(at: Counter) -> None:
    at.ask(1)
    old = at.run()
    at.desk.forget()
    at.desk.learn(5, ["b"])
    at.ask(1)
    assert at.desk.next_run() is None, "one at a time for each id"
    at.desk.complete(old, Done("1"))
    assert at.run()


def test_while_the_lease_is_in_doubt_nothing_kept_is_served(at: Counter) -> None:
    at.compute(1, 7)
    at.ask(3)
    run = at.run()
    at.desk.forget_entries()
    at.desk.complete(run, Done("9"))
    assert [value(finish) for finish in at.finishes()] == [9], "who waits is answered"
    for id in (1, 3):
        at.ask(id)
        assert at.run().request.id == id


def test_a_claim_that_comes_twice_is_served_once(at: Counter) -> None:
    claim = at.ask(1)
    at.receive(claim)
    at.desk.complete(at.run(), Done("7"))
    at.receive(claim)
    assert len(at.desk.collect()) == 1
    assert at.desk.next_run() is None


def test_a_claim_taken_anew_is_another(at: Counter) -> None:
    claim = at.ask(1)
    at.desk.complete(at.run(), Done("7"))
    at.finishes()
    at.receive(claim._replace(token=99))
    assert [source(finish) for finish in at.finishes()] == ["hit"]


def test_finishes_that_may_be_lost_are_sent_again_first_and_once(at: Counter) -> None:
    at.compute(1, 7)
    at.ask(1)
    lost = at.desk.collect()
    at.ask(1)
    at.desk.again(lost)
    sent = at.desk.collect()
    assert sent[:1] == lost
    assert len(sent) == 2
    at.desk.acknowledged(sent)
    at.desk.again(sent)
    assert at.desk.collect() == []
    assert at.desk.idle


def test_it_is_idle_when_all_is_acknowledged(at: Counter) -> None:
    at.ask(1)
    run = at.run()
    assert (at.desk.idle, at.desk.held) == (False, 1)
    at.desk.complete(run, Done("7"))
    sent = at.desk.collect()
    assert not at.desk.idle
    at.desk.acknowledged(sent)
    assert at.desk.idle
    assert not at.desk._running


@pytest.mark.parametrize(
    ("resource", "level"), [("price", logging.DEBUG), (DEFAULT_RESOURCE, logging.INFO)]
)
def test_answers_are_logged_the_default_resources_for_everyone(
    at: Counter, caplog: pytest.LogCaptureFixture, resource: str, level: int
) -> None:
    caplog.set_level(logging.DEBUG, "rqproc.node")
    at.ask(1, resource)
    at.desk.complete(at.run(), Done("7"))
    at.ask(1, resource)
    shown = [f"b {resource} 1: computed 7", f"b {resource} 1: answered from its entry 7"]
    assert [record.getMessage() for record in caplog.records] == shown
    assert {record.levelno for record in caplog.records} == {level}


def test_it_counts_what_it_does(at: Counter) -> None:
    at.ask(1)
    at.ask(1)
    at.desk.complete(at.run(), Done("7"))
    at.ask(1)
    at.ask(1, "prize")
    tally = at.desk.tally()
    assert (tally.hits, tally.joined, tally.misses) == (1, 1, 1)
    assert (tally.succeeded, tally.failed, tally.entries) == (3, 1, 1)


def test_it_tells_whether_it_has_answered_since_a_tally(at: Counter) -> None:
    before = at.desk.tally()
    at.ask(1)
    run = at.run()
    assert not at.desk.changed_since(before)
    at.desk.complete(run, Done("7"))
    assert at.desk.changed_since(before)
    before = at.desk.tally()
    assert not at.desk.changed_since(before)
    at.ask(1, "prize")
    assert at.desk.changed_since(before)


# --- runs that take too long, and those that wait ---


def overdue(at: Counter, id: int, *callers: int) -> tuple[Run, list[Claim]]:
    """A run of a resource with a timeout that has passed, and its callers' claims."""
    claims = [at.ask(id, "brisk", caller) for caller in callers or (1,)]
    run = at.run()
    at.now += 2.0
    at.desk.mind_the_time()
    return run, claims


def outcomes(finishes: list[Finish]) -> list[tuple[str, str]]:
    return [(finish.claim.id, finish.outcome) for finish in finishes]


def test_a_run_past_its_timeout_is_answered_and_keeps_one_hold(at: Counter) -> None:
    run, (first, behind) = overdue(at, 1, 1, 2)
    finishes = at.finishes()
    assert sorted(outcomes(finishes)) == sorted([(first.id, "stuck"), (behind.id, "error")])
    report = {"type": "HandlerTimeout", "timeout_s": 1.0, "stuck": True}
    assert [json.loads(finish.report) for finish in finishes] == [report, report]
    assert at.desk.held == 1
    assert at.desk.tally().stuck == 1
    at.desk.complete(run, Done("1"))
    assert outcomes(at.finishes()) == [(first.id, "released")]
    assert (at.desk.held, at.desk.tally().stuck, at.desk.idle) == (0, 0, True)


def test_requests_of_an_id_that_is_stuck_are_refused_until_it_ends(at: Counter) -> None:
    run, _ = overdue(at, 1)
    at.finishes()
    late = at.ask(1, "brisk")
    assert outcomes(at.finishes()) == [(late.id, "error")]
    at.desk.complete(run, Done("1"))
    at.finishes()
    at.ask(1, "brisk")
    assert at.run().address == late.address


def test_a_stuck_run_does_not_take_the_slot_of_another(at: Counter) -> None:
    for id in range(10):
        at.ask(id, "brisk")
        at.run()
    waiting = at.ask(11, "charge")
    assert at.desk.next_run() is None
    at.now += 2.0
    at.desk.mind_the_time()
    assert at.run().address == waiting.address


def test_what_is_stuck_when_the_lease_is_lost_is_held_for_nobody(at: Counter) -> None:
    run, _ = overdue(at, 1)
    at.finishes()
    at.desk.forget()
    (hold,) = at.desk.unfinished()
    assert hold.id == f"~{run.token}"
    at.desk.complete(run, Done("1"))
    assert outcomes(at.finishes()) == [(hold.id, "released")]


def test_a_run_that_waits_for_another_id_lets_one_more_run(at: Counter) -> None:
    runs = []
    for id in range(10):
        at.ask(id, "charge")
        runs.append(at.run())
    at.ask(11, "charge")
    at.desk.change_slot(runs[0], "given back")
    at.desk.change_slot(runs[0], "given back")
    assert at.run().address.endswith(":11")
    at.ask(12, "charge")
    at.desk.change_slot(runs[0], "wanted again")
    assert at.desk.next_run() is None, "it goes on when all its requests are answered"
    at.desk.change_slot(runs[0], "wanted again")
    assert at.desk.next_run() is None, "eleven run"
    at.desk.complete(runs[1], Done("1"))
    assert at.desk.next_run() is None, "ten run"
    at.desk.complete(runs[2], Done("1"))
    assert at.run().address.endswith(":12")


def test_what_is_unfinished_is_all_that_has_no_answer(at: Counter) -> None:
    at.compute(3, 7)
    running, behind = at.ask(1, "charge"), at.ask(1, "charge")
    run = at.run()
    at.ask(3)
    assert [claim.id for claim in at.desk.unfinished()] == [running.id, behind.id]
    at.desk.complete(run, Done("1"))
    assert [claim.id for claim in at.desk.unfinished()] == [behind.id]


def test_a_value_ages_from_its_handlers_end_not_from_when_that_is_heard(at: Counter) -> None:
    at.ask(1)
    run = at.run()
    made_at, at.now = at.now, at.now + TTL_S - 1
    at.desk.complete(run, Done("7", made_at))
    (finish,) = at.finishes()
    assert finish.note.split(" ")[2:4] == ["4000", "1000"], "its age, and how long it still lives"
    at.now += 1
    at.ask(1)
    assert at.desk.next_run(), "it is gone"


def test_a_value_that_is_heard_of_too_late_is_not_kept(at: Counter) -> None:
    at.ask(1)
    run = at.run()
    made_at, at.now = at.now, at.now + TTL_S + 1
    at.desk.complete(run, Done("7", made_at))
    assert len(at.finishes()) == 1
    assert at.desk.tally().entries == 0
