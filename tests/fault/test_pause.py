"""A node that is paused past its lease: what it knew is worth nothing when it goes on."""

from __future__ import annotations

import signal

from fault.load import Load, assert_never_older
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book


def _pause(cluster: Cluster, name: str) -> None:
    """Stop a node until its lease has run out."""
    cluster.nodes[name].signal(signal.SIGSTOP)
    kit.eventually(lambda: name not in cluster.client.members())


def _go_on(cluster: Cluster, name: str) -> None:
    cluster.nodes[name].signal(signal.SIGCONT)
    kit.eventually(lambda: name in cluster.client.members())


def _incarnations(cluster: Cluster) -> dict[str, str]:
    return {node.name: node.incarnation for node in cluster.client.membership().nodes}


def test_it_joins_anew_and_answers_with_no_value_from_before(cluster: Cluster, ids: Fresh) -> None:
    cluster.start("a", "b", "c", options=kit.SHORT)
    asked = ids(9)
    before = _incarnations(cluster)
    with Load(cluster.client, "price", asked) as load:
        load.all_ids_answered()
        _pause(cluster, "a")
        load.all_ids_answered()
        _go_on(cluster, "a")
        cluster.nodes["a"].says("joined anew as a#")
        load.all_ids_answered()
    after = _incarnations(cluster)
    assert after["a"] != before["a"]
    assert {name: after[name] for name in "bc"} == {name: before[name] for name in "bc"}
    assert load.failures == []
    assert_never_older(load)
    ours = [id for id in asked if cluster.client.owner(id) == "a"]
    assert ours
    assert all(cluster.client.request(id, "price")["n"] > 1 for id in ours)


def test_its_late_finish_changes_nothing(cluster: Cluster, book: Book, ids: Fresh) -> None:
    cluster.start("a", options=kit.BRISK)
    cluster.start("b")
    (id,) = ids(1, of=0, modulo=2)
    job = cluster.client.enqueue(id, "gated", args=("tag",))
    book.started("gated", id)
    _pause(cluster, "a")
    book.started("gated", id)
    book.release("gated", id, on="b")
    result = job.latest_result(timeout=4)
    assert result
    assert result.return_value["node"] == "b"
    _go_on(cluster, "a")
    book.release("gated", id, on="a")
    kit.eventually(lambda: ("end", "tag", "a") in book.log("gated", id))
    assert cluster.client.reply(id, "charge").node == "a"  # it has taken in the outcome by then
    assert book.redis.xlen(f"rq:results:{job.id}") == 1
    assert job.return_value()["node"] == "b"
    kit.eventually(lambda: {n.held for n in cluster.client.membership().nodes} == {0})


def test_its_late_value_is_not_kept(cluster: Cluster, book: Book, ids: Fresh) -> None:
    cluster.start("a", options=kit.BRISK)
    cluster.start("b")
    (id,) = ids(1, of=0, modulo=2)
    cluster.client.enqueue(id, "slow_price")
    book.started("slow_price", id)
    _pause(cluster, "a")
    book.started("slow_price", id)
    book.release("slow_price", id, on="b")
    kit.eventually(lambda: book.count("slow_price", id) == 1)
    _go_on(cluster, "a")
    book.release("slow_price", id, on="a")
    kit.eventually(lambda: book.count("slow_price", id) == 2)
    book.release("slow_price", id, on="a")
    reply = cluster.client.reply(id, "slow_price")
    assert (reply.node, reply.source, reply.value["n"]) == ("a", "miss", 3)


def test_a_node_all_of_whose_peers_are_gone_too_rejoins(cluster: Cluster, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=kit.BRISK)
    (id,) = ids(1)
    assert cluster.client.request(id, "price")["n"] == 1
    _pause(cluster, "a")
    _go_on(cluster, "a")
    assert cluster.client.request(id, "price")["n"] == 2
    assert node.stop() == 0
