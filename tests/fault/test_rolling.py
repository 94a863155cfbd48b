"""Nodes that leave and join while callers ask: no request fails, none is run twice."""

from __future__ import annotations

import itertools
import signal

import pytest
from fault.load import Load, assert_exactly_once, assert_never_older
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

pytestmark = pytest.mark.slow

STEADY = ("--lease", "10", "--heartbeat", "0.3")


def test_a_rolling_restart_fails_no_request_and_runs_none_twice(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    names = ("a", "b", "c", "d")
    cluster.start(*names, options=STEADY)
    asked = ids(12)
    with Load(cluster.client, "charge", asked, callers=8, pause_s=0.004) as load:
        load.more(50)
        for name in names:
            assert cluster.nodes[name].stop() == 0
            load.more(20)
            cluster.start(name, options=STEADY)
            load.more(20)
    assert load.failures == []
    assert_exactly_once(load, book, "charge", asked)
    assert load.longest_s < 9, "nobody waits for a lease"


def test_async_handlers_and_kept_values_pass_a_restart_too(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", options=STEADY)
    runs, values = ids(6), ids(12)
    with (
        Load(cluster.client, "acharge", runs, callers=4, pause_s=0.004) as running,
        Load(cluster.client, "price", values, callers=3) as kept,
    ):
        running.more(30)
        for name in ("a", "b"):
            assert cluster.nodes[name].stop() == 0
            cluster.start(name, options=STEADY)
            kept.all_ids_answered()
            running.all_ids_answered()
    assert running.failures == kept.failures == []
    assert_exactly_once(running, book, "acharge", runs)
    assert_never_older(kept)


def test_nodes_that_join_fail_no_request_and_run_none_twice(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("b", options=STEADY)
    asked = ids(12)
    with Load(cluster.client, "charge", asked, callers=8, pause_s=0.004) as load:
        load.more(30)
        for name in ("a", "c", "d"):
            cluster.start(name, options=STEADY)
            load.all_ids_answered()
    assert load.failures == []
    assert_exactly_once(load, book, "charge", asked)
    assert {entry[2] for id in asked for entry in book.log("charge", id)} == {"a", "b", "c", "d"}


def test_the_last_node_drains_what_it_holds_and_the_next_takes_the_rest(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=STEADY)
    (id,) = ids(1)
    first, second = (cluster.client.enqueue(id, "gated", args=(tag,)) for tag in "12")
    book.started("gated", id)
    node.signal(signal.SIGTERM)
    kit.eventually(lambda: cluster.client.members() == ())
    last = cluster.client.enqueue(id, "gated", args=("3",))
    book.release("gated", id, times=2)
    assert node.wait() == 0
    assert first.get_status() == "finished"
    cluster.start("b", options=STEADY)
    book.release("gated", id)
    for job in (second, last):
        assert job.latest_result(timeout=4)
    assert book.order("gated", id) == ["1", "2", "3"]
    assert kit.overlapping(book.log("gated", id)) == []


def test_drains_by_command_one_after_the_other_fail_no_request(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", options=STEADY)
    asked = ids(8)
    numbers = itertools.count(1)
    with Load(cluster.client, "charge", asked, pause_s=0.002) as load:
        for name in ("a", "b"):
            load.more(20)
            cluster.start(f"n{next(numbers)}", options=STEADY)
            assert cluster.client.drain(name)
            assert cluster.nodes[name].wait() == 0
        load.all_ids_answered()
    assert load.failures == []
    assert_exactly_once(load, book, "charge", asked)
