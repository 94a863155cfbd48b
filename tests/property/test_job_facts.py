"""Facts about jobs, on a real server: RQ's own rules, and what its tools see."""

from __future__ import annotations

import pytest
from callers import Callers
from ledger import Wanted
from rq import Queue, Worker
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer
from serving import started
from steps import ended, enqueued, taken

from rqproc.lab.servers import ServerProcess
from rqproc.protocol.keys import job_key, results_key
from rqproc.protocol.messages import Sent


def fetched(server: ServerProcess, job: Wanted) -> RqJob:
    return RqJob.fetch(job.id, connection=server.client(), serializer=JSONSerializer)


def test_rq_lists_the_nodes_and_their_queues(stage: Callers, server: ServerProcess) -> None:
    node = started(stage)
    keys = stage.world.keys
    (worker,) = Worker.all(connection=server.client())
    assert worker.name == keys.queue_name("a")
    assert worker.queue_names() == [keys.queue_name("a"), keys.ingress]
    assert {queue.name for queue in Queue.all(connection=server.client())} == {
        keys.ingress,
        keys.queue_name("a"),
    }
    stage.leave(node.inc)
    assert keys.queue_name("a") not in {q.name for q in Queue.all(connection=server.client())}
    assert not Worker.all(connection=server.client())


def test_a_finished_job_is_what_rq_makes_of_one(stage: Callers, server: ServerProcess) -> None:
    node = started(stage)
    job = enqueued(stage)
    assert fetched(server, job).get_status() is JobStatus.QUEUED
    (claim,) = taken(stage, node)
    running = fetched(server, job)
    assert running.get_status() is JobStatus.STARTED
    assert running.worker_name == stage.world.keys.queue_name("a")
    ended(stage, node)
    done = fetched(server, job)
    assert done.get_status() is JobStatus.FINISHED
    assert done.return_value() == node.word(claim)
    assert done.ended_at
    registry = FinishedJobRegistry(stage.world.keys.ingress, connection=server.client())
    assert registry.get_job_ids() == [job.id]
    assert 490 < server.client().ttl(job_key(job.id)) <= 500


def test_a_failed_job_is_what_rq_makes_of_one(stage: Callers, server: ServerProcess) -> None:
    node = started(stage)
    job = enqueued(stage)
    ended(stage, node, ok=False)
    failed = fetched(server, job)
    assert failed.get_status() is JobStatus.FAILED
    latest = failed.latest_result()
    assert latest
    assert latest.exc_string == "no"
    registry = FailedJobRegistry(stage.world.keys.ingress, connection=server.client())
    assert registry.get_job_ids() == [job.id]


@pytest.mark.parametrize(("ttl_s", "left"), [(0, -2), (-1, -1), (30, 30), (None, 500)])
def test_a_result_is_kept_as_long_as_its_job_says(
    stage: Callers, ttl_s: int | None, left: int
) -> None:
    node = started(stage)
    job = enqueued(stage, result_ttl_s=ttl_s)
    (claim,) = taken(stage, node)
    stage.world.run(stage.commands.answer(node.inc, [node.ending(claim)]))
    keys = (job_key(job.id), results_key(job.id))
    assert [stage.world.run(("TTL", key)) for key in keys] == [left, left]


@pytest.mark.parametrize("ttl", ["1.5", "inf", "nan", "1e300", "-7", "soon", ""])
def test_a_senseless_result_ttl_does_not_end_an_answer_half_way(stage: Callers, ttl: str) -> None:
    node = started(stage)
    job = enqueued(stage)
    stage.world.run(("HSET", job_key(job.id), "result_ttl", ttl))
    ended(stage, node)
    assert stage.world.run(("HGET", job_key(job.id), "status")) == b"finished"


def test_an_answer_names_the_jobs_that_others_depend_on_repeated_too(stage: Callers) -> None:
    node = started(stage)
    awaited, lonely = enqueued(stage), enqueued(stage)
    stage.world.run(("SADD", f"{job_key(awaited.id)}:dependents", "next"))
    endings = [node.ending(claim) for claim in taken(stage, node)]
    assert {ending[1] for ending in endings} == {awaited.id, lonely.id}
    for _ in range(2):
        told = stage.world.run(stage.commands.answer(node.inc, endings))
        assert told == [awaited.id.encode()]


def test_a_jobs_ttl_goes_on_while_it_waits_to_be_adopted(stage: Callers) -> None:
    """RQ counts it from the enqueueing, as the expiry of the job's hash."""
    started(stage)
    place, data = stage.new_call(0)
    wanted = Wanted("foreign", place, "job", data, foreign=True, ttl_s=60)
    fields: dict[str, str | bytes] = {"status": "queued", "data": data, "ttl": "60"}
    stage.put(wanted, stage.world.keys.ingress_queue, fields)
    stage.world.run(("EXPIRE", job_key("foreign"), "10"))
    stage.carry()
    deadline = int(stage.world.run(("HGET", job_key("foreign"), "rqproc_deadline")))
    assert 0 < deadline - stage.now <= 10_000


@pytest.mark.parametrize("text", [None, "text"])
def test_inspect_reads_what_there_is(stage: Callers, text: str | None) -> None:
    job = enqueued_raw(stage, "good")
    if text:
        stage.world.run(("SET", job_key("bad"), text))
    found = stage.world.run(stage.commands.inspect([b"bad", job.encode(), b"\xff"]))
    assert found == [b"", b"data", b""]


def enqueued_raw(stage: Callers, id: str) -> str:
    stage.world.run(("HSET", job_key(id), "data", "data"))
    return id


def test_a_job_that_was_cancelled_is_not_run(stage: Callers) -> None:
    node = started(stage)
    job = enqueued(stage)
    stage.world.run(("HSET", job_key(job.id), "status", "canceled"))
    job.state = "over"
    assert taken(stage, node) == []
    assert not stage.view.holders
    assert not stage.view.open[node.inc]


def test_a_job_that_is_enqueued_twice_is_queued_once(stage: Callers) -> None:
    started(stage)
    jobs = [Sent("job", *stage.new_call(0))]
    for _ in range(2):
        assert stage.world.run(stage.commands.enqueue(jobs)) == [b""]
    assert stage.world.run(("LRANGE", stage.world.keys.queue("a"), "0", "-1")) == [b"job"]


def test_an_end_of_a_job_that_arrives_twice_adds_no_result(stage: Callers) -> None:
    node = started(stage)
    job = enqueued(stage)
    (claim,) = taken(stage, node)
    for _ in range(2):
        stage.world.run(stage.commands.answer(node.inc, [node.ending(claim)]))
    assert stage.world.run(("XLEN", results_key(job.id))) == 1


def test_a_job_that_was_cancelled_while_it_ran_is_not_recovered(stage: Callers) -> None:
    node = started(stage)
    job = enqueued(stage)
    taken(stage, node)
    stage.world.run(("HSET", job_key(job.id), "status", "canceled"))
    stage.report_death(node)
    assert not stage.view.waiting
    assert stage.world.run(("HGET", job_key(job.id), "status")) == b"canceled"
