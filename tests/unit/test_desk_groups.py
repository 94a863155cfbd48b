"""The desk and calls that came together: told and asked by hand, on a clock that stands still."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_desk import KNOWN, TTL_S, Counter, source, value

from rqproc import wire
from rqproc.cluster import Claim, Finish, FinishMany, ManyClaims
from rqproc.node.desk import SHORT_CHARS, Done, Failed
from rqproc.placement import address

DUE = 130.0


@pytest.fixture
def at() -> Counter:
    return Counter()


def many(*addresses: str | bytes, token: int = 50, id: str = "j") -> ManyClaims:
    raw = [text if isinstance(text, bytes) else text.encode() for text in addresses]
    calls = [item for place, text in enumerate(raw) for item in (b"%d" % place, text)]
    return ManyClaims(id, token, calls, "box", 0)


def prices(*ids: int, token: int = 50) -> ManyClaims:
    name = "j" if token == 50 else f"j{token}"
    return many(*(address("price", id) for id in ids), token=token, id=name)


def answers(finish: Finish | FinishMany) -> list[wire.Answer]:
    assert isinstance(finish, FinishMany)
    texts = ",".join(text for _, _, text in finish.calls)
    fields = [b"rqproc", f"{finish.job} many".encode(), b"worker_name", b"w"]
    return list(wire.answers([*fields, b"rqproc_many", f"[{texts}]".encode()]))


def told(finish: Finish | FinishMany) -> dict[str, Any]:
    assert isinstance(finish, Finish)
    found: dict[str, Any] = json.loads(finish.report)
    return found


def out(at: Counter) -> list[Any]:
    """What is to be sent, as if the server acknowledged at once."""
    found: list[Any] = at.finishes()
    return found


def test_what_has_an_entry_is_answered_together(at: Counter) -> None:
    at.compute(1, "one")
    at.compute(3, "three")
    at.now += 2
    at.desk.receive_many(prices(1, 3), due=DUE)
    (finish,) = out(at)
    assert (finish.job, finish.reply, finish.keep_s) == ("j", "box", 60.0 + DUE - at.now)
    first, second = answers(finish)
    assert first == wire.Answer("j:0", "hit", 2.0, 3.0, 1, "w", "one")
    assert (second.job_id, second.value) == ("j:1", "three")
    assert at.desk.tally().hits == 2
    assert at.desk.idle


def test_a_long_value_is_an_answer_of_its_own(at: Counter) -> None:
    """Else many of them would make one that is as large as all."""
    at.compute(1, "x" * SHORT_CHARS)
    at.compute(3, "three")
    at.desk.receive_many(prices(1, 3), due=DUE)
    long, together = out(at)
    assert (long.claim.id, source(long)) == ("j:0", "hit")
    assert [answer.job_id for answer in answers(together)] == ["j:1"]


def test_what_has_none_is_run_and_answered_one_by_one(at: Counter) -> None:
    at.compute(1, "one")
    at.desk.receive_many(prices(1, 3, 5), due=DUE)
    runs = [at.run(), at.run()]
    assert [(run.token, run.request.id) for run in runs] == [(51, 3), (52, 5)]
    assert [finish.job for finish in out(at)] == ["j"]
    for run, outcome in zip(runs, (Done("7"), Failed("ValueError", "no", "")), strict=True):
        at.desk.complete(run, outcome)
    good, bad = out(at)
    assert (good.claim.id, good.claim.kind, source(good), value(good)) == ("j:1", "part", "miss", 7)
    assert (bad.claim.id, told(bad)["remote_type"]) == ("j:2", "ValueError")
    assert at.desk.idle


def test_without_any_entry_there_is_nothing_to_answer_together(at: Counter) -> None:
    at.desk.receive_many(prices(1, 3), due=DUE)
    assert out(at) == []


def test_a_call_among_many_joins_what_runs_and_is_joined(at: Counter) -> None:
    alone = at.ask(1)
    run = at.run()
    at.desk.receive_many(prices(1, 3), due=DUE)
    late = at.ask(3)
    at.desk.complete(run, Done("7"))
    at.desk.complete(at.run(), Done("8"))
    found = [(f.claim.id, source(f), value(f)) for f in out(at)]
    assert found == [
        (alone.id, "miss", 7), ("j:0", "joined", 7), ("j:1", "miss", 8), (late.id, "joined", 8)
    ]  # fmt: skip


def test_choke_points_among_many_are_run_each_on_its_own(at: Counter) -> None:
    at.desk.receive_many(many("1|charge:1", "3|charge:3"), due=DUE)
    runs = [at.run(), at.run()]
    assert [run.address for run in runs] == ["1|charge:1", "3|charge:3"]
    at.desk.receive_many(many("1|charge:1", token=60, id="k"), due=DUE)
    assert at.desk.next_run() is None, "one at a time for each id"
    at.desk.complete(runs[0], Done("1"))
    assert at.run().token == 60


def test_many_of_an_unknown_resource_are_told_each_with_the_known_ones(at: Counter) -> None:
    at.desk.receive_many(many("1|prize:1", "3|prize:3"), due=DUE)
    report = {"type": "UnknownResource", "resource": "prize", "known": KNOWN}
    assert [told(finish) for finish in out(at)] == [report, report]


@pytest.mark.parametrize(
    "bad",
    [
        "2|price:1",
        "01|price:1",
        "1|price:01",
        "1|price:",
        "1|price:\x01",
        f"1|price:{'x' * 201}",
        b"1|price:\xff",
        "1|price:\ue000",
    ],
)
def test_a_call_whose_address_is_no_ids_own_is_refused_alone(at: Counter, bad: str | bytes) -> None:
    """Else it would run beside the lane of the id that it asks for."""
    at.desk.receive_many(many(bad, "3|price:3"), due=DUE)
    (refused,) = out(at)
    assert told(refused)["remote_type"] == "Unreadable"
    assert at.run().address == "3|price:3"
    assert at.desk.next_run() is None


def test_what_is_stuck_is_told_so_and_not_answered_from_an_entry(at: Counter) -> None:
    at.desk.receive_many(many("1|brisk:1", "3|brisk:3"), due=DUE)
    runs = [at.run(), at.run()]
    at.now += 1.5
    at.desk.mind_the_time()
    assert [f.outcome for f in out(at)] == ["stuck", "stuck"]
    at.desk.receive_many(many("1|brisk:1", token=70, id="k"), due=DUE)
    (refused,) = out(at)
    assert (refused.claim.id, told(refused)["type"]) == ("k:0", "HandlerTimeout")
    at.desk.complete(runs[0], Done("7"))
    (released,) = out(at)
    assert (released.claim.id, released.claim.kind, released.outcome) == ("j:0", "part", "released")


def test_many_that_are_told_again_are_served_once(at: Counter) -> None:
    """By a reconciliation, after a take whose reply was seen."""
    at.compute(1, "one")
    at.desk.receive_many(prices(1, 3), due=DUE)
    at.desk.receive_many(prices(1, 3), due=DUE)
    for place, id in enumerate((1, 3)):
        again = Claim(f"j:{place}", 50 + place, address("price", id), "part", "box", 0, b"", 0)
        at.receive(again)
    assert at.run().address == address("price", 3)
    assert at.desk.next_run() is None
    (finish,) = out(at)
    assert [answer.job_id for answer in answers(finish)] == ["j:0"]


def test_many_that_a_session_tells_of_are_answered_one_by_one(at: Counter) -> None:
    """The take's reply was lost."""
    at.compute(1, "one")
    claim = Claim("j:0", 50, address("price", 1), "part", "box", 0, b"", 1)
    at.receive(claim)
    (finish,) = out(at)
    assert (finish.claim, source(finish), value(finish)) == (claim, "hit", "one")


def test_an_answer_to_many_that_may_be_lost_is_sent_again_and_once(at: Counter) -> None:
    at.compute(1, "one")
    at.compute(3, "three")
    at.desk.receive_many(prices(1, 3), due=DUE)
    sent = at.desk.collect()
    at.desk.again(sent)
    assert at.desk.collect() == sent
    assert at.desk.held == 2
    at.desk.acknowledged(sent)
    at.desk.again(sent)
    assert at.desk.collect() == []
    assert at.desk.idle


def test_a_lost_lease_drops_the_answers_to_many(at: Counter) -> None:
    at.compute(1, "one")
    at.desk.receive_many(prices(1, 3), due=DUE)
    sent = at.desk.collect()
    at.desk.forget()
    at.desk.again(sent)
    assert at.desk.collect() == []
    assert at.desk.next_run() is None
    assert at.desk.idle


def test_what_is_invalidated_in_between_is_computed_anew(at: Counter) -> None:
    at.compute(1, "old")
    at.desk.receive_many(prices(1, token=50), due=DUE)
    at.invalidate(1)
    at.desk.receive_many(prices(1, token=60), due=DUE)
    hit, dropped = out(at)
    assert [answer.value for answer in answers(hit)] == ["old"]
    assert value(dropped) is True
    at.desk.complete(at.run(), Done('"new"'))
    assert [value(finish) for finish in out(at)] == ["new"]


def test_at_its_expiry_an_entry_answers_none_of_many(at: Counter) -> None:
    at.compute(1, "old")
    at.now += TTL_S
    at.desk.receive_many(prices(1), due=DUE)
    assert at.run().address == address("price", 1)


def test_whoever_has_given_up_among_many_is_left_out(at: Counter) -> None:
    at.desk.receive_many(prices(1, 3), due=at.now + 1)
    at.now += 1
    assert at.desk.next_run() is None
    assert [(f.claim.id, f.outcome) for f in out(at)] == [("j:0", "expired"), ("j:1", "expired")]
    assert at.desk.idle


def test_a_value_of_anothers_id_answers_many_until_it_is_finished_with(at: Counter) -> None:
    at.compute(1, "one")
    at.desk.receive_many(prices(1), due=DUE)
    first = at.desk.collect()
    at.desk.learn(2, ["b", "c"])
    at.desk.receive_many(prices(1, token=60), due=DUE)
    second = at.desk.collect()
    assert [answers(f)[0].value for f in (*first, *second)] == ["one", "one"]
    at.desk.acknowledged([*first, *second])
    assert at.desk.tally().entries == 0
