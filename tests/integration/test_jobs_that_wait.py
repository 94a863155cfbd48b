"""Jobs that wait and jobs that run, as RQ's tools see them, and what RQ does to them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from rq import Queue, Worker
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry


def _gated(cluster: Cluster, id: int, count: int) -> list[Job]:
    """So many jobs of one id, in their order; the first runs until it is released."""
    return [cluster.client.enqueue(id, "gated", args=(tag,)) for tag in range(count)]


def test_of_ten_jobs_of_one_id_one_runs_and_nine_wait_in_rqs_list(
    three: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    first, *others = _gated(three, id, 10)
    book.started("gated", id)
    kit.eventually(lambda: queue.count == 9)
    assert first.get_status() == JobStatus.STARTED
    assert first.get_position() is None
    assert [job.get_status() for job in others] == [JobStatus.QUEUED] * 9
    assert [job.get_position() for job in others] == list(range(9))
    assert queue.job_ids == [job.id for job in others]
    assert queue.started_job_registry.get_job_ids() == [first.id]
    assert first in queue.started_job_registry
    book.release("gated", id, times=10)
    assert {kit.ended(job) for job in [first, *others]} == {JobStatus.FINISHED}
    assert book.order("gated", id) == [str(tag) for tag in range(10)]
    assert queue.count == queue.started_job_registry.count == 0
    left = book.redis.keys("rq:execution*")
    assert not [key for key in left if first.id.encode() in key]


def test_what_a_worker_runs_is_told_by_its_executions(
    three: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    (job,) = _gated(three, id, 1)
    book.started("gated", id)
    (execution,) = kit.eventually(job.get_executions)
    name = f"rqproc.{three.namespace}.{three.client.owner(id)}"
    assert execution.worker_name == name
    (worker,) = [w for w in Worker.all(connection=book.redis) if w.name == name]
    assert worker.current_execution_count == 1
    assert worker.get_current_job_id() == job.id
    assert [found.id for found in worker.get_current_executions()] == [execution.id]
    kit.eventually(lambda: Worker.find_by_key(worker.key, book.redis).get_state() == "busy")
    book.release("gated", id)
    kit.ended(job)
    assert worker.get_current_executions(refresh=True) == []


def test_rq_info_counts_what_runs_and_what_waits(
    three: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    _gated(three, id, 3)
    book.started("gated", id)
    kit.eventually(lambda: queue.count == 2)
    said = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "--url", three.url, "--raw", queue.name],
        env=kit.environ(three.url, three.namespace),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout
    assert f"queue {queue.name} 2, 1 executing, 0 finished, 0 failed" in said
    book.release("gated", id, times=3)


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "of any application"])
def test_what_is_cancelled_or_deleted_while_it_waits_is_never_run(
    three: Cluster, book: Book, queue: Queue, ids: Fresh, foreign: bool
) -> None:
    (id,) = ids(1)
    if foreign:
        jobs = [queue.enqueue("gated", id, tag) for tag in range(5)]
    else:
        jobs = _gated(three, id, 5)
    first, canceled, deleted, removed, last = jobs
    book.started("gated", id)
    kit.eventually(lambda: queue.count == 4)
    canceled.cancel()
    deleted.delete()
    queue.remove(removed)
    book.release("gated", id, times=5)
    assert (kit.ended(first), kit.ended(last)) == (JobStatus.FINISHED, JobStatus.FINISHED)
    assert book.order("gated", id) == ["0", "4"]
    assert canceled.get_status() == JobStatus.CANCELED
    assert canceled.id in CanceledJobRegistry(queue=queue)
    assert canceled.id not in queue.finished_job_registry
    assert not Job.exists(deleted.id, book.redis)
    kit.eventually(lambda: all(node.held == 0 for node in three.client.membership().nodes))


def test_a_queue_that_is_emptied_runs_nothing_of_what_waited(
    three: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    first, *_ = _gated(three, id, 5)
    book.started("gated", id)
    kit.eventually(lambda: queue.count == 4)
    assert queue.empty() == 4
    book.release("gated", id, times=5)
    assert kit.ended(first) == JobStatus.FINISHED
    kit.eventually(lambda: all(node.held == 0 for node in three.client.membership().nodes))
    assert book.order("gated", id) == ["0"]


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_what_is_cancelled_or_deleted_while_it_runs_stays_so(
    three: Cluster, book: Book, queue: Queue, ids: Fresh, how: str
) -> None:
    (id,) = ids(1)
    first, second = _gated(three, id, 2)
    book.started("gated", id)
    getattr(first, how)()
    assert queue.started_job_registry.count == 0
    book.release("gated", id, times=2)
    assert kit.ended(second) == JobStatus.FINISHED
    if how == "cancel":
        assert first.get_status() == JobStatus.CANCELED
        assert first.id not in queue.finished_job_registry
        assert first.latest_result() is None
    else:
        assert not Job.exists(first.id, book.redis)
        assert not book.redis.exists(f"rq:results:{first.id}")


def test_jobs_that_wait_are_counted_where_no_node_is_alive(
    cluster: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    jobs = [cluster.client.enqueue(id, "charge"), queue.enqueue("charge", id)]
    assert queue.job_ids == [job.id for job in jobs]
    assert queue in Queue.all(connection=book.redis)
    cluster.start("a")
    assert {kit.ended(job) for job in jobs} == {JobStatus.FINISHED}


def test_jobs_of_a_node_that_dies_wait_again_the_one_that_ran_first(
    cluster: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    cluster.start("a", options=kit.BRISK)
    jobs = _gated(cluster, id, 3)
    book.started("gated", id)
    kit.eventually(lambda: queue.count == 2)
    cluster.nodes["a"].kill()
    cluster.start("b", options=kit.BRISK)
    book.started("gated", id)
    assert queue.job_ids == [job.id for job in jobs[1:]]
    assert queue.started_job_registry.get_job_ids() == [jobs[0].id]
    (execution,) = jobs[0].get_executions()
    assert execution.worker_name.endswith(".b")
    book.release("gated", id, times=3)
    assert {kit.ended(job) for job in jobs} == {JobStatus.FINISHED}


def test_a_node_that_drains_gives_back_the_jobs_that_wait_there(
    three: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    jobs = _gated(three, id, 4)
    book.started("gated", id)
    kit.eventually(lambda: queue.count == 3)
    owner = three.owner(id)
    three.client.drain(three.client.owner(id) or "")
    kit.eventually(lambda: len(three.client.members()) == 2)
    book.release("gated", id, times=4)
    assert owner.wait() == 0
    assert {kit.ended(job) for job in jobs} == {JobStatus.FINISHED}
    nodes = [where for what, _, where in book.log("gated", id) if what == "start"]
    assert nodes[0] not in nodes[1:]


def test_jobs_of_a_kept_value_are_answered_by_one_run_and_a_cancelled_one_is_not(
    three: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    first, second, canceled = (three.client.enqueue(id, "slow_price") for _ in range(3))
    book.started("slow_price", id)
    kit.eventually(lambda: queue.count == 2)
    canceled.cancel()
    book.release("slow_price", id)
    assert (kit.ended(first), kit.ended(second)) == (JobStatus.FINISHED, JobStatus.FINISHED)
    assert first.return_value() == second.return_value()
    second.refresh()
    assert second.started_at
    assert canceled.get_status() == JobStatus.CANCELED
    assert book.count("slow_price", id) == 1
    assert queue.count == 0


def test_a_job_enqueued_at_the_front_runs_before_those_that_wait(
    three: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    id, _, _, behind = ids(4)
    assert three.client.owner(id) == three.client.owner(behind)
    jobs = [queue.enqueue("gated", id, tag) for tag in ("running", "last")]
    book.started("gated", id)
    kit.eventually(lambda: queue.count == 1)
    jobs += [queue.enqueue("gated", id, tag, at_front=True) for tag in ("second", "first")]
    kit.until_taken(three.client, [behind], 4)
    assert [job.get_position() for job in jobs] == [None, 2, 1, 0]
    book.release("gated", id, times=4)
    assert {kit.ended(job) for job in jobs} == {JobStatus.FINISHED}
    assert book.order("gated", id)[0] == "running"
    assert book.order("gated", id)[-1] == "last"


def test_a_stock_worker_and_nodes_share_what_waits_without_running_it_twice(
    three: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    jobs = [queue.enqueue("rqproc.request", id, resource="gated") for _ in range(4)]
    book.started("gated", id)
    kit.eventually(lambda: queue.count == 3)
    command = (sys.executable, "-m", "rq.cli", "worker", "-w", "rq.SimpleWorker", "--burst",
               "-S", "rq.serializers.JSONSerializer", "--url", three.url, queue.name)  # fmt: skip
    with kit.Running(command, env=kit.environ(three.url, three.namespace)) as worker:
        kit.eventually(lambda: queue.count < 3)
        book.release("gated", id, times=4)
        assert {kit.ended(job) for job in jobs} == {JobStatus.FINISHED}
        assert worker.wait() == 0
    assert book.count("gated", id) == 4
