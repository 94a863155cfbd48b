"""Every id has one process, whoever asks: the same entry answers every kind of caller."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import pytest
from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book
from rq import Queue

from rqproc import AsyncClient, Client

CALLER = """
import asyncio, json, sys, time
import rqproc
from shop import price

id = int(sys.argv[1])
job = price.enqueue(id)
while not (result := job.latest_result()):
    time.sleep(0.01)
answers = [
    price.request(id),
    rqproc.request(id, resource="price"),
    price.request_many([id])[id],
    asyncio.run(price.arequest(id)),
    result.return_value,
]
print(json.dumps(answers))
"""


def _asked_asyncio(url: str, id: int) -> object:
    async def ask() -> object:
        async with AsyncClient(url, namespace="shop") as client:
            return await client.request(id, "price")

    return asyncio.run(ask())


def _asked_by_plain_rq(book: Book, id: int) -> object:
    job = Queue("rqproc.shop", connection=book.redis).enqueue(
        "rqproc.request", id, resource="price"
    )
    kit.ended(job)
    result = job.latest_result()
    assert result
    return result.return_value


def test_every_kind_of_caller_gets_the_same_computation(
    shop: str, client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    first = client.request(id, "price")
    with ThreadPoolExecutor(4) as pool:
        processes = [pool.submit(kit.script, CALLER, shop, "shop", str(id)) for _ in range(3)]
        line = pool.submit(kit.finished, shop, "shop", "request", str(id), "-r", "price")
        answers = [_asked_asyncio(shop, id), _asked_by_plain_rq(book, id)]
        for process in processes:
            answers += json.loads(process.result())
        answers.append(json.loads(line.result().stdout))
    assert len(answers) == 18
    assert answers == [first] * 18
    assert book.count("price", id) == 1


def test_ids_spread_over_the_sorted_members_by_modulo(client: Client, ids: Fresh) -> None:
    asked = ids(12)
    replies = client.reply_many(asked, "price")
    assert {id: replies[id].node for id in asked} == {id: f"n{id % 3 + 1}" for id in asked}


def test_other_ids_spread_by_their_digest(client: Client) -> None:
    asked = ["ABC-1", "007", "-5", "ünï", "1.5", str(2**53), str(2**60)]
    for id in asked:
        digest = int.from_bytes(blake2b(id.encode(), digest_size=8).digest(), "big") >> 11
        assert client.reply(id, "price").node == f"n{digest % 3 + 1}"


def test_large_integers_are_counted_exactly(client: Client) -> None:
    for id in (2**53 - 1, 2**53 - 2, 2**53 - 3):
        assert client.reply(id, "price").node == f"n{id % 3 + 1}"


def test_a_decimal_string_is_the_integer_and_others_are_not(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    assert client.request(str(id), "price") == client.request(id, "price")
    for other in (f"0{id}", f"+{id}", f" {id}", f"{id}.0"):
        reply = client.reply(other, "price")
        assert (reply.id, reply.source) == (other, "miss")


def test_the_owner_that_is_told_is_the_node_that_answers(client: Client, ids: Fresh) -> None:
    for id in [*ids(6), "ABC-7", "ABC-8"]:
        assert client.owner(id) == client.reply(id, "price").node


@pytest.mark.parametrize("resource", ["price", "aprice"])
def test_two_resources_of_one_id_are_two_entries_on_one_node(
    client: Client, ids: Fresh, resource: str
) -> None:
    (id,) = ids(1)
    one, other = client.reply(id, resource), client.reply(id, "brief")
    assert one.node == other.node
    assert one.source == other.source == "miss"
