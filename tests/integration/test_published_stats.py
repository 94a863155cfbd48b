"""What real nodes say that they count and remember, as one trip reads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, eventually

from rqproc import App
from rqproc.errors import HandlerFailed
from rqproc.stats import NodeStats, ResourceStats

OFTEN = ("--lease", "10", "--heartbeat", "0.2")


def told(cluster: Cluster, holds: Callable[[NodeStats], object], node: str = "a") -> NodeStats:
    """Wait until a node has published what is waited for."""

    def found() -> NodeStats | None:
        stats = cluster.client.stats().of(node)
        return stats if stats and holds(stats) else None

    result = eventually(found, every_s=0.05)
    assert result
    return result


def of(stats: NodeStats, resource: str) -> ResourceStats:
    return next((one for one in stats.resources if one.name == resource), ResourceStats(resource))


def test_answers_are_counted_by_resource_and_source_errors_by_type(
    cluster: Cluster, ids: Fresh
) -> None:
    cluster.start("a", options=OFTEN)
    one, other = ids(2)
    for id in (one, one, one, other):
        cluster.client.request(id, "price")
    cluster.client.request_many([one, other], "price")
    cluster.client.invalidate(other, "price")
    with pytest.raises(HandlerFailed):
        cluster.client.request(one, "explode")
    stats = told(cluster, lambda stats: of(stats, "explode").failed)
    price, explode = of(stats, "price"), of(stats, "explode")
    assert price.answers == {"miss": 2, "hit": 4, "changed": 1}
    assert (price.errors, price.runs, price.run.count, price.whole.count) == ({}, 2, 2, 2)
    assert price.queueing.count == 2
    assert (explode.answers, explode.runs) == ({}, 1)
    assert sum(explode.errors.values()) == 1
    (error,) = stats.errors
    assert (error.resource, error.id) == ("explode", one)
    assert error.type in explode.errors
    assert "Traceback" in error.traceback
    assert abs(error.at_s - time.time()) < 30
    assert {run.id for run in stats.runs} == {one, other}
    assert stats.entries == 1
    assert stats.hot[0].id == one
    assert stats.hot[0].count == 4


def test_a_run_is_timed_and_so_is_the_wait_for_it(cluster: Cluster, book: Book, ids: Fresh) -> None:
    cluster.start("a", options=OFTEN)
    (id,) = ids(1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cluster.client.request, id, "gated", timeout=30)
        book.started("gated", id)
        second = pool.submit(cluster.client.request, id, "gated", timeout=30)
        told(cluster, lambda stats: stats.held == 2)
        began = time.monotonic()
        told(cluster, lambda stats: time.monotonic() - began > 0.3)
        book.release("gated", id, times=2)
        first.result()
        second.result()
    stats = told(cluster, lambda stats: of(stats, "gated").whole.count == 2)
    gated = of(stats, "gated")
    assert gated.run.sum_s >= 0.3
    assert gated.queueing.sum_s >= 0.3
    assert gated.whole.sum_s >= gated.run.sum_s + gated.queueing.sum_s - 0.05
    assert stats.slowest[0].run_s >= 0.3


def test_a_node_that_has_left_says_nothing_and_others_stay(cluster: Cluster) -> None:
    node, _ = cluster.start("a", "b", options=OFTEN)
    told(cluster, lambda stats: stats.beats)
    told(cluster, lambda stats: stats.beats, "b")
    node.stop()
    assert [stats.node for stats in cluster.client.stats().nodes] == ["b"]


def test_a_local_place_tells_the_same() -> None:
    app = App("local://")

    @app.resource(ttl=60)
    def double(id: int) -> int:
        return 2 * id

    double.request(4)
    double.request(4)
    (node,) = app.client.stats().nodes
    assert of(node, "double").answers == {"miss": 1, "hit": 1}
    assert abs(node.runs[0].at_s - time.time()) < 30
