"""What an asyncio client does besides requests: jobs, invalidations, and what it tells of nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from rq.job import Job

from rqproc import App, AsyncClient, Client, current
from rqproc.errors import HandlerFailed, InvalidId, Overloaded, RedisUnavailable, RqprocError
from rqproc.testing import LocalCluster


def asked(url: str, work: Callable[[AsyncClient], Awaitable[Any]], namespace: str = "shop") -> Any:
    """Do something with a client, in an event loop of its own."""

    async def run() -> Any:
        async with AsyncClient(url, namespace=namespace) as client:
            return await work(client)

    return asyncio.run(run())


def test_jobs_are_enqueued(shop: str, book: Book, ids: Fresh) -> None:
    one, *many = ids(4)

    async def work(client: AsyncClient) -> list[Any]:
        job = await client.enqueue(one, "echo", args=(1,), kwargs={"a": 2}, result_ttl=30)
        return [job, *await client.enqueue_many(many, "charge")]

    job, *others = asked(shop, work)
    result = job.latest_result(timeout=4)
    assert (result.return_value["args"], result.return_value["kwargs"]) == ([1], {"a": 2})
    assert 20 <= book.redis.ttl(job.key) <= 30
    for other in others:
        assert other.latest_result(timeout=4).return_value["n"] == 1
    assert all(isinstance(found, Job) for found in (job, *others))


def test_a_resource_enqueues_and_invalidates_in_asyncio(shop: str, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    app = App(shop, namespace="shop")
    price = app.resource(ttl=60, name="price")(lambda id: None)
    echo = app.resource(ttl=0, name="echo")(lambda id, *args, **kwargs: None)

    async def work() -> tuple[Job, list[Any]]:
        job = await echo.with_options(meta={"by": "me"}, result_ttl=30).aenqueue(id, 1, a=2)
        first = await price.arequest(id)
        had = [await price.ainvalidate(id), await price.ainvalidate(id)]
        return job, [first["n"], *had, (await price.arequest(id))["n"]]

    job, found = asyncio.run(work())
    assert found == [1, True, False, 2]
    result = job.latest_result(timeout=4)
    assert result
    assert (result.return_value["args"], result.return_value["kwargs"]) == ([1], {"a": 2})
    assert job.meta == {"by": "me"}
    assert 20 <= book.redis.ttl(job.key) <= 30


def test_many_tasks_enqueue_at_once(shop: str, book: Book, ids: Fresh) -> None:
    some = ids(60)

    async def work(client: AsyncClient) -> list[Job]:
        return await asyncio.gather(*(client.enqueue(id, "charge") for id in some))

    for job in asked(shop, work):
        assert job.latest_result(timeout=4)
    assert [book.count("charge", id) for id in some] == [1] * 60


def test_what_is_refused_is_raised_or_stands_in_its_place(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    cluster.start("a", options=("--max-queue", "1"))
    accepted, _ = kit.fill(cluster.client, id)

    async def work(client: AsyncClient) -> list[Job | RqprocError]:
        with pytest.raises(Overloaded):
            await client.enqueue(id, "gated")
        with pytest.raises(Overloaded):
            await client.enqueue_many([id], "gated")
        with pytest.raises(InvalidId):
            await client.enqueue("", "gated")
        return await client.enqueue_many([id], "gated", return_exceptions=True)

    (refused,) = asked(cluster.url, work, cluster.namespace)
    assert isinstance(refused, Overloaded)
    book.release("gated", id, times=len(accepted))


def test_what_was_invalidated_is_computed_anew_for_all(
    shop: str, client: Client, ids: Fresh
) -> None:
    (id,) = ids(1)

    async def work(other: AsyncClient) -> list[Any]:
        near = AsyncClient(shop, namespace="shop", near=10)
        first = (await near.request(id, "price"))["n"]
        had = [await near.invalidate(id, "price"), await other.invalidate(id, "price")]
        again = (await near.request(id, "price"))["n"]
        had += [(await near.invalidate_many([id], "price"))[id]]
        last = (await near.request(id, "price"))["n"]
        await near.close()
        return [first, had, again, last]

    assert asked(shop, work) == [1, [True, False, True], 2, 3]
    assert client.request(id, "price")["n"] == 3


def test_the_cluster_is_told_of_as_to_the_blocking_client(
    shop: str, client: Client, ids: Fresh
) -> None:
    some = ids(3)

    async def work(other: AsyncClient) -> list[Any]:
        return [
            await other.members(),
            [await other.owner(id) for id in some],
            await other.locate(some, "price"),
            [(node.name, node.incarnation) for node in (await other.membership()).nodes],
            await other.drain("nobody"),
            await other.report_death("nobody", pid=1, host="nowhere"),
        ]

    found = asked(shop, work)
    assert found == [
        client.members(),
        [client.owner(id) for id in some],
        client.locate(some, "price"),
        [(node.name, node.incarnation) for node in client.membership().nodes],
        False,
        False,
    ]


def test_errors_of_some_ids_stand_beside_the_replies_of_others(shop: str, ids: Fresh) -> None:
    good, bad = ids(2)

    async def work(client: AsyncClient) -> Any:
        found = await client.reply_many([good], "explode")
        return {**found, **await client.reply_many([bad], "price")}

    found = asked(shop, work)
    assert isinstance(found[good], HandlerFailed)
    assert found[bad].value["n"] == 1


def test_the_loop_goes_on_while_no_server_answers(ids: Fresh) -> None:
    """A function waits through a short outage: others must not wait for it."""

    async def work(client: AsyncClient) -> int:
        waiting = asyncio.create_task(client.members())
        turns = 0
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0.01)
        with pytest.raises(RedisUnavailable):
            await waiting
        return turns

    assert asked("redis://127.0.0.1:1", work) > 20


app = App()


@app.resource(ttl=60)
def price(id: Any) -> list[Any]:
    return [id, current().node]


def test_it_does_so_in_the_test_kit_too() -> None:
    async def ask() -> Any:
        client = app.async_client
        jobs = [await client.enqueue(1, "price"), *await client.enqueue_many([2, 3], "price")]
        values = await client.request_many([1, 2, 3], "price")
        assert len(await client.members()) == 2
        assert await client.invalidate(1, "price")
        return [job.return_value() for job in jobs], list(values.values())

    with LocalCluster(app, nodes=2):
        enqueued, requested = asyncio.run(ask())
    assert enqueued == requested


def test_it_does_so_without_a_server() -> None:
    async def ask() -> Any:
        client = app.async_client
        job = await client.enqueue(1, "price")
        (other,) = await client.enqueue_many([1], "price")
        assert await client.members() == ("local",)
        assert (await client.owner(1), await client.invalidate(1, "price")) == ("local", True)
        found = [await asyncio.to_thread(one.latest_result, 5) for one in (job, other)]
        return [result.return_value for result in found if result]

    with app.at("local://"):
        assert asyncio.run(ask()) == [[1, "local"]] * 2
