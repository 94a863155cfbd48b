"""Nodes that are killed, and requests that kill their nodes."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault.load import Load, assert_never_older
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc.errors import NodeLost

LEASE_S, HEARTBEAT_S, SLACK_S = 3.0, 0.2, 1.3
"""The slack is for two slow cores on which callers, nodes and server all run."""

OPTIONS = ("--lease", str(LEASE_S), "--heartbeat", str(HEARTBEAT_S))
THREE_DEATHS = ("--lease", "1.2", "--heartbeat", "0.2")
"""Three leases have to end, one after the other, while those of the others live on."""


def test_callers_of_a_killed_node_wait_a_lease_and_lose_nothing(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", "c", options=OPTIONS)
    asked = ids(18)
    with Load(cluster.client, "charge", asked, pause_s=0.003) as load:
        load.more(60)
        cluster.nodes["b"].kill()
        load.all_ids_answered()
        load.more(60)
    assert load.failures == []
    assert load.longest_s <= LEASE_S + HEARTBEAT_S + SLACK_S
    runs = {}
    for id in asked:
        log = book.log("charge", id)
        assert kit.overlapping(log, dead=["b"]) == []
        for what, tag, where in log:
            if what == "start":
                runs.setdefault(tag, []).append(where)
    assert {answer.tag for answer in load.answers} <= set(runs)
    twice = {tag: where for tag, where in runs.items() if len(where) > 1}
    assert {where[0] for where in twice.values()} <= {"b"}, "only what b had taken is run again"
    assert all(len(where) == 2 for where in twice.values())


def test_many_that_a_killed_node_had_are_answered_by_the_others(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", "c", options=OPTIONS)
    asked = ids(90)
    busy = next(id for id in asked if cluster.owner(id) is cluster.nodes["b"])
    for id in asked:
        if id != busy:
            book.release("gated", id, times=9)  # what b had begun may be run again
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cluster.client.request_many, asked, "gated", timeout=20)
        book.started("gated", busy)
        cluster.nodes["b"].kill()
        book.release("gated", busy, times=9)  # so may what a late machine takes from the others
        found = waiting.result()
    assert list(found) == asked
    assert found[busy]["node"] in {"a", "c"}
    for id in asked:
        assert kit.overlapping(book.log("gated", id), dead=["b"]) == []


def test_values_of_a_killed_node_are_computed_anew_and_never_older(
    cluster: Cluster, ids: Fresh
) -> None:
    cluster.start("a", "b", "c", options=OPTIONS)
    with Load(cluster.client, "price", ids(18)) as load:
        load.more(200)
        cluster.nodes["a"].kill()
        load.all_ids_answered()
    assert load.failures == []
    assert load.longest_s <= LEASE_S + HEARTBEAT_S + SLACK_S
    assert_never_older(load)


def test_what_all_nodes_died_on_is_answered_by_the_next_that_joins(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    nodes = cluster.start("a", "b", options=kit.BRISK)
    held = ids(4)
    with ThreadPoolExecutor(len(held)) as pool:
        asked = [pool.submit(cluster.client.reply, id, "gated", timeout=20) for id in held]
        for id in held:
            book.started("gated", id)
        for node in nodes:
            node.kill()
        for id in held:
            book.release("gated", id)
        cluster.start("c", options=kit.BRISK)
        assert {one.result().node for one in asked} == {"c"}


def test_a_request_that_kills_its_node_is_given_up_after_three(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", "c", "d", options=THREE_DEATHS)
    poison, other = ids(2)
    with pytest.raises(NodeLost) as caught:
        cluster.client.request(poison, "die", timeout=50)
    assert (caught.value.resource, caught.value.id, caught.value.attempts) == ("die", poison, 3)
    where = [node for _, _, node in book.log("die", poison)]
    assert len(set(where)) == 3
    (survivor,) = set(cluster.nodes) - set(where)
    assert cluster.client.reply(other, "price").node == survivor
    assert cluster.client.members() == (survivor,)


def test_such_a_request_ends_the_command_with_1_and_its_job_as_failed(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    one, two, other = ids(3)
    options = ("--count", "4", "--lease", "30", "--log-level", "warning")
    with kit.node(cluster.url, cluster.namespace, "w", *options) as supervisor:
        kit.eventually(lambda: len(cluster.client.members()) == 4)
        done = kit.finished(cluster.url, cluster.namespace, "request", str(one), "-r", "die")
        assert (done.returncode, done.stdout) == (1, "")
        assert "3 nodes died while they held this request" in done.stderr
        kit.eventually(lambda: len(cluster.client.members()) == 4)
        job = cluster.client.enqueue(two, "die")
        result = job.latest_result(timeout=4) or job.latest_result(timeout=4)
        assert result
        assert "too many nodes died" in str(result.exc_string)
        assert job.get_status() == "failed"
        assert cluster.client.request(other, "charge")["n"] == 1
        kit.eventually(lambda: len(cluster.client.members()) == 4)
        assert supervisor.stop() == 0


def test_other_ids_are_answered_while_a_request_kills_node_after_node(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", "c", "d", options=THREE_DEATHS)
    (poison,) = ids(1)
    # Not those that go from node to node with it: four, three and two nodes, so modulo twelve.
    others = [id for id in ids(12) if (id - poison) % 12]
    with Load(cluster.client, "price", others) as load, ThreadPoolExecutor(1) as pool:
        load.more(50)
        dying = pool.submit(cluster.client.request, poison, "die", timeout=50)
        assert isinstance(dying.exception(), NodeLost)
        load.all_ids_answered()
    assert load.failures == []
    assert_never_older(load)


def test_what_has_ended_is_answered_before_the_next_run_takes_the_node_with_it(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", options=("--lease", "6", "--heartbeat", "0.2", "--concurrency", "1"))
    (id,) = ids(1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cluster.client.request, id, "gated", timeout=30)
        book.started("gated", id)
        dying = pool.submit(cluster.client.request, id, "die", timeout=3)
        kit.eventually(lambda: max(n.held for n in cluster.client.membership().nodes) == 2)
        book.release("gated", id)
        assert first.result()["n"] == 1
        assert dying.exception()
    assert book.order("gated", id) == ["-"], "run once"


@pytest.mark.timeout(120)
def test_a_request_that_waits_behind_another_is_not_blamed_for_its_nodes_deaths(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    options = ("--lease", "2", "--heartbeat", "0.2", "--concurrency", "1")  # none is late
    cluster.start("a", "b", "c", "d", options=options)
    (id,) = ids(1)  # requests of one slot go to the same node each time

    def held() -> int:
        return max(node.held for node in cluster.client.membership().nodes)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cluster.client.request, id, "gated", timeout=50)
        book.started("gated", id)
        dying = pool.submit(cluster.client.request, id, "die", timeout=50)
        kit.eventually(lambda: held() == 2)
        innocent = pool.submit(cluster.client.request, id, "charge", timeout=50)
        kit.eventually(lambda: held() == 3)
        book.release("gated", id)
        assert first.result()["n"] == 1
        assert isinstance(dying.exception(), NodeLost)
        assert innocent.result()["n"] == 1


def test_an_id_that_has_killed_three_nodes_fails_fast_for_others(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", "c", "d", options=THREE_DEATHS)
    poison, other = ids(2)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(cluster.client.request, poison, "die", timeout=50) for _ in range(2)]
        assert {type(one.exception()) for one in asked} == {NodeLost}
    with pytest.raises(NodeLost):
        cluster.client.request(poison, "die")
    with pytest.raises(NodeLost):
        cluster.client.enqueue(poison, "die")
    assert len(book.log("die", poison)) == 3
    assert len(cluster.client.members()) == 1
    assert cluster.client.request(other, "charge")["n"] == 1


def test_a_node_paused_for_less_than_its_lease_is_not_given_up(
    cluster: Cluster, ids: Fresh
) -> None:
    node, _ = cluster.start("a", "b", options=("--lease", "5", "--heartbeat", "0.2"))
    epoch = cluster.client.membership().epoch
    with Load(cluster.client, "charge", ids(8)) as load:
        load.more(20)
        node.signal(signal.SIGSTOP)
        with pytest.raises(AssertionError):
            load.all_ids_answered(within_s=0.5)
        node.signal(signal.SIGCONT)
        load.all_ids_answered()
    assert load.failures == []
    assert cluster.client.membership().epoch == epoch
