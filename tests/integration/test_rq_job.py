"""What `enqueue` returns is an ordinary RQ job, for all of RQ's own tools."""

from __future__ import annotations

import pickle
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from rq import Queue, Worker
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from rqproc import Client
from rqproc.errors import ConfigError, PayloadTooLarge

STOCK_WORKER = """
import sys, os
from redis import Redis
from rq import Queue, SimpleWorker
connection = Redis.from_url(os.environ["RQPROC_REDIS_URL"])
queue = Queue(sys.argv[1], connection=connection)
SimpleWorker([queue], connection=connection).work(burst=True)
connection.close()
"""


def _fetched(book: Book, job: Job) -> Job:
    """As anyone does who has but its id: in RQ's default serializer."""
    return Job.fetch(job.id, connection=book.redis)


def _ended(job: Job) -> JobStatus:
    """The status of a job once its result is there."""
    status = kit.ended(job)
    assert job.latest_result()
    return status


def test_a_finished_job_is_read_by_stock_rq(client: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    job = client.enqueue(id, "charge", args=("tag",), kwargs={"pause_s": 0})
    assert isinstance(job, Job)
    assert _ended(job) == JobStatus.FINISHED
    found = _fetched(book, job)
    value = found.return_value()
    assert (value["n"], value["node"]) == (1, f"n{id % 3 + 1}")
    assert (found.origin, found.func_name) == ("rqproc.shop", "rqproc.request")
    assert found.args[0] == id
    assert found.worker_name == f"rqproc.shop.n{id % 3 + 1}"
    assert found.created_at <= found.enqueued_at <= found.ended_at
    assert found.description == f"charge:{id}"
    queue = Queue("rqproc.shop", connection=book.redis)
    assert job.id in FinishedJobRegistry(queue=queue)


def test_a_job_is_started_after_it_was_enqueued(client: Client, book: Book, ids: Fresh) -> None:
    one, other = ids(2, of=0, modulo=3)
    client.request(one, "charge")
    job = client.enqueue(other, "charge")
    _ended(job)
    found = _fetched(book, job)
    assert found.enqueued_at
    assert found.started_at
    assert found.enqueued_at <= found.started_at


def test_the_result_is_kept_for_rqs_own_time(client: Client, book: Book, ids: Fresh) -> None:
    job = client.enqueue(ids(1)[0], "charge")
    _ended(job)
    for key in (f"rq:job:{job.id}", f"rq:results:{job.id}"):
        assert 490 <= book.redis.ttl(key) <= 500


def test_another_result_ttl_is_honoured(client: Client, book: Book, ids: Fresh) -> None:
    short, ever, none = ids(3)
    job = client.enqueue(short, "charge", result_ttl=20)
    _ended(job)
    assert 15 <= book.redis.ttl(f"rq:job:{job.id}") <= 20
    assert 15 <= book.redis.ttl(f"rq:results:{job.id}") <= 20
    job = client.enqueue(ever, "charge", result_ttl=-1)
    _ended(job)
    assert book.redis.ttl(f"rq:job:{job.id}") == book.redis.ttl(f"rq:results:{job.id}") == -1
    job = client.enqueue(none, "charge", result_ttl=0)
    kit.eventually(lambda: not book.redis.exists(f"rq:job:{job.id}", f"rq:results:{job.id}"))
    assert book.count("charge", none) == 1


def test_a_resource_passes_its_own_result_ttl_on(shop: str, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    text = f"from shop import charge; print(charge.with_options(result_ttl=400).enqueue({id}).id)"
    job_id = kit.script(text, shop, "shop")
    job = Job.fetch(job_id, connection=book.redis)
    _ended(job)
    assert 300 <= book.redis.ttl(f"rq:job:{job_id}") <= 400


@pytest.mark.parametrize("result_ttl", [1.5, "5", 2**64])
def test_a_result_ttl_that_makes_no_sense_is_refused(
    cluster: Cluster, ids: Fresh, result_ttl: int
) -> None:
    with pytest.raises(ConfigError):
        cluster.client.enqueue(ids(1)[0], "charge", result_ttl=result_ttl)


def test_a_failed_job_is_read_by_stock_rq(client: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    job = client.enqueue(id, "explode")
    assert _ended(job) == JobStatus.FAILED
    found = _fetched(book, job)
    result = found.latest_result()
    assert result
    assert result.type == result.Type.FAILED
    assert f"ValueError: no such id: {id}" in str(result.exc_string)
    assert "in explode" in str(result.exc_string)
    assert found.return_value() is None
    registry = FailedJobRegistry(queue=Queue("rqproc.shop", connection=book.redis))
    assert job.id in registry
    assert DEFAULT_FAILURE_TTL - 60 <= book.redis.ttl(f"rq:job:{job.id}") <= DEFAULT_FAILURE_TTL


def test_a_failed_job_can_be_requeued_by_stock_rq(client: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    job = client.enqueue(id, "fragile")
    assert _ended(job) == JobStatus.FAILED
    registry = FailedJobRegistry(queue=Queue("rqproc.shop", connection=book.redis))
    registry.requeue(job.id)
    found = kit.eventually(
        lambda: next((j for j in [_fetched(book, job)] if j.get_status() == "finished"), None)
    )
    assert found.return_value()["n"] == 2
    assert job.id not in registry


def test_a_job_cancelled_before_it_is_taken_is_not_run(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    job = cluster.client.enqueue(id, "charge")
    _fetched(book, job).cancel()
    other = cluster.client.enqueue(id, "charge")
    cluster.start("a")
    _ended(other)
    assert _fetched(book, job).get_status() == JobStatus.CANCELED
    assert book.count("charge", id) == 1


@pytest.mark.parametrize("result_ttl", [None, 0])
def test_a_stock_job_that_depends_on_ours_is_run_after_it(
    shop: str, client: Client, book: Book, ids: Fresh, result_ttl: int | None
) -> None:
    (id,) = ids(1)
    after = f"after-{token_hex(4)}"
    ours = client.enqueue(id, "gated", result_ttl=result_ttl)
    book.started("gated", id)
    queue = Queue(after, connection=book.redis)
    theirs = queue.enqueue("operator.add", 40, 2, depends_on=Job(ours.id, connection=book.redis))
    assert theirs.get_status() == JobStatus.DEFERRED
    book.release("gated", id)
    kit.eventually(lambda: theirs.get_status() == JobStatus.QUEUED)
    kit.script(STOCK_WORKER, shop, "shop", after)
    assert theirs.get_status() == JobStatus.FINISHED
    assert theirs.return_value() == 42


def test_ours_runs_after_a_stock_job_that_it_depends_on(shop: str, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    before = f"before-{token_hex(4)}"
    first = Queue(before, connection=book.redis).enqueue("operator.add", 1, 1)
    ours = Queue("rqproc.shop", connection=book.redis).enqueue(
        "rqproc.request", id, resource="charge", depends_on=first
    )
    assert ours.get_status() == JobStatus.DEFERRED
    kit.script(STOCK_WORKER, shop, "shop", before)
    kit.eventually(lambda: ours.get_status() == JobStatus.FINISHED)
    assert book.count("charge", id) == 1


def test_jobs_wait_where_no_node_is_alive_and_are_run_by_the_first_that_joins(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    asked = ids(5)
    jobs = [cluster.client.enqueue(id, "charge") for id in asked]
    assert {job.get_status() for job in jobs} == {JobStatus.QUEUED}
    cluster.start("a")
    assert {_ended(job) for job in jobs} == {JobStatus.FINISHED}
    assert [book.count("charge", id) for id in asked] == [1] * 5


def test_what_cannot_be_sent_is_refused_like_a_request(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    with pytest.raises(PayloadTooLarge):
        cluster.client.enqueue(id, "charge", args=("x" * 65536,))
    cluster.start("a", options=("--max-queue", "1"))
    accepted, refusal = kit.fill(cluster.client, id)
    assert (refusal.node, refusal.limit) == ("a", 1)
    book.release("gated", id, times=len(accepted))
    for job in accepted:
        assert _ended(job) == JobStatus.FINISHED
    assert book.count("gated", id) == len(accepted)


def test_many_jobs_share_their_clients_connections(client: Client, book: Book, ids: Fresh) -> None:
    before = len(book.redis.client_list())
    jobs = [client.enqueue(id, "echo") for id in ids(20)]
    assert all(job.get_status() for job in jobs)
    assert len(book.redis.client_list()) - before < 10


def test_rq_info_lists_the_nodes_and_their_queues(shop: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "--url", shop, "--by-queue"],
        env=kit.environ(shop, "shop"),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    for name in ("n1", "n2", "n3"):
        queue, *_ = [
            line for line in done.stdout.splitlines() if line.startswith(f"rqproc.shop.{name}:")
        ]
        assert f"rqproc.shop.{name} (idle)" in queue or f"rqproc.shop.{name} (busy)" in queue


def test_stock_rq_reads_the_nodes_as_workers(client: Client, book: Book, ids: Fresh) -> None:
    from rq import Worker

    (id,) = ids(1, of=0, modulo=3)
    client.request(id, "charge")
    found = {w.name: w for w in Worker.all(connection=book.redis)}
    worker = found["rqproc.shop.n1"]
    assert worker.queue_names() == ["rqproc.shop.n1", "rqproc.shop"]
    assert worker.pid == client.membership().nodes[0].pid
    assert worker.birth_date
    assert worker.last_heartbeat
    beats = worker.last_heartbeat

    def beaten() -> bool:
        worker.refresh()
        return worker.last_heartbeat != beats and worker.successful_job_count > 0

    kit.eventually(beaten)


def test_a_job_shows_what_it_asks_for(client: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    plain = client.enqueue(id, "charge")
    given = client.enqueue(id, "echo", args=(1, (2,)), kwargs={"a": {3: None}})
    for found in (plain, _fetched(book, plain)):
        assert (found.func_name, found.instance) == ("rqproc.request", None)
        assert (found.args, found.kwargs) == ((id,), {"resource": "charge"})
    # As a request's they are JSON: a handler is given the same, however it is asked.
    asked = {"args": [1, [2]], "kwargs": {"a": {"3": None}}}
    assert _fetched(book, given).kwargs == {"resource": "echo", **asked}
    _ended(given)
    result = given.latest_result()
    assert result
    assert {name: result.return_value[name] for name in asked} == asked


def test_the_results_of_a_job_are_read_by_its_queue(client: Client, book: Book, ids: Fresh) -> None:
    job = client.enqueue(ids(1)[0], "charge")
    _ended(job)
    queue = Queue("rqproc.shop", connection=book.redis)
    found = queue.fetch_job(job.id)
    assert found
    assert found.return_value() == job.return_value()
    assert [result.return_value for result in found.results()] == [job.return_value()]


class Runs:
    """Runs code where a pickle of it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_whoever_has_enqueued_a_job_reads_nothing_that_could_run(
    client: Client, book: Book, ids: Fresh, tmp_path: Path
) -> None:
    """Whoever can write to the server could else make its callers run anything."""
    job = client.enqueue(ids(1)[0], "charge")
    _ended(job)
    mark = tmp_path / "ran"
    forged = b64encode(pickle.dumps(Runs(mark))).decode()
    book.redis.xadd(f"rq:results:{job.id}", {"type": 1, "return_value": forged})
    book.redis.hset(f"rq:job:{job.id}", "meta", pickle.dumps({"a": Runs(mark)}))
    with pytest.raises(ValueError, match="does not pickle or unpickle"):
        job.return_value(refresh=True)
    job.refresh()
    assert not mark.exists()
    _fetched(book, job).return_value()
    assert mark.exists(), "RQ's own reader runs it"


def test_meta_of_plain_values_alone_is_saved(client: Client, book: Book, ids: Fresh) -> None:
    job = client.enqueue(ids(1)[0], "charge")
    _ended(job)
    job.meta["order"] = {"lines": (1, 2)}
    job.save_meta()
    assert job.get_meta() == _fetched(book, job).meta == {"order": {"lines": (1, 2)}}
    job.meta["order"] = Path("/")
    with pytest.raises(ValueError, match="use plain values"):
        job.save_meta()


def test_a_stock_worker_runs_a_job_that_was_enqueued_by_name(
    shop: str, client: Client, book: Book, ids: Fresh
) -> None:
    """As it may where one is requeued: its origin is the queue that any worker may serve."""
    (id,) = ids(1)
    price = client.request(id, "price")
    data = book.redis.hget(f"rq:job:{client.enqueue(id, 'price').id}", "data")
    stock = f"stock-{token_hex(4)}"
    job = Job(connection=book.redis)
    job.data, job.origin = data, "rqproc.shop"
    job.save()
    book.redis.rpush(f"rq:queue:{stock}", job.id)
    kit.script(STOCK_WORKER, shop, "elsewhere", stock)
    assert job.return_value(refresh=True) == price


def test_a_node_that_rq_has_lost_is_registered_anew(three: Cluster, book: Book) -> None:
    """As after an outage of more than a minute, when its worker's hash has expired."""
    name = f"rqproc.{three.namespace}.a"

    def found() -> dict[str, object] | None:
        for worker in Worker.all(connection=book.redis):
            if worker.name == name:
                queues = worker.queue_names()
                return {"pid": worker.pid, "host": worker.hostname, "born": worker.birth_date,
                        "queues": queues, "version": worker.version,
                        "python": worker.python_version}  # fmt: skip
        return None

    before = found()
    assert before
    assert before["pid"] == three.nodes["a"].process.pid
    book.redis.delete(f"rq:worker:{name}")
    assert kit.eventually(found) == before
