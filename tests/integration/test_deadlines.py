"""Timeouts and full queues: what is not answered in time is not run later."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from watch import Watch

from rqproc import Client
from rqproc.errors import ConfigError, Crowded, Overloaded, RequestTimeout


def test_a_request_past_its_deadline_is_never_run(client: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    with ThreadPoolExecutor(1) as pool:
        blocking = pool.submit(client.request, id, "gated", args=("blocks",))
        book.started("gated", id)
        watch, began = Watch(), time.monotonic()
        with pytest.raises(RequestTimeout) as caught:
            client.request(id, "gated", args=("late",), timeout=1.5)
        assert time.monotonic() - began >= 1.5
        assert watch.stop() < 2.7
        assert (caught.value.resource, caught.value.id) == ("gated", id)
        assert "it waits at its owner, or runs there" in str(caught.value)
        # To the owner the deadline is later, by what it took it to hear of the request.
        time.sleep(max(0.0, began + 3.5 - time.monotonic()))
        book.release("gated", id, times=3)
        blocking.result()
    assert client.request(id, "gated", args=("after",))["n"] == 2
    assert book.order("gated", id) == ["blocks", "after"]


def test_a_caller_that_gives_up_leaves_the_computation_to_the_others(
    client: Client, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    with ThreadPoolExecutor(1) as pool:
        hasty = pool.submit(client.request, id, "slow_price", timeout=2.0)
        book.started("slow_price", id)  # what has not begun by then is never run
        with pytest.raises(RequestTimeout):
            hasty.result()
        patient = pool.submit(client.reply, id, "slow_price")
        kit.until_taken(client, [id], 2)
        book.release("slow_price", id)
        assert patient.result().source == "joined"
    assert book.count("slow_price", id) == 1


def test_of_many_ids_the_one_that_is_late_times_out_alone(
    client: Client, book: Book, ids: Fresh
) -> None:
    late, *others = ids(4)
    for id in others:
        book.release("slow_price", id)
    found = client.request_many([late, *others], "slow_price", timeout=2.5, return_exceptions=True)
    assert isinstance(found[late], RequestTimeout)
    assert [found[id]["n"] for id in others] == [1, 1, 1]
    book.release("slow_price", late)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", 8 * 86400])
def test_a_timeout_that_makes_no_sense_is_refused(client: Client, timeout: float) -> None:
    with pytest.raises(ConfigError):
        client.request(1, timeout=timeout)


def _overload(cluster: Cluster, book: Book, id: int, *, asked: int) -> list[object]:
    """Send many requests of an id whose lane is blocked; return what each of them came to."""
    with ThreadPoolExecutor(asked) as pool:
        first = pool.submit(cluster.client.request, id, "gated", args=("first",))
        book.started("gated", id)
        others = [
            pool.submit(cluster.client.request, id, "gated", args=(n,)) for n in range(asked - 1)
        ]
        kit.eventually(
            lambda: (
                sum(o.done() for o in others)
                + sum(n.held + n.queued for n in cluster.client.membership().nodes)
                == asked
            )
        )
        book.release("gated", id, times=asked)
        return [first.result(), *(o.exception() or o.result() for o in others)]


def test_a_node_with_a_full_queue_says_so_at_once(cluster: Cluster, book: Book, ids: Fresh) -> None:
    cluster.start("a", options=("--max-queue", "4"))
    outcomes = _overload(cluster, book, ids(1)[0], asked=20)
    refused = [o for o in outcomes if isinstance(o, Overloaded)]
    assert len(refused) >= 20 - 2 * 4
    assert {(o.node, o.limit) for o in refused} == {("a", 4)}
    assert all(isinstance(o, Overloaded | dict) for o in outcomes)


def test_what_waits_for_a_full_node_is_taken_as_soon_as_there_is_room(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", options=("--lease", "10", "--max-queue", "1"))
    first, *others = ids(4)
    with ThreadPoolExecutor(2) as pool:
        full = pool.submit(cluster.client.request, first, "gated")
        book.started("gated", first)
        for id in others:
            waiting = pool.submit(cluster.client.request, id, "gated")
            kit.eventually(lambda: cluster.client.membership().nodes[0].queued == 1)
            watch = Watch()
            book.release("gated", first)
            book.started("gated", id)
            assert watch.stop() < 1.5
            full.result()
            first, full = id, waiting
        book.release("gated", first)
        full.result()


def test_an_id_with_too_many_requests_under_way_is_overloaded(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", options=("--lease", "10", "--max-waiters", "2"))
    id, other = ids(2)
    with ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(cluster.client.request, id, "gated") for _ in range(2)]
        kit.eventually(lambda: cluster.client.membership().nodes[0].held == 2)
        with pytest.raises(Crowded) as caught:
            cluster.client.request(id, "gated")
        assert (caught.value.node, caught.value.queued, caught.value.limit) == ("a", 2, 2)
        assert cluster.client.request(other, "charge")["n"] == 1
        book.release("gated", id, times=2)
        assert {one.result()["n"] for one in under_way} == {1, 2}
