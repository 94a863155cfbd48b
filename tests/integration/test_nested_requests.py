"""Handlers that ask for other ids: with every lane busy too, and never in a circle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc.errors import HandlerFailed, Overloaded, RequestTimeout

ONE_LANE = ("--lease", "10", "--heartbeat", "0.2", "--concurrency", "1")


@pytest.mark.parametrize("resource", ["chain", "achain"])
def test_a_chain_longer_than_all_lanes_is_answered(
    cluster: Cluster, ids: Fresh, resource: str
) -> None:
    cluster.start("a", "b", options=ONE_LANE)
    chain = ids(8)
    assert cluster.client.request(chain[0], resource, args=chain[1:]) == chain


def test_a_node_asks_itself_with_its_only_lane_busy(cluster: Cluster, ids: Fresh) -> None:
    cluster.start("a", options=ONE_LANE)
    callers = [ids(3) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(cluster.client.request, c[0], "chain", args=c[1:]) for c in callers]
        assert [one.result() for one in asked] == callers


@pytest.mark.parametrize("resource", ["chain", "achain"])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_circle_is_an_error_at_once(
    cluster: Cluster, ids: Fresh, resource: str, length: int
) -> None:
    cluster.start("a", "b", options=ONE_LANE)
    circle = ids(length)
    with pytest.raises(HandlerFailed) as caught:
        cluster.client.request(circle[0], resource, args=[*circle[1:], circle[0]], timeout=5)
    assert "waits for" in str(caught.value)
    assert f"{resource} {circle[0]}" in str(caught.value)
    assert "must not ask for an id that waits for it" in str(caught.value)


def test_two_callers_whose_ids_ask_for_each_other_are_a_circle_too(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", options=ONE_LANE)
    one, two = ids(2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cluster.client.request, one, "meet", args=(two,), timeout=5)
        second = pool.submit(cluster.client.request, two, "meet", args=(one,), timeout=5)
        book.started("meet", one)
        book.started("meet", two)
        book.release("meet", one)
        book.release("meet", two)
        errors = [error for asked in (first, second) if (error := asked.exception())]
    assert errors, "one of them is told"
    assert all(isinstance(error, HandlerFailed | RequestTimeout) for error in errors)
    assert any("RequestCycle" in str(error) for error in errors)


def test_a_circle_that_has_been_left_is_none(cluster: Cluster, book: Book, ids: Fresh) -> None:
    """one asked for two and has its answer: two may ask for one now."""
    cluster.start("a", "b", options=ONE_LANE)
    one, two = ids(2)
    assert cluster.client.request(one, "chain", args=(two,)) == [one, two]
    assert cluster.client.request(two, "chain", args=(one,)) == [two, one]
    waits = kit.eventually(lambda: book.redis.keys(f"rqproc:{cluster.namespace}:2:waits:*") or True)
    assert waits is True or all(book.redis.pttl(key) > 0 for key in waits)


def test_a_handler_may_invalidate_its_own_id(cluster: Cluster, ids: Fresh) -> None:
    """An invalidation waits for no run, so it closes no circle."""
    cluster.start("a", options=ONE_LANE)
    (id,) = ids(1)
    for _ in range(2):
        assert cluster.client.request(id, "forgetful") == {"dropped": True}


def test_handlers_that_wait_leave_room_for_what_they_wait_for(cluster: Cluster, ids: Fresh) -> None:
    cluster.start("a", options=(*ONE_LANE[:4], "--max-queue", "2"))
    chain = ids(6)
    assert cluster.client.request(chain[0], "chain", args=chain[1:]) == chain


def test_what_waits_behind_a_handler_that_asks_leaves_room_for_what_it_asks(
    cluster: Cluster, ids: Fresh
) -> None:
    cluster.start("a", options=("--lease", "10", "--max-queue", "5"))
    parent, *children = ids(9)
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(cluster.client.request, parent, "chain", args=(child,), timeout=8)
            for child in children
        ]
        outcomes = [one.exception() or one.result() for one in asked]
    answered = [found for found in outcomes if isinstance(found, list)]
    assert all(isinstance(found, list | Overloaded) for found in outcomes), outcomes
    assert len(answered) >= 5
