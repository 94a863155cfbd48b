"""However many ask for an id at once, its value is computed once."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book

from rqproc import AsyncClient, Client, Reply

CALLERS = 100


def _check(replies: list[Reply], book: Book, id: int) -> None:
    assert book.count("slow_price", id) == 1
    assert Counter(reply.source for reply in replies) == {"miss": 1, "joined": CALLERS - 1}
    assert {reply.value["n"] for reply in replies} == {1}
    assert {reply.node for reply in replies} == {f"n{id % 3 + 1}"}


def test_a_hundred_threads_share_one_computation(client: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    with ThreadPoolExecutor(CALLERS) as pool:
        asked = [pool.submit(client.reply, id, "slow_price") for _ in range(CALLERS)]
        kit.until_taken(client, [id], CALLERS)
        book.release("slow_price", id)
        replies = [one.result() for one in asked]
    _check(replies, book, id)


def test_a_hundred_tasks_share_one_computation(
    shop: str, client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)

    async def ask() -> list[Reply]:
        async with AsyncClient(shop, namespace="shop") as caller:
            tasks = [asyncio.create_task(caller.reply(id, "slow_price")) for _ in range(CALLERS)]
            await asyncio.to_thread(kit.until_taken, client, [id], CALLERS)
            book.release("slow_price", id)
            return await asyncio.gather(*tasks)

    _check(asyncio.run(ask()), book, id)


def test_what_was_computed_for_many_answers_later_ones_from_its_entry(
    client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    book.release("slow_price", id)
    assert client.reply(id, "slow_price").source == "miss"
    later = [client.reply(id, "slow_price") for _ in range(3)]
    assert [reply.source for reply in later] == ["hit"] * 3
    assert book.count("slow_price", id) == 1
