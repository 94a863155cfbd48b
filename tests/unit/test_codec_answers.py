"""Results on the wire: values, errors and the story that goes with them."""

from __future__ import annotations

import json
import pickle
import sys
import zlib
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqproc.model import Reply
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.codec import MAX_VALUE_BYTES, UnservableValue, encode_value


@pytest.mark.parametrize(
    "value",
    [{1, 2}, object(), b"x", float("inf"), {(1, 2): 3}],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_not_json_is_named(value: object) -> None:
    with pytest.raises(UnservableValue, match="the handler's value is not JSON"):
        encode_value(value)


def test_the_refusal_of_a_value_names_its_type() -> None:
    with pytest.raises(UnservableValue, match="datetime"):
        encode_value({"at": [datetime(2026, 1, 1, tzinfo=UTC)]})


def test_the_limits_are_the_documented_ones() -> None:
    assert (codec.MAX_ARGUMENT_BYTES, codec.MAX_VALUE_BYTES) == (65_536, 1_048_576)


def test_a_value_may_be_exactly_as_large_as_the_limit() -> None:
    assert len(encode_value("x" * (MAX_VALUE_BYTES - 2))) == MAX_VALUE_BYTES
    with pytest.raises(UnservableValue, match=f"{MAX_VALUE_BYTES + 1} bytes"):
        encode_value("x" * (MAX_VALUE_BYTES - 1))


def test_a_value_counts_as_the_bytes_that_it_takes() -> None:
    with pytest.raises(UnservableValue):
        encode_value("é" * (MAX_VALUE_BYTES // 6 + 1))


@pytest.mark.parametrize("text", ["null", '{"a":[1,2.5,"\\u00e9"]}', '"\\ud800"'])
def test_a_return_value_is_what_rq_reads(text: str) -> None:
    assert json.loads(b64decode(codec.return_value(text, "json"))) == json.loads(text)
    assert pickle.loads(b64decode(codec.return_value(text, "pickle"))) == json.loads(text)


@pytest.mark.parametrize("text", ["Traceback\n", "é", "\ud800", ""])
def test_an_exc_string_is_what_rq_reads(text: str) -> None:
    read = zlib.decompress(b64decode(codec.exc_string(text))).decode()
    assert read == text.encode(errors="replace").decode()


# --- answers ---


def rest_of(payload: str | bytes, call: str = "rab-c0-1-r-1") -> bytes:
    """An answer without its id, as callers take it."""
    raw = payload.encode() if isinstance(payload, str) else payload
    id, _, rest = raw.partition(b" ")
    assert id.decode() == call
    return rest


@given(
    st.sampled_from(["hit", "joined", "miss"]),
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    st.integers(0, 2**53),
)
def test_an_answer_reads_back_to_the_millisecond(
    source: str, age_s: float, expires_in_s: float, token: int
) -> None:
    payload = answer_codec.encode_answer(
        "rab-c0-1-r-1", source, "7", node="n1", age_s=age_s, expires_in_s=expires_in_s, token=token
    )
    found = answer_codec.decode_answer(rest_of(payload))
    assert (found.source, found.token, found.node, found.value) == (source, token, "n1", 7)
    assert found.age_s == pytest.approx(age_s, abs=0.000501)
    assert found.expires_in_s == pytest.approx(expires_in_s, abs=0.000501)
    assert answer_codec.decode_value(rest_of(payload)) == 7


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.integers(0, 2**53))
def test_a_hit_is_told_as_any_other_answer(age_s: float, expires_in_s: float, token: int) -> None:
    shown: dict[str, Any] = {"age_s": age_s, "expires_in_s": expires_in_s, "token": token}
    hit = answer_codec.encode_hit(b"rab-c0-1-r-1", b"[1]", node=b"n1", **shown)
    assert hit.decode() == answer_codec.encode_answer(
        "rab-c0-1-r-1", "hit", "[1]", node="n1", **shown
    )


VALUES = [
    None, True, False, 0, -1, 2**63, 1.5, 1e300, "", "a,b]\"\\", "é€\U0001f600", "\ud800", "\x00\n",
    [], {}, [[1], {"a": [None]}], {"": {"k": "v"}}, "x" * 10_000, " ", ",\n",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_every_value_comes_through(value: object) -> None:
    payload = answer_codec.encode_answer("rab-c0-1-r-1", "miss", encode_value(value), node="n1")
    assert answer_codec.decode_answer(rest_of(payload)).value == value
    assert answer_codec.decode_value(rest_of(payload)) == value


def test_an_answer_becomes_a_reply() -> None:
    payload = answer_codec.encode_answer(
        "rab-c0-1-r-1", "hit", '{"a":1}', node="n1", age_s=1.5, expires_in_s=3.5, token=9
    )
    reply = answer_codec.decode_answer(rest_of(payload)).reply(42)
    assert reply == Reply(42, {"a": 1}, "n1", "hit", 1.5, 3.5, 9)


def test_a_report_is_read_in_place_of_a_value() -> None:
    report = answer_codec.failure_report("ValueError", "no", "Traceback\n")
    payload = answer_codec.encode_answer("rab-c0-1-r-1", "error", report, node="n1", token=3)
    found = answer_codec.decode_answer(rest_of(payload))
    assert (found.source, found.token, found.node, found.value) == ("error", 3, "n1", None)
    assert found.report == {
        "type": "HandlerFailed",
        "remote_type": "ValueError",
        "message": "no",
        "traceback": "Traceback\n",
    }


def test_a_refusal_is_the_answer_that_its_report_says() -> None:
    assert answer_codec.refusal(b'{"type":"NoLiveNode"}').report == {"type": "NoLiveNode"}


def test_long_texts_of_an_error_are_cut() -> None:
    """The message keeps its beginning, the traceback its end."""
    report = json.loads(answer_codec.failure_report("E", "m" * 5000 + "!", "?" + "t" * 40_000))
    assert report["message"] == "m" * 4096
    assert report["traceback"] == "t" * 32768


def test_an_unknown_resource_is_told_with_the_known_ones_sorted() -> None:
    report: dict[str, Any] = json.loads(answer_codec.unknown_resource_report("x", ["b", "a"]))
    assert report == {"type": "UnknownResource", "resource": "x", "known": ["a", "b"]}


def test_times_are_written_as_rq_reads_them() -> None:
    from rq.utils import str_to_date

    near = timedelta(milliseconds=1)
    before = datetime.now(UTC)
    read = str_to_date(codec.utc())
    assert read
    assert before - near <= read <= datetime.now(UTC) + near


# --- answers that come together ---


def group(*values: object) -> bytes:
    texts = [
        answer_codec.encode_part(
            str(place), "hit", encode_value(value), age_s=1.25, expires_in_s=3.5, token=2**53
        )
        for place, value in enumerate(values)
    ]
    return rest_of(answer_codec.encode_group("rab-g0", "n1", texts), "rab-g0")


@pytest.mark.parametrize("value", VALUES)
def test_every_value_comes_through_among_others(value: object) -> None:
    answer = answer_codec.Answer("hit", 1.25, 3.5, 2**53, "n1", value)
    assert answer_codec.decode_group(group(value, value)) == [(0, answer), (1, answer)]


def test_a_group_is_counted_and_taken_apart_unread() -> None:
    rest = group(*VALUES)
    assert answer_codec.count_group(rest) == len(VALUES)
    parts = answer_codec.split_group(rest)
    assert [part.place for part in parts] == list(range(len(VALUES)))
    assert [answer_codec.decode_part(part) for part in parts] == [
        answer for _, answer in answer_codec.decode_group(rest)
    ]


def test_an_answer_among_others_is_the_reply_that_it_would_be_alone() -> None:
    part = answer_codec.encode_part("7", "hit", "[1]", age_s=0.0004, expires_in_s=0.0, token=1)
    ((place, answer),) = answer_codec.decode_group(
        rest_of(answer_codec.encode_group("rab-g0", "n1", [part]), "rab-g0")
    )
    assert place == 7
    assert answer.reply(42) == Reply(42, [1], "n1", "hit", 0.0, 0.0, 1)


# --- what one process writes and another cannot read -----------------------------------------


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (10**4400, "over 4300 digits"),
        ({"a": [-(10**4400)]}, "over 4300 digits"),
        (nested(201), "over 200 deep"),
        ({1: "a", "1": "b"}, "cannot tell apart"),
        ([{None: 1, "null": 2}], "cannot tell apart"),
    ],
    ids=["digits", "digits within", "depth", "keys", "keys within"],
)
def test_what_others_could_not_read_is_refused_where_it_is_made(
    value: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # as a node's program may
    try:
        with pytest.raises(UnservableValue, match=said):
            encode_value(value)
    finally:
        sys.set_int_max_str_digits(limit)


def test_what_is_just_small_enough_is_served() -> None:
    for value in (10**4299 - 1, nested(200), {1: "a", "2": "b", None: "c"}):
        assert json.loads(encode_value(value))


MANY_DIGITS = b"9" * 5000
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("body", [MANY_DIGITS, DEEP], ids=["digits", "depth"])
def test_a_value_that_cannot_be_read_is_an_error_of_its_own_call(body: bytes) -> None:
    answer = answer_codec.decode_answer(b"hit 1 2 3 n1 " + body)
    assert answer.report
    assert answer.report["remote_type"] == "UnservableValue"


@pytest.mark.parametrize("body", [MANY_DIGITS, DEEP], ids=["digits", "depth"])
def test_of_a_group_only_the_call_fails_whose_value_cannot_be_read(body: bytes) -> None:
    rest = b'many 0 0 0 n1 [[0,"hit",0,9,1,7],\n[1,"hit",0,9,1,%b]]' % body
    (zero, good), (one, bad) = answer_codec.decode_group(rest)
    assert (zero, good.value, one) == (0, 7, 1)
    assert bad.report
    assert bad.report["type"] == "HandlerFailed"
