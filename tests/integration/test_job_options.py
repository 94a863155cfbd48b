"""RQ's own options on ``price.enqueue``, and the job that a handler is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError
from rq.job import Job, JobStatus
from rq.serializers import DefaultSerializer, JSONSerializer

from rqproc import App
from rqproc.errors import ConfigError, PayloadTooLarge


@pytest.fixture
def one(cluster: Cluster) -> Cluster:
    cluster.start("a", app="meta:app")
    return cluster


@pytest.fixture
def app(one: Cluster) -> Iterator[App]:
    """The nodes' app, as another program declares it."""
    app = App(one.url, namespace=one.namespace)
    for name in ("charge", "gated", "fragile", "note", "anote"):
        app.resource(ttl=0, name=name)(_elsewhere)
    yield app
    app.client.close()


def _elsewhere(id: int, *args: Any) -> None:
    raise AssertionError("the nodes run it")


def test_a_job_has_the_options_of_its_resource(app: App, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    charge = app.resources["charge"].with_options(
        job_id=f"mine-{id}", meta={"by": "me"}, description="said", result_ttl=100, failure_ttl=200
    )
    job = charge.enqueue(id)
    assert kit.ended(job) == JobStatus.FINISHED
    found = Job.fetch(job.id, book.redis)
    assert (found.meta, found.description) == ({"by": "me"}, "said")
    assert (found.result_ttl, found.failure_ttl) == (100, 200)
    assert found.return_value()["n"] == 1


def test_options_add_up(app: App, ids: Fresh) -> None:
    (id,) = ids(1)
    charge = app.resources["charge"].with_options(meta={"a": 1}).with_options(ttl=50)
    job = charge.enqueue(id)
    assert (job.meta, job.ttl) == ({"a": 1}, 50)
    kit.ended(job)


def test_a_job_waits_for_another_and_is_retried(app: App, book: Book, ids: Fresh) -> None:
    first, second = ids(2)
    before = app.resources["gated"].enqueue(first)
    after = app.resources["fragile"].with_options(depends_on=before, retry=Retry(1)).enqueue(second)
    book.started("gated", first)
    assert after.get_status() == JobStatus.DEFERRED
    book.release("gated", first)
    kit.eventually(lambda: after.get_status() == JobStatus.FINISHED)
    assert after.return_value()["n"] == 2


def test_a_job_is_enqueued_at_the_front(
    app: App, one: Cluster, book: Book, queue: Queue, ids: Fresh
) -> None:
    (id,) = ids(1)
    gated = app.resources["gated"]
    jobs = [gated.enqueue(id, tag) for tag in ("running", "last")]
    book.started("gated", id)
    kit.eventually(lambda: queue.count == 1)
    jobs.append(gated.with_options(at_front=True).enqueue(id, "first"))
    assert queue.job_ids == [jobs[2].id, jobs[1].id]
    kit.until_taken(one.client, [id], 3)
    book.release("gated", id, times=3)
    assert {kit.ended(job) for job in jobs} == {JobStatus.FINISHED}
    assert book.order("gated", id) == ["running", "first", "last"]


def test_a_unique_job_is_refused_while_there_is_one(app: App, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    gated = app.resources["gated"].with_options(job_id=f"only-{id}", unique=True)
    job = gated.enqueue(id)
    with pytest.raises(DuplicateJobError):
        gated.enqueue(id)
    book.release("gated", id)
    kit.ended(job)


def test_what_no_node_does_and_what_makes_no_sense_is_refused_at_once(app: App, ids: Fresh) -> None:
    (id,) = ids(1)
    charge: Any = app.resources["charge"]
    with pytest.raises(ConfigError, match="on_success"):
        charge.with_options(on_success=print)
    with pytest.raises(ConfigError, match="job_timeout"):
        app.client.enqueue(id, "charge", job_timeout=5)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="RQ refuses"):
        charge.with_options(unique=True).enqueue(id)  # without an id
    for meta in ([1], {"f": lambda: 1}):
        with pytest.raises(ConfigError, match=r"meta|RQ refuses"):
            charge.with_options(meta=meta).enqueue(id)
    with pytest.raises(ConfigError, match="one job"):
        charge.with_options(job_id="x").enqueue_many([id])
    with pytest.raises(PayloadTooLarge):
        charge.with_options(meta={}).enqueue(id, "x" * 65536)
    with app.at("local://"), pytest.raises(ConfigError, match="has no RQ"):
        charge.with_options(meta={}).enqueue(id)


@pytest.mark.parametrize("resource", ["note", "anote"])
@pytest.mark.parametrize("serializer", [JSONSerializer, DefaultSerializer])
def test_a_handler_finds_its_job_and_writes_its_meta(
    one: Cluster, book: Book, ids: Fresh, resource: str, serializer: Any
) -> None:
    (id,) = ids(1)
    queue = Queue(f"rqproc.{one.namespace}", connection=book.redis, serializer=serializer)
    job = queue.enqueue(resource, id, meta={"asked": "much"})
    assert kit.ended(job) == JobStatus.FINISHED
    assert job.return_value() == job.id
    found = Job.fetch(job.id, book.redis, serializer)
    assert found.meta == {"asked": "much", "done": 0.5}
    assert one.client.request(id, resource) is None, "a request is no job"
