"""Many ids in one call."""

from __future__ import annotations

import asyncio

import pytest
from integration.fixtures import Fresh
from integration.kit import Book

from rqproc import AsyncClient, Client
from rqproc.errors import HandlerFailed, InvalidId, UnknownResource


def test_answers_come_in_the_order_asked_whoever_owns_the_ids(client: Client, ids: Fresh) -> None:
    asked = ids(9)
    asked = asked[::-2] + asked[1::2]
    found = client.request_many(asked, "price")
    assert list(found) == asked
    assert [value["node"] for value in found.values()] == [f"n{id % 3 + 1}" for id in asked]


def test_an_id_that_stands_twice_is_asked_once(client: Client, book: Book, ids: Fresh) -> None:
    one, other = ids(2)
    found = client.request_many([one, other, one, str(one)], "charge")
    assert list(found) == [one, other]
    assert book.count("charge", one) == book.count("charge", other) == 1


def test_one_id_that_fails_leaves_the_others_their_values(client: Client, ids: Fresh) -> None:
    asked = ids(4)
    for id in (asked[0], asked[1], asked[3]):
        with pytest.raises(HandlerFailed):
            client.request(id, "fragile")
    found = client.request_many(asked, "fragile", return_exceptions=True)
    assert list(found) == asked
    assert isinstance(found[asked[2]], HandlerFailed)
    assert [found[id]["n"] for id in (asked[0], asked[1], asked[3])] == [2, 2, 2]


def test_without_return_exceptions_the_failure_is_raised(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    with pytest.raises(HandlerFailed, match="the first time fails"):
        client.request_many([id], "fragile")


def test_asyncio_answers_are_in_order_too(shop: str, ids: Fresh) -> None:
    asked = ids(6)[::-1]

    async def ask() -> dict[int | str, object]:
        async with AsyncClient(shop, namespace="shop") as caller:
            return await caller.request_many(asked, "price")

    assert list(asyncio.run(ask())) == asked


def test_an_invalid_id_among_others_sends_nothing(client: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    with pytest.raises(InvalidId):
        client.request_many([id, ""], "charge")
    assert client.request(id, "charge")["n"] == 1


def test_no_ids_have_no_answers(client: Client) -> None:
    assert client.request_many([], "price") == {}


def test_an_unknown_resource_is_told_for_every_id(client: Client, ids: Fresh) -> None:
    asked = ids(3)
    found = client.request_many(asked, "nothing", return_exceptions=True)
    assert [type(error) for error in found.values()] == [UnknownResource] * 3
