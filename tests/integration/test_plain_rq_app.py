"""Applications with redis and rq alone, and no rqproc: an ordinary job, an ordinary result."""

from __future__ import annotations

import json
from secrets import token_hex
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from integration.test_rq_job import STOCK_WORKER
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.serializers import DefaultSerializer, JSONSerializer

from rqproc import Client

APPLICATION = """
import json, os, sys, time
sys.modules["rqproc"] = None  # an import of it fails
from redis import Redis
from rq import Queue
from rq.serializers import DefaultSerializer, JSONSerializer

serializer = {"pickle": DefaultSerializer, "json": JSONSerializer}[sys.argv[1]]
connection = Redis.from_url(os.environ["RQPROC_REDIS_URL"])
name = "rqproc." + os.environ["RQPROC_NAMESPACE"]
queue = Queue(name, connection=connection, serializer=serializer)
calls = json.loads(sys.argv[2])
jobs = [queue.enqueue(function, *args, **kwargs) for function, args, kwargs in calls]
for job in jobs:
    while not (result := job.latest_result()):
        time.sleep(0.01)
    print(json.dumps([job.get_status(), job.return_value(), (result.exc_string or "")[-60:]]))
connection.close()
"""


def _run(shop: str, serializer: str, *calls: Any) -> list[list[Any]]:
    said = kit.script(APPLICATION, shop, "shop", serializer, json.dumps(calls))
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize("serializer", ["pickle", "json"])
def test_an_application_without_rqproc_gets_values_and_failures(
    shop: str, client: Client, ids: Fresh, serializer: str
) -> None:
    one, two = ids(2)
    price = client.request(one, "price")
    value, named, given, failure, unknown = _run(
        shop,
        serializer,
        ["rqproc.request", [one], {"resource": "price"}],
        ["shop.price", [one], {}],
        ["echo", [str(two), 1], {"a": None}],
        ["rqproc.request", [two], {"resource": "explode"}],
        ["rqproc.request", [two], {"resource": "prize"}],
    )
    assert value == named == ["finished", price, ""]
    assert given[:2] == [
        "finished",
        {"id": two, "args": [1], "kwargs": {"a": None}, "token": given[1]["token"]},
    ]
    assert failure == ["failed", None, failure[2]]
    assert f"ValueError: no such id: {two}" in failure[2]
    assert unknown[0] == "failed"
    assert "unknown resource 'prize'" in unknown[2]


@pytest.mark.parametrize("serializer", [DefaultSerializer, JSONSerializer])
def test_a_result_comes_in_the_serializer_of_its_job(
    client: Client, book: Book, ids: Fresh, serializer: Any
) -> None:
    queue = Queue("rqproc.shop", connection=book.redis, serializer=serializer)
    job = queue.enqueue("rqproc.request", ids(1)[0], resource="charge")
    assert kit.ended(job) == JobStatus.FINISHED
    found = Job.fetch(job.id, connection=book.redis, serializer=serializer)
    assert found.return_value()["n"] == 1


def test_arguments_go_to_the_handler_of_a_resource_named_in_either_way(
    client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    queue = Queue("rqproc.shop", connection=book.redis)
    # RQ keeps `args` and `kwargs` for itself: inside of `kwargs` they are the request's.
    explicit = queue.enqueue(
        "rqproc.request",
        args=(id,),
        kwargs={"resource": "echo", "args": [1], "kwargs": {"a": 2}},
    )
    direct = queue.enqueue("shop.echo", id, 1, a=2)
    for job in (explicit, direct):
        kit.ended(job)
        result = job.latest_result()
        assert result
        assert (result.return_value["args"], result.return_value["kwargs"]) == ([1], {"a": 2})


def test_a_failure_is_in_rqs_registry(client: Client, book: Book, ids: Fresh) -> None:
    queue = Queue("rqproc.shop", connection=book.redis)
    job = queue.enqueue("rqproc.request", ids(1)[0], resource="explode", failure_ttl=100)
    assert kit.ended(job) == JobStatus.FAILED
    assert job.id in FailedJobRegistry(queue=queue)
    assert 90 <= book.redis.ttl(f"rq:job:{job.id}") <= 100


def test_a_large_argument_that_rq_compresses_is_read(
    client: Client, book: Book, ids: Fresh
) -> None:
    text = "x" * 60_000
    job = Queue("rqproc.shop", connection=book.redis).enqueue("echo", ids(1)[0], text)
    kit.ended(job)
    result = job.latest_result()
    assert result
    assert result.return_value["args"] == [text]


def test_jobs_wait_where_no_node_is_alive_and_are_served_when_one_joins(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    queue = Queue(f"rqproc.{cluster.namespace}", connection=book.redis)
    asked = ids(4)
    jobs = [queue.enqueue("rqproc.request", id, resource="charge") for id in asked]
    assert {job.get_status() for job in jobs} == {JobStatus.QUEUED}
    cluster.start("a")
    for job in jobs:
        assert kit.ended(job) == JobStatus.FINISHED
    assert [book.count("charge", id) for id in asked] == [1] * 4


def test_a_job_with_a_ttl_that_has_passed_is_not_run(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    late, other = ids(2)
    queue = Queue(f"rqproc.{cluster.namespace}", connection=book.redis)
    job = queue.enqueue("rqproc.request", late, resource="charge", ttl=1)
    kit.eventually(lambda: not book.redis.exists(job.key))
    last = queue.enqueue("rqproc.request", other, resource="charge")
    cluster.start("a")
    assert kit.ended(last) == JobStatus.FINISHED
    assert (book.count("charge", late), book.count("charge", other)) == (0, 1)


def test_a_stock_worker_that_picks_the_job_up_answers_the_same(
    shop: str, client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    price = client.request(id, "price")
    stock = f"stock-{token_hex(4)}"
    jobs = []
    for resource in ("price", "explode"):
        job = Job.create(
            "rqproc.request", (id,), {"resource": resource}, connection=book.redis,
            origin="rqproc.shop", status=JobStatus.QUEUED,
        )  # fmt: skip
        job.save()
        # Its origin is the ingress queue, but it lies where no node looks.
        book.redis.rpush(f"rq:queue:{stock}", job.id)
        jobs.append(job)
    kit.script(STOCK_WORKER, shop, "elsewhere", stock)
    good, bad = jobs
    assert good.get_status() == JobStatus.FINISHED
    assert good.return_value() == price
    assert bad.get_status() == JobStatus.FAILED
    result = bad.latest_result()
    assert result
    assert "no such id" in str(result.exc_string)
