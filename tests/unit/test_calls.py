"""Requests made ready and answers made into values, without any connection."""

from __future__ import annotations

import json

import pytest

from rqproc import calls, wire
from rqproc.calls import check_result_ttl, check_timeout
from rqproc.errors import (
    ConfigError,
    HandlerFailed,
    InvalidId,
    NoLiveNode,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
)
from rqproc.keys import Keys
from rqproc.model import Reply, Request
from rqproc.wire import Answer

KEYS = Keys("shop")


def sent(*ids: int) -> calls.Batch:
    return calls.batch([Request("price", id) for id in ids], kind="call", timeout_s=2.0)


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


def test_an_id_is_made_canonical_once() -> None:
    assert calls.request_of("7", "price", [1], None) == Request("price", 7, (1,), {})
    with pytest.raises(InvalidId):
        calls.request_of(True, "price", [], None)


def test_each_request_is_a_job_of_its_own_with_its_address() -> None:
    batch = sent(1, 2)
    assert [job.address for job in batch.order.jobs] == ["1|price:1", "2|price:2"]
    assert [batch.requests[job.id].id for job in batch.order.jobs] == [1, 2]
    read = [wire.decode_call(job.data, functions={}).request for job in batch.order.jobs]
    assert read == [Request("price", 1), Request("price", 2)]


def test_ids_of_jobs_are_fresh_and_such_that_rq_takes_them() -> None:
    ids = {job.id for _ in range(50) for job in sent(1, 2).order.jobs}
    assert len(ids) == 100
    assert all(id.isalnum() and id.isascii() for id in ids)


def test_the_stream_of_an_order_is_not_known_before_it_is_sent() -> None:
    assert (sent(1, 2).order.reply, sent(1, 2).order.timeout_s) == ("", 2.0)
    job = calls.batch([Request("price", 1)], kind="job").order
    assert (job.reply, job.timeout_s) == ("", 0.0)


def test_the_arguments_of_one_request_are_not_anothers() -> None:
    requests = [
        Request("charge", 1, (5,)),
        Request("charge", 1, (), {"a": 1}),
        Request("charge", 1),
    ]
    batch = calls.batch(requests, kind="call", timeout_s=1.0)
    read = [wire.decode_call(job.data, functions={}).request for job in batch.order.jobs]
    assert read == requests


def test_an_invalidation_is_not_taken_for_a_request_of_the_same_id() -> None:
    plain = sent(1).order.jobs[0].data
    other = calls.batch([Request("price", 1)], kind="call", function=wire.INVALIDATE)
    assert other.order.jobs[0].data != plain
    assert wire.decode_call(other.order.jobs[0].data, functions={}).function == wire.INVALIDATE


def test_too_large_arguments_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(PayloadTooLarge):
        calls.batch([Request("charge", 1, ("x" * 70_000,))], kind="call", timeout_s=1.0)


def test_each_id_has_its_reply_or_its_error_in_the_order_asked() -> None:
    batch = sent(3, 1, 2)
    three, one, _ = (job.id for job in batch.order.jobs)
    answers = {
        one: Answer(one, report={"type": "HandlerFailed", "remote_type": "E", "message": "m"}),
        three: Answer(three, "hit", 1.0, 4.0, 9, "rqproc.shop.n1", 7),
    }
    found = calls.outcomes(batch, answers, KEYS)
    assert list(found) == [3, 1, 2]
    assert found[3] == Reply(3, 7, "n1", "hit", 1.0, 4.0, 9)
    assert isinstance(found[1], HandlerFailed)
    assert isinstance(found[2], RequestTimeout)
    assert found[2].timeout_s == 2.0


def test_the_first_error_is_raised_unless_errors_are_wanted_as_values() -> None:
    batch = sent(1, 2)
    answers = {batch.order.jobs[0].id: Answer("j", "hit", worker="rqproc.shop.n", value=7)}
    found = calls.outcomes(batch, answers, KEYS)
    with pytest.raises(RequestTimeout):
        calls.values(found, return_exceptions=False)
    kept = calls.values(found, return_exceptions=True)
    assert kept[1] == 7
    assert isinstance(kept[2], RequestTimeout)


def test_jobs_that_were_not_queued_have_their_errors() -> None:
    batch = calls.batch([Request("price", 1), Request("price", 2)], kind="job")
    full = json.dumps({"type": "Overloaded", "node": "n", "queued": 3, "limit": 3}).encode()
    none = json.dumps({"type": "NoLiveNode"}).encode()
    assert calls.refusals(batch, [b"", b""], KEYS) == [None, None]
    first, second = calls.refusals(batch, [b"", full], KEYS)
    assert first is None
    assert isinstance(second, Overloaded)
    assert isinstance(calls.refusals(batch, [none, full], KEYS)[0], NoLiveNode)


# --- calls that go together ---


def test_calls_go_together_256_to_a_job_in_the_order_asked() -> None:
    batch = calls.together("price", range(600), timeout_s=2.0)
    order = batch.order
    assert (order.kind, order.timeout_s, order.parent) == ("call", 2.0, "")
    names = [job.id.partition(":")[0] for job in order.jobs]
    assert [names.count(name) for name in dict.fromkeys(names)] == [256, 256, 88]
    numbers = [int(job.id.partition(":")[2]) for job in order.jobs]
    assert numbers == [*range(256), *range(256), *range(88)]
    assert [batch.requests[job.id] for job in order.jobs] == [
        Request("price", id) for id in range(600)
    ]
    assert [job.address for job in order.jobs[:2]] == ["0|price:0", "1|price:1"]
    assert {job.data for job in order.jobs} == {b""}, "an address says all"


def test_the_data_of_a_job_that_carries_many_is_no_request() -> None:
    """A porter that meets one in the ingress queue refuses it."""
    data = calls.together("price", [1, 2], timeout_s=2.0).order.together
    assert json.loads(data) == [wire.REQUEST_MANY, None, [], {"resource": "price"}]
    with pytest.raises(wire.Unreadable):
        wire.decode_call(data, functions={})
