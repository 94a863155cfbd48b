"""What of RQ's features holds for jobs of the queue ``rqproc``, and what is refused: the rows of
the table in rqproc/docs/rq.md.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from rq import Callback, Queue, Repeat, Retry
from rq.exceptions import DuplicateJobError
from rq.group import Group
from rq.job import Job, JobStatus
from rq.rate_limit import RateLimit, RateLimitRegistry
from rq.registry import ScheduledJobRegistry
from rq.webhook import Webhook

from rqproc.node import dependents


@pytest.fixture
def one(cluster: Cluster) -> Cluster:
    cluster.start("a")
    return cluster


def test_a_rate_limit_lets_the_next_go_when_one_has_ended(
    one: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    asked, key = ids(3), f"limit-{one.namespace}"
    jobs = [queue.enqueue("gated", id, rate_limit=RateLimit(key, 1)) for id in asked]
    waiting = dict(zip(asked, jobs, strict=True))
    while waiting:  # RQ has those of one second go in any order
        kit.eventually(lambda: any(book.has_started("gated", id) for id in waiting))
        (id,) = (id for id in waiting if book.has_started("gated", id))
        book.started("gated", id)
        del waiting[id]
        left = [job.get_status() for job in waiting.values()]
        assert left == [JobStatus.RATE_LIMITED] * len(left)
        book.release("gated", id)
    assert {kit.ended(job) for job in jobs} == {JobStatus.FINISHED}
    registry = RateLimitRegistry(key, book.redis)
    kit.eventually(lambda: registry.get_allowed_job_count() == 0)
    registry.cleanup()


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_what_is_cancelled_or_deleted_while_it_runs_gives_back_its_place_under_a_rate_limit(
    one: Cluster, book: Book, queue: Queue, ids: Fresh, how: str
) -> None:
    first, second = ids(2)
    limit = RateLimit(f"limit-{how}-{one.namespace}", 1)
    running = queue.enqueue("gated", first, rate_limit=limit)
    waiting = queue.enqueue("charge", second, rate_limit=limit)
    book.started("gated", first)
    getattr(running, how)()
    assert waiting.get_status() == JobStatus.RATE_LIMITED, "a run that goes on keeps its place"
    book.release("gated", first)
    kit.eventually(lambda: waiting.get_status() == JobStatus.FINISHED)
    registry = RateLimitRegistry(limit.key, book.redis)
    kit.eventually(lambda: registry.get_allowed_job_count() == 0)
    registry.cleanup()


def test_maintenance_frees_the_place_of_a_cancelled_job_whose_node_has_died(
    cluster: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=kit.BRISK)
    first, second = ids(2)
    limit = RateLimit(f"limit-{cluster.namespace}", 1)
    running = queue.enqueue("gated", first, rate_limit=limit)
    waiting = queue.enqueue("charge", second, rate_limit=limit)
    book.started("gated", first)
    running.cancel()
    node.kill()
    cluster.start("b", options=kit.BRISK)
    kit.eventually(lambda: [node.name for node in cluster.client.membership().nodes] == ["b"])
    assert waiting.get_status() == JobStatus.RATE_LIMITED
    dependents.maintain(queue.name, book.redis)
    assert kit.ended(waiting) == JobStatus.FINISHED


@pytest.mark.parametrize("interval", [0, 1])
def test_a_job_that_fails_is_retried(
    one: Cluster, book: Book, queue: Queue, ids: Fresh, interval: int
) -> None:
    (id,) = ids(1)
    job = queue.enqueue("fragile", id, retry=Retry(max=2, interval=interval))
    assert kit.ended(job) == JobStatus.FINISHED
    assert job.return_value()["n"] == 2
    job.refresh()
    assert job.retries_left == 1
    assert len(job.results()) == 1, "a run that is tried again leaves no failure"


def test_retries_have_an_end(one: Cluster, book: Book, queue: Queue, ids: Fresh) -> None:
    (id,) = ids(1)
    job = queue.enqueue("explode", id, retry=Retry(max=2))
    assert kit.ended(job) == JobStatus.FAILED
    assert len(book.log("explode", id)) == 3
    assert job.id in queue.failed_job_registry


@pytest.mark.parametrize("interval", [0, 1])
def test_a_job_is_repeated(
    one: Cluster, book: Book, queue: Queue, ids: Fresh, interval: int
) -> None:
    (id,) = ids(1)
    job = queue.enqueue("charge", id, repeat=Repeat(times=2, interval=interval))
    kit.eventually(lambda: book.count("charge", id) == 3)
    assert kit.ended(job) == JobStatus.FINISHED
    assert [result.return_value["n"] for result in job.results()] == [3, 2, 1]
    assert queue.count == ScheduledJobRegistry(queue=queue).count == 0


@pytest.mark.parametrize("again", [{"retry": Retry(2)}, {"repeat": Repeat(2)}])
def test_what_runs_again_at_once_is_not_taken_for_lost(
    one: Cluster, book: Book, queue: Queue, ids: Fresh, again: dict[str, Any]
) -> None:
    """It is back at its node, which does nothing else, before that has read that its last run is
    over.
    """
    resource = "explode" if "retry" in again else "charge"
    for id in ids(5):
        kit.ended(queue.enqueue(resource, id, **again))
        starts = [line for line in book.log(resource, id) if line[0] == "start"]
        assert len(starts) == 3
    assert "are lost on their way" not in str(one.nodes["a"].stderr)


def _nothing(*arguments: Any) -> None:
    raise AssertionError("no node runs this")


@pytest.mark.parametrize("name", ["on_success", "on_failure", "on_stopped", "webhooks"])
def test_callbacks_and_webhooks_are_refused_at_once(
    one: Cluster, book: Book, queue: Queue, ids: Fresh, name: str
) -> None:
    (id,) = ids(1)
    hook: Any = [Webhook("http://127.0.0.1:9/", "finished")]
    wanted: dict[str, Any] = {name: hook if name == "webhooks" else Callback(_nothing)}
    job = queue.enqueue("charge", id, **wanted)
    assert kit.ended(job) == JobStatus.FAILED
    result = job.latest_result()
    assert result
    assert f"no {name}" in str(result.exc_string)
    assert book.count("charge", id) == 0


@pytest.mark.parametrize("how", ["in", "at"])
def test_a_scheduled_job_is_enqueued_when_its_time_has_come(
    one: Cluster, book: Book, queue: Queue, ids: Fresh, how: str
) -> None:
    (id,) = ids(1)
    delay = timedelta(seconds=3)  # of which RQ drops up to one
    if how == "in":
        job = queue.enqueue_in(delay, "charge", id)
    else:
        job = queue.enqueue_at(datetime.now(UTC) + delay, "charge", id)
    assert job.get_status() == JobStatus.SCHEDULED
    due = ScheduledJobRegistry(queue=queue).get_scheduled_time(job)
    assert kit.ended(job) == JobStatus.FINISHED
    assert datetime.now(UTC) >= due
    assert job.id not in ScheduledJobRegistry(queue=queue)


def test_a_scheduled_job_that_is_cancelled_is_not_run(
    one: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    late, other = ids(2)
    job = queue.enqueue_in(timedelta(seconds=3), "charge", late)
    job.cancel()
    after = queue.enqueue_in(timedelta(seconds=4), "charge", other)
    assert kit.ended(after) == JobStatus.FINISHED
    assert book.count("charge", late) == 0


def charge(id: int) -> None:
    raise AssertionError("the nodes' app has another of this name")


charge.__module__ = "shop"


def test_cron_enqueues_what_nodes_run(one: Cluster, book: Book, queue: Queue, ids: Fresh) -> None:
    from rq.cron import CronScheduler

    (id,) = ids(1)
    cron = CronScheduler(connection=book.redis)
    cron.register(charge, queue.name, args=(id,), interval=1)
    assert len(cron.enqueue_jobs()) == 1
    kit.eventually(lambda: book.count("charge", id) == 1)


def test_the_jobs_of_a_group_are_run(one: Cluster, book: Book, queue: Queue, ids: Fresh) -> None:
    asked = ids(3)
    group = Group.create(connection=book.redis)
    data = [Queue.prepare_data("charge", args=(id,)) for id in asked]
    jobs = group.enqueue_many(queue, data)
    assert {kit.ended(job) for job in jobs} == {JobStatus.FINISHED}
    assert [book.count("charge", id) for id in asked] == [1] * 3


def test_a_job_waits_for_another_that_it_depends_on(
    one: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    first, second = ids(2)
    before = queue.enqueue("gated", first)
    after = queue.enqueue("charge", second, depends_on=before)
    book.started("gated", first)
    assert after.get_status() == JobStatus.DEFERRED
    book.release("gated", first)
    assert kit.ended(before) == JobStatus.FINISHED
    kit.eventually(lambda: after.get_status() == JobStatus.FINISHED)


def test_a_job_that_depends_on_one_that_failed_waits_for_ever(
    one: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    bad, second = ids(2)
    before = queue.enqueue("explode", bad)
    after = queue.enqueue("charge", second, depends_on=before)
    assert kit.ended(before) == JobStatus.FAILED
    assert after.get_status() == JobStatus.DEFERRED


@pytest.mark.parametrize("interval", [0, 2])
def test_a_job_waits_for_the_last_try_of_another_that_it_depends_on(
    one: Cluster, book: Book, queue: Queue, ids: Fresh, interval: int
) -> None:
    first, second = ids(2)
    before = queue.enqueue("explode", first, retry=Retry(1, interval=interval))
    after = queue.enqueue("charge", second, depends_on=before)
    assert kit.ended(before) == JobStatus.FAILED
    assert (after.get_status(), book.count("charge", second)) == (JobStatus.DEFERRED, 0)


def test_a_job_that_is_retried_later_gives_back_its_place_under_a_rate_limit(
    one: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    first, second, third = ids(3)
    limit = RateLimit(f"limit-{one.namespace}", 1)
    before = queue.enqueue("explode", first, rate_limit=limit, retry=Retry(1, interval=600))
    waiting = queue.enqueue("charge", second, rate_limit=limit)
    depends = queue.enqueue("charge", third, depends_on=before)
    kit.eventually(lambda: waiting.get_status() == JobStatus.FINISHED)
    assert before.get_status() == JobStatus.SCHEDULED
    assert depends.get_status() == JobStatus.DEFERRED


def test_a_unique_job_is_enqueued_once(one: Cluster, book: Book, queue: Queue, ids: Fresh) -> None:
    (id,) = ids(1)
    job = queue.enqueue("gated", id, job_id=f"only-{one.namespace}", unique=True)
    with pytest.raises(DuplicateJobError):
        queue.enqueue("gated", id, job_id=job.id, unique=True)
    book.started("gated", id)
    with pytest.raises(DuplicateJobError):
        queue.enqueue("gated", id, job_id=job.id, unique=True)
    book.release("gated", id)
    assert kit.ended(job) == JobStatus.FINISHED


def test_the_timeout_of_a_job_does_not_hold_that_of_its_resource_does(
    one: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    job = queue.enqueue("charge", id, "tag", 1.5, job_timeout=1)
    assert kit.ended(job) == JobStatus.FINISHED
    overlong = queue.enqueue("aoverlong", id)
    assert kit.ended(overlong) == JobStatus.FAILED


def test_meta_is_kept(one: Cluster, book: Book, queue: Queue, ids: Fresh) -> None:
    job = queue.enqueue("charge", ids(1)[0], meta={"by": "me"})
    assert kit.ended(job) == JobStatus.FINISHED
    assert Job.fetch(job.id, book.redis, queue.serializer).meta == {"by": "me"}


def test_results_and_failures_are_kept_as_long_as_the_job_says(
    one: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    good, bad = ids(2)
    jobs = [
        queue.enqueue("charge", good, result_ttl=100),
        queue.enqueue("explode", bad, failure_ttl=200),
    ]
    for job, ttl in zip(jobs, (100, 200), strict=True):
        kit.ended(job)
        assert ttl - 10 < book.redis.ttl(job.key) <= ttl


def test_a_job_that_is_not_started_within_its_ttl_is_never_run(
    one: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    queue.enqueue("gated", id, "first")
    book.started("gated", id)
    job = queue.enqueue("gated", id, "late", ttl=1)
    last = queue.enqueue("gated", id, "last")
    time.sleep(1.1)  # its time to live
    book.release("gated", id, times=3)
    assert kit.ended(last) == JobStatus.FINISHED
    assert book.order("gated", id) == ["first", "last"]
    assert not Job.exists(job.id, book.redis) or job.get_status() == JobStatus.CANCELED
