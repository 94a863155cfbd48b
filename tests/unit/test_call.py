"""One pending call: which answers have come, which are missing, and what is made of them."""

from __future__ import annotations

import pytest
from made_calls import a_call, answer, group_answer, rest

from rqproc.calls.call import Call, Raw, check_result_ttl, check_timeout, plain
from rqproc.errors import (
    ConfigError,
    HandlerFailed,
    InvalidId,
    NoLiveNode,
    PayloadTooLarge,
    RedisUnavailable,
    RequestTimeout,
)
from rqproc.model import Reply, Request
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.answer_codec import Answer, Part

NOBODY = Answer("error", report={"type": "NoLiveNode"})


@pytest.mark.parametrize("timeout", [0.001, 1, 7 * 86400])
def test_a_timeout_in_bounds_is_kept(timeout: float) -> None:
    assert check_timeout(timeout) == timeout


@pytest.mark.parametrize("timeout", [0, -1, 7 * 86400 + 1, float("nan"), float("inf"), "5", None])
def test_a_timeout_out_of_bounds_is_refused(timeout: object) -> None:
    with pytest.raises(ConfigError, match="invalid timeout"):
        check_timeout(timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("ttl_s", [None, -1, 0, 500, 2**31 - 1])
def test_a_result_ttl_in_bounds_is_kept(ttl_s: int | None) -> None:
    assert check_result_ttl(ttl_s) == ttl_s


@pytest.mark.parametrize("ttl_s", [-2, 2**31, 1.5, "5"])
def test_a_result_ttl_out_of_bounds_is_refused(ttl_s: object) -> None:
    with pytest.raises(ConfigError, match="invalid result_ttl"):
        check_result_ttl(ttl_s)  # type: ignore[arg-type]


def test_a_request_is_made_of_its_canonical_id_its_address_and_its_data() -> None:
    id, address, data = plain("price", "7")
    assert (id, address) == (7, "7-price-7")
    assert codec.decode_call(data.encode(), functions={}).request == Request("price", 7)
    with pytest.raises(InvalidId):
        plain("price", True)
    with pytest.raises(ConfigError):
        plain("no such name", 1)


# --- which answers there are ---


def test_at_first_all_are_missing() -> None:
    call = a_call(1, 2, 3)
    assert (call.left, call.missing()) == (3, [0, 1, 2])
    assert (call.carried, call.heard, call.unsure) == (False, False, False)


def test_what_is_missing_keeps_its_order() -> None:
    call = a_call(1, 2, 3)
    call.take(1, rest(answer("x")))
    assert (call.left, call.missing()) == (2, [0, 2])


def test_an_answer_that_comes_twice_counts_once() -> None:
    call = a_call(1, 2)
    call.take(0, rest(answer("x", 7)))
    call.take(0, rest(answer("x", 8)))
    assert call.left == 1
    assert call.outcome(0, "shop").value == 7  # type: ignore[union-attr]


def test_a_group_answered_by_two_owners_is_whole_with_the_second() -> None:
    call = a_call(1, 2, 3)
    call.take_group(0, rest(group_answer("g", 0, 2)))
    assert (call.left, call.missing()) == (1, [1])
    call.take_group(0, rest(group_answer("g", 1, node="n2")))
    assert call.left == 0
    found = call.outcomes("shop")
    assert [(reply.value, reply.node) for reply in found.values()] == [  # type: ignore[union-attr]
        (0, "n1"),
        (1, "n2"),
        (2, "n1"),
    ]


def test_to_ask_what_is_missing_changes_nothing() -> None:
    """Another thread may take in an answer at that moment."""
    call = a_call(1, 2, 3)
    call.take_group(0, rest(group_answer("g", 0)))
    before = (call.left, list(call.answers))
    assert call.missing() == [1, 2]
    assert (call.left, call.answers) == before


def test_answers_of_a_group_that_was_asked_again_count_once_each() -> None:
    call = a_call(1, 2, 3)
    call.take_group(0, rest(group_answer("g", 0, 1)))
    call.unsure = True
    call.take_group(0, rest(group_answer("g", 0, 1)))
    assert (call.left, call.missing()) == (1, [2])


def test_parts_of_later_groups_stand_behind_those_of_earlier_ones() -> None:
    call = a_call(*range(300))
    call.take_group(256, rest(group_answer("h", *range(44))))
    assert call.missing() == list(range(256))
    call.take_group(0, rest(group_answer("g", *range(256))))
    assert call.left == 0
    values = [reply.value for reply in call.outcomes("shop").values()]  # type: ignore[union-attr]
    assert values == [*range(256), *range(44)]


def test_an_error_is_told_once() -> None:
    call = a_call()
    call.error = error = RuntimeError("cut")
    assert call.fetch_error() is error
    assert call.fetch_error() is None


def test_where_nobody_lived_last_that_is_the_answer_when_time_is_over() -> None:
    call = a_call(1, 2, 3)
    call.take(0, rest(answer("x")))
    call.no_node_answers = {0: NOBODY, 1: NOBODY}
    call.give_up()
    assert call.answers[0] == rest(answer("x"))
    assert call.answers[1] is NOBODY
    assert call.answers[2] is None


def test_an_answer_in_a_group_counts_more_than_that_nobody_lived() -> None:
    call = a_call(1, 2)
    call.take_group(0, rest(group_answer("g", 0)))
    call.no_node_answers = {0: NOBODY}
    call.give_up()
    assert call.outcome(0, "shop").value == 0  # type: ignore[union-attr]


def test_answers_may_come_while_time_is_over() -> None:
    """Another thread reads for this one, until it has left."""
    call = a_call(1, 2)

    class Overtaken(Call):
        __slots__ = ()

        def take(self, place: int, answer: Raw) -> None:
            assert self.no_node_answers
            self.no_node_answers.pop(1, None)
            super().take(place, answer)

    call.__class__ = Overtaken
    call.no_node_answers = {0: NOBODY, 1: NOBODY}
    call.give_up()
    assert call.answers[0] is NOBODY


# --- what is made of them ---


def test_an_answer_is_read_when_it_is_wanted() -> None:
    call = a_call(1)
    call.take(0, b'hit 1000 4000 9 n1 {"a": 1}')
    assert call.value("shop") == {"a": 1}
    assert call.reply("shop") == Reply(1, {"a": 1}, "n1", "hit", 1.0, 4.0, 9)


def test_an_error_is_raised_by_its_only_caller() -> None:
    call = a_call(1)
    report = answer_codec.failure_report("ValueError", "no")
    call.take(0, rest(answer_codec.encode_answer("x", "error", report, node="n1").encode()))
    for read in (call.value, call.reply):
        with pytest.raises(HandlerFailed, match="price 1: the handler raised ValueError: no"):
            read("shop")


def test_a_part_of_a_group_of_several_callers_is_read_alone() -> None:
    call = a_call(5)
    call.take(0, Part(b"n1", b'[3,"hit",1000,4000,9,7]'))
    assert call.reply("shop") == Reply(5, 7, "n1", "hit", 1.0, 4.0, 9)


def test_each_id_has_its_reply_or_its_error_in_the_order_asked() -> None:
    call = a_call(3, 1, 2, timeout_s=2.0)
    call.take(0, b"hit 1000 4000 9 n1 7")
    call.take(1, NOBODY)
    found = call.outcomes("shop")
    assert list(found) == [3, 1, 2]
    assert found[3] == Reply(3, 7, "n1", "hit", 1.0, 4.0, 9)
    assert isinstance(found[1], NoLiveNode)
    assert isinstance(found[2], RequestTimeout)
    assert found[2].timeout_s == 2.0


def test_whoever_is_late_is_told_whether_the_server_had_the_request() -> None:
    call = a_call(7)
    assert "nor did the server say" in str(call.outcome(0, "shop"))
    call.heard = True
    assert "it waits at its owner" in str(call.outcome(0, "shop"))
    call.advice = "do this"
    assert str(call.outcome(0, "shop")).endswith(" s: do this")


def test_what_did_not_come_because_of_an_outage_is_told_so() -> None:
    call = a_call(1, 2)
    call.outage = RedisUnavailable("there", "away")
    call.take_group(0, rest(group_answer("g", 1)))
    assert call.outcome(0, "shop") is call.outage
    assert isinstance(call.outcome(1, "shop"), Reply), "a group need not have been read before"


# --- what is sent ---


def test_an_invalidation_is_not_taken_for_a_request_of_the_same_id() -> None:
    asked = [a_call(kind=kind).data(0) for kind in ("c", "i")]
    functions = [codec.decode_call(_raw(data), functions={}).function for data in asked]
    assert functions == [codec.REQUEST, codec.INVALIDATE]


def test_arguments_are_sent_as_they_were_when_it_was_asked() -> None:
    amounts = [1, 2]
    call = a_call(kind="a", args=(amounts,))
    first = call.data(0)
    amounts.append(3)
    assert call.data(0) == first, "asked again, under the same id"
    assert codec.decode_call(_raw(first), functions={}).request == Request("price", 1, ([1, 2],))


@pytest.mark.parametrize(
    ("args", "error"), [((object(),), ConfigError), (("x" * 70_000,), PayloadTooLarge)]
)
def test_arguments_that_cannot_be_sent_are_refused(
    args: tuple[object, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        a_call(kind="a", args=args).data(0)


def _raw(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode()
