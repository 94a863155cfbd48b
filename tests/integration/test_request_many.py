"""Many ids in one call."""

from __future__ import annotations

import asyncio
import enum
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc import AsyncClient, Client
from rqproc.errors import HandlerFailed, InvalidId, RequestTimeout, UnknownResource


def test_answers_come_in_the_order_asked_whoever_owns_the_ids(client: Client, ids: Fresh) -> None:
    asked = ids(9)
    asked = asked[::-2] + asked[1::2]
    found = client.request_many(asked, "price")
    assert list(found) == asked
    assert [value["node"] for value in found.values()] == [f"n{id % 3 + 1}" for id in asked]


def test_an_id_that_stands_twice_is_asked_once(client: Client, book: Book, ids: Fresh) -> None:
    one, other = ids(2)
    found = client.request_many([one, other, one, str(one)], "charge")
    assert list(found) == [one, other, str(one)]
    assert found[one] == found[str(one)]
    assert book.count("charge", one) == book.count("charge", other) == 1


class Tenant(str, enum.Enum):  # noqa: UP042 - what applications have
    ACME = "acme"
    GLOBEX = "globex"


class Shelf(int, enum.Enum):
    TOP = 1_000_001


def test_a_member_of_an_enum_is_the_id_that_it_equals(client: Client) -> None:
    """Whichever is asked for first, and whatever is remembered by it."""
    for member in (Tenant.ACME, Shelf.TOP):
        first = client.reply(member, "price")  # type: ignore[arg-type]
        assert (first.id, type(first.id)) == (member.value, type(member.value))
        assert client.reply(member.value, "price").source == "hit"
        assert client.request(member, "price") == first.value  # type: ignore[arg-type]
        result = client.enqueue(member, "price").latest_result(timeout=10)  # type: ignore[arg-type]
        assert result
        assert result.return_value == first.value


def test_what_was_given_as_an_id_is_a_key_of_what_comes_back(client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    asked = [Tenant.ACME, Tenant.GLOBEX, str(id), id, Shelf.TOP]
    found = client.request_many(asked, "price")
    assert list(found) == asked
    replies = client.reply_many(asked, "price")
    assert [replies[key].id for key in asked] == ["acme", "globex", id, id, 1_000_001]


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


# --- what many are ---


def test_a_thousand_ids_are_computed_once_each_and_then_kept(client: Client, ids: Fresh) -> None:
    asked = ids(1000)
    first = client.request_many(asked, "price")
    assert list(first) == asked
    assert {value["n"] for value in first.values()} == {1}
    assert [value["node"] for value in first.values()] == [f"n{id % 3 + 1}" for id in asked]
    assert client.request_many(asked, "price") == first


def test_a_thousand_ids_for_asyncio_and_for_many_callers(shop: str, ids: Fresh) -> None:
    asked = ids(1000)

    async def ask() -> list[dict[int | str, object]]:
        async with AsyncClient(shop, namespace="shop") as caller:
            parts = [asked[i : i + 500] for i in range(0, 600, 100)]
            wishes = [caller.request_many(part, "aprice", timeout=40) for part in parts]
            return await asyncio.gather(*wishes)

    found = asyncio.run(ask())
    for place, values in enumerate(found):
        assert list(values) == asked[100 * place : 100 * place + 500]
        assert all(value["n"] == 1 for value in values.values())  # type: ignore[index]


def test_hits_and_misses_and_failures_come_with_one_call(client: Client, ids: Fresh) -> None:
    kept, retried, fresh = ids(10), ids(10), ids(10)
    for asked in (kept, kept, retried):
        client.request_many(asked, "fragile", return_exceptions=True)
    mixed = [id for three in zip(kept, retried, fresh, strict=True) for id in three]
    found = client.request_many(mixed, "fragile", return_exceptions=True)
    assert list(found) == mixed
    assert {found[id]["n"] for id in (*kept, *retried)} == {2}
    assert {type(found[id]) for id in fresh} == {HandlerFailed}


def test_choke_points_are_run_for_each_caller_one_at_a_time(
    client: Client, book: Book, ids: Fresh
) -> None:
    asked = ids(30)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: client.request_many(asked, "charge"), range(4)))
    for id in asked:
        assert sorted(values[id]["n"] for values in found) == [1, 2, 3, 4]
        assert kit.overlapping(book.log("charge", id)) == []


def test_many_are_asked_for_from_inside_a_handler(client: Client, ids: Fresh) -> None:
    one, *others = ids(40)
    kept = list(client.request_many(others, "price").values())
    assert client.request(one, "gather", args=others) == kept
    assert client.request(one, "agather", args=others) == kept


def test_a_handler_that_asks_for_itself_among_others_is_told_so(client: Client, ids: Fresh) -> None:
    one, *others = ids(3)
    with pytest.raises(HandlerFailed, match="RequestCycle"):
        client.request(one, "around", args=[*others, one])


def test_what_came_by_the_deadline_is_returned(client: Client, book: Book, ids: Fresh) -> None:
    quick, *slow = ids(4)
    book.release("slow_price", quick)
    client.request(quick, "slow_price")
    asked = [slow[0], quick, *slow[1:]]
    found = client.request_many(asked, "slow_price", timeout=2.0, return_exceptions=True)
    assert list(found) == asked
    assert found[quick]["n"] == 1
    assert {type(found[id]) for id in slow} == {RequestTimeout}
    with pytest.raises(RequestTimeout):
        client.request_many(asked, "slow_price", timeout=0.2)
    for id in slow:
        book.release("slow_price", id)
    assert {value["n"] for value in client.request_many(asked, "slow_price").values()} == {1}


# --- where they are ---


def test_an_id_that_another_node_is_busy_with_is_split_off(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a")
    asked = ids(6)
    with ThreadPoolExecutor(2) as pool:
        alone = pool.submit(cluster.client.request, asked[0], "slow_price", timeout=20)
        book.started("slow_price", asked[0])
        cluster.start(*["b" if asked[0] % 2 else "B"])  # the owner of that id, by now
        assert cluster.client.owner(asked[0]) != "a"
        for id in asked[1:]:
            book.release("slow_price", id)
        together = pool.submit(cluster.client.request_many, asked, "slow_price", timeout=20)
        for id in asked[1:]:
            book.started("slow_price", id)
        # sent to who holds it: had that ended first, the owner would compute it once more
        kit.eventually(lambda: {n.name: n.joined for n in cluster.client.membership().nodes}["a"])
        book.release("slow_price", asked[0])
        found = together.result()
    assert list(found) == asked
    assert found[asked[0]] == alone.result() == {**found[asked[0]], "n": 1, "node": "a"}
    assert {found[id]["node"] for id in asked[1:]} == set(cluster.nodes)


def test_who_looks_at_the_queues_meanwhile_sees_no_harm(cluster: Cluster, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=("--lease", "30", "--heartbeat", "0.2"))
    asked = ids(600)
    node.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cluster.client.request_many, asked, "price", timeout=25)

        def queued() -> bool:
            return cluster.client.membership().nodes[0].queued == 3

        kit.eventually(queued, what="three jobs of up to 256 calls")
        seen = kit.finished(cluster.url, cluster.namespace, "node", "list")
        assert (seen.returncode, seen.stderr) == (0, "")
        told = rq("info", "--raw", url=cluster.url)
        assert f"queue rqproc.{cluster.namespace}.a 3" in told
        node.signal(signal.SIGCONT)
        assert list(waiting.result()) == asked


def rq(*arguments: str, url: str) -> str:
    """What RQ's own command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "rq.cli", *arguments, "--url", url],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_left_of_many_that_were_answered(cluster: Cluster, ids: Fresh) -> None:
    cluster.start("a", "b")
    asked = ids(600)
    for _ in range(3):
        cluster.client.request_many(asked, "price")
    with kit.redis.Redis.from_url(cluster.url) as server:
        for name in ("holders", "waiting"):
            assert not server.exists(f"rqproc:{cluster.namespace}:2:{name}")
        left = [
            key for key in server.scan_iter("rq:job:*") if b"many" in server.hgetall(key).values()
        ]  # type: ignore[operator]
    assert left == []
