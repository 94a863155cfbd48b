"""Placement by slots, on real nodes: who owns what, what a change moves, who is refused."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc import App, Client
from rqproc.errors import PlacementMismatch
from rqproc.model import Reply
from rqproc.placement import SLOTS
from rqproc.testing import LocalCluster, RealCluster

pytestmark = pytest.mark.slow

SLOTTED = (*kit.PATIENT, "--placement", "slots")


def start(cluster: Cluster, *names: str) -> None:
    for name in names:  # one after the other: how slots are dealt follows from that
        cluster.start(name, options=SLOTTED)


def owners(client: Client, asked: list[int]) -> dict[int | str, str | None]:
    return {found.id: found.owner for found in client.locate(asked)}


def replies(client: Client, asked: list[int]) -> list[Reply]:
    found = client.reply_many(asked, "instant", timeout=30)
    return [reply for reply in found.values() if isinstance(reply, Reply)]


def test_every_caller_and_every_way_of_asking_finds_the_same_owner(
    cluster: Cluster, ids: Fresh
) -> None:
    start(cluster, "a", "b", "c")
    asked = [*ids(60), *range(10**9, 10**9 + 4096 * 20, 4096)]
    found = owners(cluster.client, asked)
    assert set(found.values()) == {"a", "b", "c"}
    assert {reply.id: reply.node for reply in replies(cluster.client, asked)} == found
    for id in asked[:6]:
        assert cluster.client.reply(id, "echo", args=(1,)).node == found[id]
    jobs = {id: cluster.client.enqueue(id, "price") for id in asked[:6]}
    for id, job in jobs.items():
        kit.ended(job)
        assert job.return_value()["node"] == found[id]
    with Client(cluster.url, namespace=cluster.namespace) as other:
        assert owners(other, asked) == found


def test_one_that_joins_takes_its_share_and_what_does_not_move_stays_kept(
    cluster: Cluster, ids: Fresh
) -> None:
    start(cluster, "a", "b", "c")
    asked = ids(2000)
    before = owners(cluster.client, asked)
    assert len(replies(cluster.client, asked)) == len(asked)
    start(cluster, "d")
    after = owners(cluster.client, asked)
    moved = {id for id in asked if before[id] != after[id]}
    assert {after[id] for id in moved} == {"d"}
    assert 0.2 < len(moved) / len(asked) < 0.3
    assert max(Counter(after.values()).values()) < 600
    told = replies(cluster.client, asked)
    assert {reply.id for reply in told if reply.source == "miss"} == moved
    assert {reply.id: reply.node for reply in told} == after


def test_one_that_is_killed_gives_its_ids_to_the_others_and_no_more(
    cluster: Cluster, ids: Fresh
) -> None:
    for name in ("a", "b", "c"):
        cluster.start(name, options=(*kit.SHORT, "--placement", "slots"))
    asked = ids(600)
    before = owners(cluster.client, asked)
    replies(cluster.client, asked)
    cluster.nodes["b"].kill()
    told = replies(cluster.client, asked)
    assert len(told) == len(asked)
    after = owners(cluster.client, asked)
    assert {before[id] for id in asked if before[id] != after[id]} == {"b"}
    assert {after[id] for id in asked if before[id] == "b"} == {"a", "c"}
    assert cluster.client.members() == ("a", "c")


def test_an_invalidation_is_never_overtaken_by_an_entry_of_a_former_owner(
    cluster: Cluster, ids: Fresh
) -> None:
    start(cluster, "a")
    asked = ids(200)
    old = cluster.client.request_many(asked, "price")
    start(cluster, "b")
    for id in asked:
        cluster.client.invalidate(id, "price")
    new = cluster.client.request_many(asked, "price")
    assert all(new[id]["n"] > old[id]["n"] for id in asked)
    cluster.nodes["b"].stop()
    third = cluster.client.request_many(asked, "price")
    assert all(third[id]["n"] >= new[id]["n"] for id in asked)


def test_a_choke_point_stays_one_while_its_id_moves(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    start(cluster, "a")
    asked = ids(40)
    for name in ("b", "c"):
        first = cluster.client.request_many(asked, "charge", timeout=30)
        start(cluster, name)
        again = cluster.client.request_many(asked, "charge", timeout=30)
        assert {value["node"] for value in first.values()} < {
            value["node"] for value in again.values()
        }
    for id in asked:
        assert kit.overlapping(book.log("charge", id)) == []
        assert book.count("charge", id) == 4


# --- who is refused ---


@pytest.mark.parametrize(("theirs", "mine"), [("slots", "modulo"), ("modulo", "slots")])
def test_a_node_of_another_placement_is_refused_with_what_to_do(
    cluster: Cluster, theirs: str, mine: str
) -> None:
    cluster.start("a", options=(*kit.PATIENT, "--placement", theirs))
    for count in ((), ("--count", "2")):
        refused = kit.command(
            cluster.url, cluster.namespace, "node", "start", "--name", "b", "--placement", mine,
            *count,
        )  # fmt: skip
        with refused:
            assert refused.wait() == 2
            assert f"have placement '{theirs}', this one '{mine}'" in refused.stderr
            assert f"--placement {theirs}" in refused.stderr
            assert "Traceback" not in refused.stderr
    assert cluster.client.members() == ("a",)
    app = App(cluster.url, namespace=cluster.namespace)
    with pytest.raises(PlacementMismatch), app.node(name="c", placement=mine):  # type: ignore[arg-type]
        pass


def test_when_all_nodes_have_left_the_next_may_have_another(cluster: Cluster, ids: Fresh) -> None:
    asked = ids(30)
    start(cluster, "a", "b")
    assert cluster.client.membership().placement == "slots"
    assert [cluster.nodes[name].stop() for name in ("a", "b")] == [0, 0]
    cluster.start("a", "b")
    assert cluster.client.membership().placement == "modulo"
    assert owners(cluster.client, asked) == {id: "ab"[id % 2] for id in asked}


def test_one_that_was_out_while_all_others_changed_their_placement_ends(
    cluster: Cluster, ids: Fresh
) -> None:
    (old,) = cluster.start("a", options=kit.BRISK)
    old.signal(signal.SIGSTOP)
    kit.eventually(lambda: not cluster.client.members(), what="the lease of one that is paused")
    start(cluster, "b")
    since = len(old.lines)
    old.signal(signal.SIGCONT)
    assert old.wait() == 2
    assert "have placement 'slots', this one 'modulo'" in "".join(old.lines[since:])
    assert cluster.client.request(ids(1)[0], "price")["node"] == "b"


# --- what is told of it ---


def test_the_commands_tell_of_slots(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    line = kit.Line(capsys)

    def told(*arguments: str) -> str:
        where = ("--url", cluster.url, "--namespace", cluster.namespace)
        code, out, err = line(*where, *arguments)
        assert (code, err) == (0, "")
        return out

    cluster.start("a", "b", "c", options=SLOTTED)
    found = json.loads(told("node", "list", "--json"))
    assert found["placement"] == "slots"
    shares = {node["name"]: node["slots"] for node in found["members"]}
    assert sum(shares.values()) == SLOTS
    assert shares.keys() == {"a", "b", "c"}
    assert max(shares.values()) - min(shares.values()) <= 1
    table = told("node", "list")
    assert "placement slots" in table
    assert "1366" in table
    owner = cluster.client.owner(4097)
    assert told("owner", "4097").startswith(
        f"4097\t{owner}\thash slot 2054 of 4096, dealt to {owner} of a, b, c (epoch 3)"
    )
    shown = json.loads(told("owner", "4097", "--json"))
    assert (shown["placement"], shown["hash_slot"], shown["slot"]) == ("slots", 2054, 4097)


def test_a_supervisor_gives_its_nodes_the_placement(cluster: Cluster) -> None:
    with kit.command(
        cluster.url, cluster.namespace, "node", "start", "--name", "n", "--count", "2",
        "--placement", "slots",
    ) as running:  # fmt: skip
        kit.eventually(lambda: len(cluster.client.members()) == 2, what="two nodes")
        assert cluster.client.membership().placement == "slots"
        assert running.stop() == 0


# --- without other processes ---


def test_a_node_inside_the_program_finds_what_its_slots_have(cluster: Cluster, ids: Fresh) -> None:
    app = App(cluster.url, namespace=cluster.namespace)
    calls: Counter[Any] = Counter()

    @app.resource(ttl=60)
    def instant(id: Any) -> Any:
        calls[id] += 1
        return {"id": id}

    asked = ids(60)
    with app.node(name="a", placement="slots", lease_s=10.0):
        start(cluster, "b")
        there = owners(cluster.client, asked)
        for _ in range(3):
            assert {id: instant.reply(id).node for id in asked} == there
        assert calls == {id: 1 for id in asked if there[id] == "a"}
    app.client.close()


@pytest.mark.parametrize("kind", [LocalCluster, RealCluster])
def test_the_test_kit_has_it(kind: Any) -> None:
    app = App()

    @app.resource(ttl=60)
    def price(id: int) -> int:
        return id

    asked = list(range(100))
    with kind(app, nodes=3, placement="slots") as cluster:
        cluster.request_many(price, asked)
        before = {found.id: found.owner for found in cluster.client.locate(asked)}
        cluster.join()
        after = {found.id: found.owner for found in cluster.client.locate(asked)}
        moved = {id for id in asked if before[id] != after[id]}
        assert 15 < len(moved) < 35
        cluster.request_many(price, asked)
        assert {id for id in asked if cluster.computations(price, id) == 2} == moved


def test_nodes_come_back_with_their_slots_when_the_server_has_forgotten(
    cluster: Cluster, ids: Fresh
) -> None:
    """They join anew, one after the other, as they notice."""
    start(cluster, "a", "b")
    with kit.redis.Redis.from_url(cluster.url) as server:
        state = f"rqproc:{cluster.namespace}:2:"
        server.delete(*(f"{state}{name}" for name in ("members", "leases", "nodes", "slots")))
    kit.eventually(lambda: cluster.client.members() == ("a", "b"), what="both nodes")
    kit.settle(cluster.client)
    asked = ids(40)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = replies(cluster.client, asked)
        if len(found) == len(asked):
            break
    assert {reply.id: reply.node for reply in found} == owners(cluster.client, asked)
    assert set(owners(cluster.client, asked).values()) == {"a", "b"}
