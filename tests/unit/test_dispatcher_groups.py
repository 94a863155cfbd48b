"""The dispatcher and calls that came together: told and asked by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dispatching import TTL_S, Bench

from rqproc.ids import address
from rqproc.model import Request
from rqproc.node.intake import SHORT_BYTES, Settle
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.node_commands import Ending


@pytest.fixture
def at() -> Bench:
    return Bench()


def text_of(*addresses: str) -> bytes:
    """What stands in the hash of a group."""
    return " ".join(f"{place} {where}" for place, where in enumerate(addresses)).encode()


def prices(*ids: int) -> bytes:
    return text_of(*(address("price", id) for id in ids))


def read(at: Bench, text: bytes | None, group: bytes = b"r0-g5") -> list[Settle]:
    """A group comes, and is read; return what is to be settled."""
    at.intake.take([group])
    assert at.intake.groups() == [group]
    at.intake.read_group(group, text)
    return list(at.intake.asks().settles) if at.intake.has_asks else []


def answers(payload: Any, group: str = "r0-g5") -> list[tuple[int, answer_codec.Answer]]:
    named, _, rest = str(payload).partition(" ")
    assert named == group
    return answer_codec.decode_group(rest.encode())


def only(endings: list[Ending]) -> Ending:
    (ending,) = endings
    return ending


def test_where_all_have_an_entry_they_are_answered_together(at: Bench) -> None:
    at.compute(1, "one")
    at.compute(3, "three")
    at.now += 2
    text = prices(1, 3)
    assert read(at, text) == []
    how, group, payload, length = only(at.sent())
    assert (how, group, length) == ("many", "r0-g5", str(len(text)))
    assert answers(payload) == [
        (0, answer_codec.Answer("hit", 2.0, 3.0, 1, "b", "one")),
        (1, answer_codec.Answer("hit", 2.0, 3.0, 2, "b", "three")),
    ]
    assert at.dispatcher.figures.tally().hits == 2
    assert at.dispatcher.idle


def test_where_some_have_none_these_are_settled_and_named_by_their_places(at: Bench) -> None:
    at.compute(3, "three")
    text = prices(1, 3, 5)
    (settle,) = read(at, text)
    assert (settle.group, settle.length) == ("r0-g5", len(text))
    assert [place for place, _ in answers(settle.answers)] == [1]
    data = [codec.encode_request(Request("price", id)) for id in (1, 5)]
    assert settle.runs == [("r0-c5_0-1-price-1", data[0]), ("r0-c5_2-5-price-5", data[1])]
    assert at.sent() == []


def test_without_any_entry_there_is_nothing_to_answer_together(at: Bench) -> None:
    (settle,) = read(at, prices(1, 3))
    assert settle.answers == ""
    assert len(settle.runs) == 2


def test_a_long_value_is_an_answer_of_its_own(at: Bench) -> None:
    """Else many of them would make one that is as large as all."""
    at.compute(1, "x" * SHORT_BYTES)
    at.compute(3, "three")
    (settle,) = read(at, prices(1, 3))
    assert [id for id, _ in settle.runs] == ["r0-c5_0-1-price-1"]
    assert [place for place, _ in answers(settle.answers)] == [1]


def test_a_part_that_was_claimed_is_a_call_like_any_other(at: Bench) -> None:
    alone = at.ask(1)
    run = at.run()
    (settle,) = read(at, prices(1, 3))
    for id, data in settle.runs:
        at.data[id.encode()] = data
        at.grant(id.encode())
    late = at.ask(3)
    at.done(run)
    at.done(at.run(), "8")
    assert [(end.id, end.source, end.value) for end in at.ends()] == [
        (alone, "miss", 7), ("r0-c5_0-1-price-1", "joined", 7),
        ("r0-c5_1-3-price-3", "miss", 8), (late, "joined", 8),
    ]  # fmt: skip
    assert at.dispatcher.idle


def test_choke_points_among_many_are_run_each_on_its_own(at: Bench) -> None:
    (settle,) = read(at, text_of("1-charge-1", "1-charge-1"))
    for id, data in settle.runs:
        at.data[id.encode()] = data
        at.grant(id.encode())
    first = at.run()
    assert at.scheduler.next_run() is None, "one at a time for each id"
    at.done(first)
    assert at.run()


@pytest.mark.parametrize("text", [None, b"", b"garbage", b"x 1-price-1", b"0 1-price-\xff"])
def test_a_group_without_calls_is_settled_empty_so_that_it_is_not_open_for_ever(
    at: Bench, text: bytes | None
) -> None:
    assert read(at, text) == [Settle("r0-g5", len(text or b""), "", [])]


@pytest.mark.parametrize("bad", ["2-price-1", "01-price-1", "1-price-01", "1-p_zz-1"])
def test_a_call_whose_address_is_no_ids_own_is_refused_alone(at: Bench, bad: str) -> None:
    """Else it would run beside the lane of the id that it asks for."""
    (settle,) = read(at, text_of(bad, "3-price-3"))
    assert [data for _, data in settle.runs] == [b"", codec.encode_request(Request("price", 3))]
    for id, data in settle.runs:
        at.data[id.encode()] = data
        at.grant(id.encode())
    (refused,) = at.ends()
    assert refused.error["remote_type"] == "Unreadable"
    assert at.run().address == "3-price-3"
    assert at.scheduler.next_run() is None


def test_many_of_an_unknown_resource_are_to_be_claimed_and_told_each(at: Bench) -> None:
    (settle,) = read(at, text_of("1-prize-1", "3-prize-3"))
    for id, data in settle.runs:
        at.data[id.encode()] = data
        at.grant(id.encode())
    assert {end.error["type"] for end in at.ends()} == {"UnknownResource"}


def test_a_group_that_is_popped_twice_is_read_once(at: Bench) -> None:
    at.intake.take([b"r0-g5", b"r0-g5"])
    assert at.intake.groups() == [b"r0-g5"]


def test_what_is_invalidated_in_between_is_computed_anew(at: Bench) -> None:
    at.compute(1, "old")
    read(at, prices(1))
    at.invalidate(1)
    (settle,) = read(at, prices(1), b"r0-g6")
    assert [id for id, _ in settle.runs] == ["r0-c6_0-1-price-1"]


def test_at_its_expiry_an_entry_answers_none_of_many(at: Bench) -> None:
    at.compute(1, "old")
    at.now += TTL_S
    (settle,) = read(at, prices(1))
    assert settle.answers == ""


def test_after_a_lost_connection_all_of_many_are_claimed(at: Bench) -> None:
    at.compute(1)
    at.intake.distrust_entries(10.0)
    (settle,) = read(at, prices(1))
    assert (settle.answers, len(settle.runs)) == ("", 1)


def test_the_answers_of_a_group_are_json_that_can_be_taken_apart_unread(at: Bench) -> None:
    at.compute(1, {"deep": ["a,\nb"]})
    at.compute(3, None)
    read(at, prices(1, 3))
    payload = str(only(at.sent())[2])
    body = payload.split(" ", 6)[6]
    assert [part[0] for part in json.loads(body)] == [0, 1]
    assert body.count("\n") == 1
