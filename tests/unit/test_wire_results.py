"""Results on the wire: values, errors and the story that goes with them."""

from __future__ import annotations

import json
import pickle
import zlib
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqproc import wire
from rqproc.model import Reply
from rqproc.wire import MAX_VALUE_BYTES, UnservableValue, encode_value


def entry(**fields: str) -> list[bytes]:
    """A stream entry as Redis gives it."""
    return [part.encode() for pair in fields.items() for part in pair]


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", float("inf"), {(1, 2): 3}], ids=str)
def test_a_value_that_is_not_json_is_named(value: object) -> None:
    with pytest.raises(UnservableValue, match="the handler's value is not JSON"):
        encode_value(value)


def test_the_refusal_of_a_value_names_its_type() -> None:
    with pytest.raises(UnservableValue, match="datetime"):
        encode_value({"at": [datetime(2026, 1, 1, tzinfo=UTC)]})


def test_the_limits_are_the_documented_ones() -> None:
    assert (wire.MAX_ARGUMENT_BYTES, wire.MAX_VALUE_BYTES) == (65_536, 1_048_576)


def test_a_value_may_be_exactly_as_large_as_the_limit() -> None:
    assert len(encode_value("x" * (MAX_VALUE_BYTES - 2))) == MAX_VALUE_BYTES
    with pytest.raises(UnservableValue, match=f"{MAX_VALUE_BYTES + 1} bytes"):
        encode_value("x" * (MAX_VALUE_BYTES - 1))


def test_a_value_counts_as_the_bytes_that_it_takes() -> None:
    with pytest.raises(UnservableValue):
        encode_value("é" * (MAX_VALUE_BYTES // 6 + 1))


@pytest.mark.parametrize("text", ["null", '{"a":[1,2.5,"\\u00e9"]}', '"\\ud800"'])
def test_a_return_value_is_what_rq_reads(text: str) -> None:
    assert json.loads(b64decode(wire.return_value(text, "json"))) == json.loads(text)
    assert pickle.loads(b64decode(wire.return_value(text, "pickle"))) == json.loads(text)


@pytest.mark.parametrize("text", ["Traceback\n", "é", "\ud800", ""])
def test_an_exc_string_is_what_rq_reads(text: str) -> None:
    read = zlib.decompress(b64decode(wire.exc_string(text))).decode()
    assert read == text.encode(errors="replace").decode()


@given(
    st.sampled_from(["hit", "joined", "miss"]),
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    st.integers(0, 2**53),
)
def test_a_note_reads_back_to_the_millisecond(
    source: str, age_s: float, expires_in_s: float, token: int
) -> None:
    note = wire.note("job", source, age_s=age_s, expires_in_s=expires_in_s, token=token)
    found = wire.answer(
        entry(type="1", worker_name="n", return_value=wire.return_value("7", "json"), rqproc=note)
    )
    assert (found.job_id, found.source, found.token, found.value) == ("job", source, token, 7)
    assert found.age_s == pytest.approx(age_s, abs=0.000501)
    assert found.expires_in_s == pytest.approx(expires_in_s, abs=0.000501)


def test_an_answer_becomes_a_reply() -> None:
    note = wire.note("job", "hit", age_s=1.5, expires_in_s=3.5, token=9)
    body = wire.return_value('{"a":1}', "json")
    fields = entry(type="1", worker_name="rqproc.shop.n1", return_value=body, rqproc=note)
    reply = wire.answer(fields).reply(42, node_queues="rqproc.shop.")
    assert reply == Reply(42, {"a": 1}, "n1", "hit", 1.5, 3.5, 9)


def test_a_report_is_read_in_place_of_a_value() -> None:
    report = wire.failure_report("ValueError", "no", "Traceback\n")
    note = wire.note("job", "error", token=3)
    found = wire.answer(
        entry(type="2", worker_name="n", exc_string="", rqproc=note, rqproc_error=report)
    )
    assert found.report == {
        "type": "HandlerFailed",
        "remote_type": "ValueError",
        "message": "no",
        "traceback": "Traceback\n",
    }


def test_long_texts_of_an_error_are_cut() -> None:
    """The message keeps its beginning, the traceback its end."""
    report = json.loads(wire.failure_report("E", "m" * 5000 + "!", "?" + "t" * 40_000))
    assert report["message"] == "m" * 4096
    assert report["traceback"] == "t" * 32768


def test_an_unknown_resource_is_told_with_the_known_ones_sorted() -> None:
    report: dict[str, Any] = json.loads(wire.unknown_resource_report("x", ["b", "a"]))
    assert report == {"type": "UnknownResource", "resource": "x", "known": ["a", "b"]}


def test_times_are_written_as_rq_reads_them() -> None:
    from rq.utils import str_to_date

    near = timedelta(milliseconds=1)
    before = datetime.now(UTC)
    read = str_to_date(wire.utc())
    assert read
    assert before - near <= read <= datetime.now(UTC) + near


# --- answers that come together ---

VALUES = [
    None, True, False, 0, -1, 2**63, 1.5, 1e300, "", "a,b]\"\\", "é€\U0001f600", "\ud800", "\x00\n",
    [], {}, [[1], {"a": [None]}], {"": {"k": "v"}}, "x" * 10_000,
]  # fmt: skip


def many(*texts: str, worker: str = "rqproc.shop.n1") -> list[wire.Answer]:
    note, body = b"job many 0,1", f"[{','.join(texts)}]".encode()
    fields = [b"type", b"1", b"worker_name", worker.encode(), b"rqproc_many", body, b"rqproc", note]
    return list(wire.answers(fields))


@pytest.mark.parametrize("value", VALUES)
def test_every_value_comes_through_among_others(value: object) -> None:
    texts = [
        wire.many_answer(
            number, "hit", wire.encode_value(value), age_s=1.25, expires_in_s=3.5, token=2**53
        )
        for number in (b"0", b"255")
    ]
    first, last = many(*texts)
    assert first == wire.Answer("job:0", "hit", 1.25, 3.5, 2**53, "rqproc.shop.n1", value)
    assert (last.job_id, last.value) == ("job:255", value)


def test_an_answer_among_others_is_the_reply_that_it_would_be_alone() -> None:
    text = wire.many_answer(b"7", "hit", "[1]", age_s=0.0004, expires_in_s=0.0, token=1)
    (answer,) = many(text)
    reply = answer.reply(42, node_queues="rqproc.shop.")
    assert (reply.id, reply.value, reply.node, reply.source) == (42, [1], "n1", "hit")
    assert (reply.age_s, reply.expires_in_s, reply.token) == (0.0, 0.0, 1)


def test_an_entry_with_one_answer_is_read_as_one() -> None:
    fields = [b"type", b"2", b"rqproc", b"j:3 error 0 0 0", b"rqproc_error", b'{"type":"X"}']
    assert wire.answers(fields) == (wire.Answer("j:3", report={"type": "X"}),)
