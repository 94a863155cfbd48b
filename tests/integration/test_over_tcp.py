"""The same over TCP, with a password and a database of one's own, as most servers are reached."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from rq import Queue
from rq.job import JobStatus
from servers import PrivateServer

from rqproc import AsyncClient, Client
from rqproc.errors import RedisUnavailable


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = str(nobody.getsockname()[1])
    with PrivateServer("--port", port) as server, server.client() as client:
        client.execute_command("ACL SETUSER far on >s3cret ~* &* +@all")
        yield f"127.0.0.1:{port}/3"


@pytest.fixture(scope="module")
def far(address: str) -> Iterator[Cluster]:
    with ExitStack() as stack:
        cluster = Cluster(stack, f"redis://far:s3cret@{address}", "far")
        cluster.start("a", "b", options=())
        yield cluster


@pytest.fixture
def far_book(far: Cluster) -> Iterator[Book]:
    with redis.Redis.from_url(far.url) as client:
        yield Book(client)


def test_requests_are_answered(far: Cluster, far_book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    assert far.client.request(id, "price")["n"] == 1
    assert far.client.reply(id, "price").source == "hit"
    assert far_book.count("price", id) == 1, "in the database that the URL names"

    async def ask() -> str:
        async with AsyncClient(far.url, namespace="far") as client:
            return (await client.reply(id, "price")).source

    assert asyncio.run(ask()) == "hit"


def test_jobs_are_enqueued_and_read(far: Cluster, ids: Fresh) -> None:
    job = far.client.enqueue(ids(1)[0], "charge")
    assert job.latest_result(timeout=4)
    assert job.get_status() == JobStatus.FINISHED


def test_dependents_of_a_job_are_run(far: Cluster, far_book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    queue = Queue("rqproc.far", connection=far_book.redis)
    first = queue.enqueue("rqproc.request", id, resource="gated")
    far_book.started("gated", id)
    second = queue.enqueue("rqproc.request", id, resource="charge", depends_on=first)
    far_book.release("gated", id)
    kit.eventually(lambda: second.get_status() == JobStatus.FINISHED, within_s=3)


def test_the_password_is_shown_nowhere(far: Cluster, address: str) -> None:
    host = address.removesuffix("/3")
    for node in far.nodes.values():
        node.says(rf"ready \(epoch \d+, server {host}\)")
        assert "s3cret" not in node.stderr
    assert far.client.server == host


def test_a_wrong_password_is_told_at_once(far: Cluster, address: str) -> None:
    with (
        Client(f"redis://far:wrong@{address}", namespace="far") as client,
        pytest.raises(RedisUnavailable, match="password") as caught,
    ):
        client.request(1, "price")
    assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


def test_a_node_with_a_wrong_password_does_not_start(far: Cluster, address: str) -> None:
    with kit.node(f"redis://far:wrong@{address}", "far", "c") as node:
        assert node.wait() == 5
    assert "Traceback" not in node.stderr


def test_the_demo_plays_on_a_server_given_by_its_url(far: Cluster) -> None:
    with kit.command(far.url, "far", "demo", PYTHONUNBUFFERED="1") as demo:
        kit.eventually(lambda: "waiting 5 s" in demo.stdout)
        demo.signal(signal.SIGINT)
        assert demo.wait() == 130
    assert "Traceback" not in demo.stderr
