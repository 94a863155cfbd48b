"""What goes into a handler and what may come out of it."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc import AsyncClient, Client
from rqproc.errors import (
    ConfigError,
    HandlerFailed,
    InvalidId,
    PayloadTooLarge,
    RequestTimeout,
    UnknownResource,
)


def test_arguments_reach_the_handler_as_they_were_given(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    args = (1, -2.5, "ünï\n\0", None, True, [1, [2]], {"a": {"b": []}})
    found = client.request(id, "echo", args=args, kwargs={"key": "value", "timeout": 3})
    assert found["id"] == id
    assert found["args"] == list(args)
    assert found["kwargs"] == {"key": "value", "timeout": 3}


def test_a_decimal_id_reaches_the_handler_as_an_integer(client: Client) -> None:
    assert client.request("4711", "echo")["id"] == 4711
    assert client.request("ABC-1", "echo")["id"] == "ABC-1"


def test_each_run_has_a_higher_token_than_the_one_before(client: Client, ids: Fresh) -> None:
    tokens = [client.request(id, "echo")["token"] for id in ids(6) * 2]
    assert tokens == sorted(set(tokens))


def test_a_kept_resource_takes_no_arguments(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    with pytest.raises(HandlerFailed, match="only ids go in"):
        client.request(id, "price", args=(1,))


def test_arguments_that_do_not_fit_the_handler_are_its_failure(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    with pytest.raises(HandlerFailed) as caught:
        client.request(id, "charge", kwargs={"nonsense": 1})
    assert caught.value.type == "TypeError"
    assert "nonsense" in caught.value.reason


def test_an_error_carries_its_type_message_and_traceback(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    with pytest.raises(HandlerFailed) as caught:
        client.request(id, "explode")
    error = caught.value
    assert (error.resource, error.id, error.type) == ("explode", id, "ValueError")
    assert error.reason == f"no such id: {id}"
    assert "in explode" in error.traceback
    assert "shop.py" in error.traceback


def test_an_error_leaves_other_ids_alone_and_is_not_kept(
    client: Client, book: Book, ids: Fresh
) -> None:
    failing, other = ids(2, of=0, modulo=3)
    with pytest.raises(HandlerFailed):
        client.request(failing, "fragile")
    assert client.request(other, "price")["n"] == 1
    assert client.reply(failing, "fragile").source == "miss"
    assert client.reply(failing, "fragile").source == "hit"
    assert book.count("fragile", failing) == 2


def _explode(client: Client, id: int, how: str) -> HandlerFailed:
    with pytest.raises(HandlerFailed) as caught:
        client.request(id, "explode", args=(how,), timeout=3)
    return caught.value


@pytest.mark.parametrize(
    ("how", "type"),
    [
        ("exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("long", "ValueError"),
        ("surrogate", "ValueError"),
    ],
)
def test_whatever_a_handler_raises_its_id_goes_on(
    client: Client, ids: Fresh, how: str, type: str
) -> None:
    (id,) = ids(1)
    assert _explode(client, id, how).type == type
    assert _explode(client, id, "value").type == "ValueError"


def test_an_error_whose_text_cannot_be_made_does_not_block_its_id(
    cluster: Cluster, ids: Fresh
) -> None:
    cluster.start("a")
    (id,) = ids(1)
    assert _explode(cluster.client, id, "mute").type == "Mute"
    assert _explode(cluster.client, id, "value").type == "ValueError"


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("set", "not JSON"),
        ("nan", "not JSON"),
        ("bytes", "not JSON"),
        ("deep", "not JSON"),
        ("large", "over 1048576"),
    ],
)
def test_a_value_that_cannot_be_carried_is_told_as_such(
    client: Client, ids: Fresh, what: str, says: str
) -> None:
    (id,) = ids(1)
    with pytest.raises(HandlerFailed, match=says):
        client.request(id, "give", args=(what,))
    assert client.request(id, "give", args=("none",)) is None


def test_a_value_at_the_limit_is_carried(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    assert client.request(id, "give", args=("fits",)) == "x" * (1024 * 1024 - 2)


def test_text_that_utf8_cannot_carry_is_carried_all_the_same(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    assert client.request(id, "give", args=("surrogate",)) == "\ud800"


def test_arguments_over_the_limit_are_refused_before_anything_is_sent(
    client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    with pytest.raises(PayloadTooLarge) as caught:
        client.request(id, "charge", args=("x" * 65536,))
    assert (caught.value.size > 65536, caught.value.limit) == (True, 65536)
    with pytest.raises(ConfigError, match="not JSON"):
        client.request(id, "charge", args=({1, 2},))
    assert client.request(id, "charge")["n"] == 1


@pytest.mark.parametrize(
    "id", ["", "x" * 201, "a\nb", "\x7f", "\ud800", None, 1.5, True, b"1", 10**200, [1]]
)
def test_an_invalid_id_is_refused_by_every_door(client: Client, id: Any) -> None:
    for door in (client.request, client.enqueue, client.invalidate, client.owner):
        with pytest.raises(InvalidId):
            door(id)


@pytest.mark.parametrize("id", ["x" * 200, " ", "ü", "a:b|c", "*", "%", "-1", 10**199, -(2**60)])
def test_any_other_text_or_integer_is_an_id(client: Client, id: Any) -> None:
    assert client.request(id, "echo")["id"] == (int(id) if id == "-1" else id)


def test_an_unknown_resource_names_the_known_ones(client: Client, ids: Fresh) -> None:
    with pytest.raises(UnknownResource) as caught:
        client.request(ids(1)[0], "prize")
    assert {"price", "charge", "demo"} <= set(caught.value.known)
    assert "price" in str(caught.value)


def test_the_asyncio_client_raises_the_same_errors(shop: str, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)

    async def ask() -> None:
        async with AsyncClient(shop, namespace="shop") as client:
            with pytest.raises(HandlerFailed, match="no such id"):
                await client.request(id, "explode")
            with pytest.raises(UnknownResource):
                await client.request(id, "prize")
            with pytest.raises(InvalidId):
                await client.request("")
            with pytest.raises(RequestTimeout):
                await client.request(id, "gated", timeout=0.1)

    asyncio.run(ask())
    book.release("gated", id)


def test_a_handler_may_ask_the_cluster_for_another_value(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    assert client.request(id, "nested") == client.request(id, "price")


LOOPS = """
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from shop import price
print(asyncio.run(price.arequest(1))["node"] == asyncio.run(price.arequest(1))["node"])
"""


def test_arequest_works_in_one_event_loop_after_another(shop: str) -> None:
    assert kit.script(LOOPS, shop, "shop") == "True"


def test_a_value_that_cannot_be_carried_fails_its_own_caller_alone(
    client: Client, ids: Fresh
) -> None:
    kinds = ["digits", "depth", "keys", "fine", "fine", "fine"]

    def ask(id: int, kind: str) -> object:
        try:
            return client.request(id, "odd", args=[kind])
        except HandlerFailed as error:
            return error

    with ThreadPoolExecutor(len(kinds)) as pool:
        found = list(pool.map(ask, ids(len(kinds)), kinds))
    assert found[3:] == [[1]] * 3
    assert [getattr(error, "type", None) for error in found[:3]] == ["UnservableValue"] * 3
    assert "cannot tell apart" in str(found[2])


def test_what_a_handler_raises_is_logged_once_with_its_traceback_and_whose_it_was(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    asked, enqueued = ids(2)
    (node,) = cluster.start("a", options=("--json-logs",))
    with pytest.raises(HandlerFailed):
        cluster.client.request(asked, "explode")
    job = cluster.client.enqueue(enqueued, "explode")
    kit.ended(job)
    node.says(f"explode {enqueued}")
    errors = [json.loads(line) for line in node.lines if '"level": "error"' in line]
    found = [(one["node"], one["resource"], one["id"], one["job"]) for one in errors]
    assert found == [("a", "explode", asked, ""), ("a", "explode", enqueued, job.id)]
    for one, id in zip(errors, (asked, enqueued), strict=True):
        assert one["traceback"].endswith(f"ValueError: no such id: {id}")
        assert "in explode" in one["traceback"]
        assert f"explode {id}" in one["message"]


def test_a_node_that_is_ready_says_so_without_a_warning(cluster: Cluster) -> None:
    (node,) = cluster.start("a", options=("--json-logs", "--log-level", "error"))
    (line,) = [json.loads(line) for line in node.lines]
    assert (line["level"], line["message"][:12]) == ("info", "node a ready")


def test_an_error_reporter_that_listens_to_the_log_has_the_exception(
    cluster: Cluster, ids: Fresh
) -> None:
    (node,) = cluster.start("a", app="reporting:app")
    with pytest.raises(HandlerFailed):
        cluster.client.request(ids(1)[0], "explode")
    node.says("reported: ValueError of explode in a")
