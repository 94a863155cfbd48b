"""RQ's commands to workers, and its suspension, on real nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from rq import Queue
from rq.command import (
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.exceptions import InvalidJobOperation
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend


@pytest.fixture
def heard(three: Cluster, book: Book) -> Cluster:
    """Nodes that have subscribed to commands."""
    channels = [f"rq:pubsub:rqproc.{three.namespace}.{name}" for name in "abc"]
    kit.eventually(lambda: all(count for _, count in book.redis.pubsub_numsub(*channels)))
    return three


def _stop(book: Book, job_id: str) -> None:
    send_stop_job_command(book.redis, job_id, serializer=JSONSerializer)


@pytest.mark.parametrize("by", ["job", "execution"])
def test_a_coroutine_is_cancelled_by_the_stop_command(
    heard: Cluster,
    book: Book,
    queue: Queue,
    ids: Fresh,
    by: str,
) -> None:
    (id,) = ids(1)
    job = heard.client.enqueue(id, "acharge", args=("tag", 30))
    after = heard.client.enqueue(id, "acharge", args=("after", 0))
    book.started("acharge", id)
    if by == "job":
        _stop(book, job.id)
    else:
        (execution,) = kit.eventually(job.get_executions)
        send_stop_execution_command(book.redis, job.id, execution.id)
    assert kit.ended(job) == JobStatus.STOPPED
    assert job.id in queue.failed_job_registry
    result = job.latest_result()
    assert result
    assert "stopped by RQ's command" in str(result.exc_string)
    assert kit.ended(after) == JobStatus.FINISHED, "its id goes on"
    assert [what for what, tag, _ in book.log("acharge", id) if tag == "tag"] == ["start"]


def test_a_thread_cannot_be_stopped_its_job_is_when_it_returns_and_both_are_said(
    heard: Cluster,
    book: Book,
    queue: Queue,
    ids: Fresh,
) -> None:
    (id,) = ids(1)
    job = heard.client.enqueue(id, "gated")
    book.started("gated", id)
    _stop(book, job.id)
    heard.owner(id).says(f"{job.id} is to stop, but a thread cannot be ended")
    assert job.get_status() == JobStatus.STARTED
    book.release("gated", id)
    assert kit.ended(job) == JobStatus.STOPPED
    result = job.latest_result()
    assert result
    assert "went on to its end" in str(result.exc_string)
    assert job.return_value() is None
    assert queue.started_job_registry.count == 0


def test_who_waits_for_the_same_run_has_its_value_though_the_job_is_stopped(
    heard: Cluster,
    book: Book,
    ids: Fresh,
) -> None:
    (id,) = ids(1)
    job = heard.client.enqueue(id, "slow_price")
    book.started("slow_price", id)
    other = heard.client.enqueue(id, "slow_price")
    _stop(book, job.id)
    heard.owner(id).says("is to stop")
    book.release("slow_price", id)
    assert kit.ended(job) == JobStatus.STOPPED
    assert kit.ended(other) == JobStatus.FINISHED
    assert other.return_value()["n"] == 1


def test_a_job_that_waits_is_not_executing_and_ends_at_a_command_for_it(
    heard: Cluster,
    book: Book,
    queue: Queue,
    ids: Fresh,
) -> None:
    (id,) = ids(1)
    first, second, third = (heard.client.enqueue(id, "gated", args=(n,)) for n in range(3))
    book.started("gated", id)
    with pytest.raises(InvalidJobOperation):
        _stop(book, second.id)
    channel = f"rq:pubsub:rqproc.{heard.namespace}.{heard.client.owner(id)}"
    kit.until_taken(heard.client, [id], 3)
    book.redis.publish(channel, json.dumps({"command": "stop-job", "job_id": second.id}))
    assert kit.ended(second) == JobStatus.STOPPED
    book.release("gated", id, times=3)
    assert {kit.ended(first), kit.ended(third)} == {JobStatus.FINISHED}
    assert book.order("gated", id) == ["0", "2"]


def test_the_shutdown_command_drains_a_node(
    heard: Cluster,
    book: Book,
    ids: Fresh,
) -> None:
    (id,) = ids(1)
    job = heard.client.enqueue(id, "gated")
    book.started("gated", id)
    owner, name = heard.owner(id), heard.client.owner(id)
    send_shutdown_command(book.redis, f"rqproc.{heard.namespace}.{name}")
    kit.eventually(lambda: name not in heard.client.members())
    book.release("gated", id)
    assert owner.wait() == 0
    assert kit.ended(job) == JobStatus.FINISHED


@pytest.mark.parametrize("message", ["", "x", "[]", "{}", '{"command": "nonsense"}', "1" * 9999])
def test_what_is_no_command_of_rqs_is_said_and_changes_nothing(
    heard: Cluster,
    book: Book,
    ids: Fresh,
    message: str,
) -> None:
    (id,) = ids(1)
    name = f"rqproc.{heard.namespace}.{heard.client.owner(id)}"
    book.redis.publish(f"rq:pubsub:{name}", message)
    send_kill_horse_command(book.redis, name)
    heard.owner(id).says("it has no work horse")
    assert heard.client.request(id, "charge")["n"] == 1


def test_while_rq_is_suspended_nodes_start_no_job_and_answer_requests(
    three: Cluster,
    book: Book,
    queue: Queue,
    ids: Fresh,
) -> None:
    running, waiting, later = ids(3)
    first = three.client.enqueue(running, "gated")
    behind = three.client.enqueue(running, "gated")
    book.started("gated", running)
    kit.eventually(lambda: queue.count == 1)
    suspend(book.redis)
    try:
        jobs = [three.client.enqueue(waiting, "charge"), queue.enqueue("charge", later)]
        kit.eventually(lambda: _states(three, book) == {"suspended"})
        book.release("gated", running)
        assert kit.ended(first) == JobStatus.FINISHED
        assert three.client.request(waiting, "price")["n"] == 1
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert {job.get_status() for job in (behind, *jobs)} == {JobStatus.QUEUED}
        assert queue.job_ids == [behind.id, *(job.id for job in jobs)]
    finally:
        resume(book.redis)
    book.release("gated", running)
    assert {kit.ended(job) for job in (behind, *jobs)} == {JobStatus.FINISHED}
    kit.eventually(lambda: "suspended" not in _states(three, book))


def _states(cluster: Cluster, book: Book) -> set[str]:
    keys = book.redis.keys(f"rq:worker:rqproc.{cluster.namespace}.?")
    return {(book.redis.hget(key, "state") or b"").decode() for key in keys}


def test_rqs_own_command_line_suspends_and_resumes(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    cluster.start("a")
    _rq("suspend", cluster)
    try:
        job = cluster.client.enqueue(id, "charge")
        kit.eventually(lambda: _states(cluster, book) == {"suspended"})
        assert job.get_status() == JobStatus.QUEUED
    finally:
        _rq("resume", cluster)
    assert kit.ended(job) == JobStatus.FINISHED


def _rq(command: str, cluster: Cluster) -> None:
    subprocess.run(
        [sys.executable, "-m", "rq.cli", command, "--url", cluster.url],
        env=kit.environ(cluster.url, cluster.namespace),
        capture_output=True,
        timeout=20,
        check=True,
    )
