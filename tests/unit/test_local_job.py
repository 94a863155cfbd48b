"""What ``enqueue`` returns without a server collects a result as an ``rq.job.Job`` does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from local_shop import WITHIN_S, Clock, Shop
from rq.job import Job, JobStatus
from rq.results import Result

from rqproc.errors import InvalidId
from rqproc.local.job import LocalJob, LocalResult


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shop(clock: Clock) -> Iterator[Shop]:
    shop = Shop()
    with shop.at(clock=clock):
        yield shop
        shop.release(100)


def test_a_job_has_its_value_when_its_handler_has_ended(shop: Shop) -> None:
    job: Any = shop.held.enqueue(1, "tag")
    shop.begun()
    assert job.get_status() == JobStatus.STARTED == "started"
    assert (job.is_started, job.is_queued, job.is_finished, job.is_failed) == (
        True, False, False, False,
    )  # fmt: skip
    assert (job.latest_result(), job.return_value(), job.result) == (None, None, None)
    shop.release()
    result = job.latest_result(timeout=WITHIN_S)
    assert (result.type, result.return_value, result.job_id) == (
        LocalResult.Type.SUCCESSFUL, {"n": 1}, job.id,
    )  # fmt: skip
    assert (job.get_status(), job.is_finished) == (JobStatus.FINISHED, True)
    assert job.return_value() == job.result == {"n": 1}
    assert (job.exc_info, job.description) == (None, "held:1")
    job.refresh()


def test_a_job_that_failed_has_the_traceback(shop: Shop) -> None:
    job: Any = shop.explode.enqueue(7)
    result = job.latest_result(timeout=WITHIN_S)
    assert (job.get_status(), job.is_failed) == (JobStatus.FAILED, True)
    assert result.type.name == Result.Type.FAILED.name
    assert "ValueError: no such id: 7" in result.exc_string == job.exc_info
    assert job.return_value() is None


@pytest.mark.parametrize(("ttl", "after_s"), [(None, 500.0), (60, 60.0), (0, 0.0)])
def test_a_result_is_kept_for_its_ttl(
    shop: Shop, clock: Clock, ttl: int | None, after_s: float
) -> None:
    resource = shop.charge if ttl is None else shop.charge.with_options(result_ttl=ttl)
    job: Any = resource.enqueue(1)
    job.latest_result(timeout=WITHIN_S)
    clock.passes(max(0.0, after_s - 0.5))
    assert (job.return_value() is not None) == (after_s > 0)
    clock.passes(0.5)
    assert job.return_value() is None
    assert job.is_finished


def test_a_result_may_be_kept_for_ever(shop: Shop, clock: Clock) -> None:
    job: Any = shop.charge.with_options(result_ttl=-1).enqueue(1)
    job.latest_result(timeout=WITHIN_S)
    clock.passes(1e9)
    assert job.return_value()["n"] == 1


def test_waiting_for_a_result_ends(shop: Shop) -> None:
    job = shop.held.enqueue(1)
    assert job.latest_result(timeout=0.01) is None  # type: ignore[arg-type]


def test_a_job_joins_a_computation_and_finds_an_entry_as_a_request_does(shop: Shop) -> None:
    jobs: list[Any] = [shop.slow.enqueue(1) for _ in range(3)]
    shop.release()
    values = [job.latest_result(timeout=WITHIN_S).return_value for job in jobs]
    assert values == [{"n": 1}] * 3
    assert shop.slow.enqueue(1).latest_result(timeout=WITHIN_S).return_value == {"n": 1}  # type: ignore[union-attr]


def test_many_jobs_come_in_the_order_of_their_ids(shop: Shop) -> None:
    jobs: list[Any] = shop.charge.enqueue_many(range(300))
    found = [job.latest_result(timeout=WITHIN_S).return_value["id"] for job in jobs]
    assert found == list(range(300))


def test_what_cannot_be_asked_cannot_be_enqueued(shop: Shop) -> None:
    with pytest.raises(InvalidId):
        shop.charge.enqueue("")


def test_a_job_has_what_collects_a_result_of_rqs_by_the_same_names() -> None:
    names = {name for name in vars(LocalJob) if not name.startswith("_")}
    told_by_the_worker = {"hear", "refuse", "fail"}
    assert names - told_by_the_worker <= {name for name in dir(Job) if not name.startswith("_")}
