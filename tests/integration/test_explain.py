"""``rqproc explain`` and ``Client.explain``: why an id is where it is, and how it has done."""

from __future__ import annotations

import asyncio
import signal

import pytest
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Line

from rqproc import App, AsyncClient
from rqproc.explained import Explanation
from rqproc.testing import LocalCluster


def test_the_owner_tells_of_entry_and_runs(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    line("request", str(id), "-r", "price")
    code, out, err = line("explain", str(id), "-r", "price")
    assert (code, err) == (0, "")
    owner = f"n{id % 3 + 1}"
    assert out.startswith(f"price {id}\n")
    assert f"slot {id} modulo 3 = {id % 3} of n1, n2, n3" in out
    assert f"answered  by {owner}, in " in out
    assert "a value, " in out
    assert "none under way" in out
    assert out.splitlines()[-1].endswith("ok")


def test_the_json_of_explain(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    line("request", str(id), "-r", "explode")
    first, second = line.json("explain", str(id), "-r", "explode", "ABC-1")
    assert list(first) == ["resource", "id", "location", "nodes", "told", "silence", "took_s"]
    assert first["told"]["node"] == first["location"]["owner"] == f"n{id % 3 + 1}"
    (run,) = first["told"]["runs"]
    assert (run["error"], run["message"]) == ("ValueError", f"no such id: {id}")
    assert run["traceback"].endswith(f"ValueError: no such id: {id}\n")
    assert (second["id"], second["told"]["runs"]) == ("ABC-1", [])


def test_a_resource_that_no_node_has_is_said_to_be_unknown(line: Line, ids: Fresh) -> None:
    code, out, _ = line("explain", str(ids(1)[0]), "-r", "nowhere")
    assert code == 0
    assert "'nowhere' is not declared by the app of n" in out


def test_a_paused_node_is_told_of_with_what_the_server_knows(
    three: Cluster, line: Line, ids: Fresh
) -> None:
    (id,) = ids(1)
    owner = three.owner(id)
    owner.signal(signal.SIGSTOP)
    try:
        where = ("--url", three.url, "--namespace", three.namespace)
        code, out, err = line("explain", str(id), "-t", "0.3", *where)
        found = three.client.explain(id, timeout=0.2)
    finally:
        owner.signal(signal.SIGCONT)
    name = three.client.owner(id)
    assert (code, err) == (4, "")
    assert f"owner     {name} (member, lease " in out
    assert f"unknown   {name} has not answered within 0.3 s" in out
    assert (found.told, found.asked) == (None, name)
    assert found.silence == f"{name} has not answered within 0.2 s"


def test_where_no_node_lives_that_is_said(line: Line, cluster: Cluster) -> None:
    where = ("--url", cluster.url, "--namespace", cluster.namespace)
    code, out, err = line("explain", "42", *where)
    assert (code, err) == (3, "")
    assert "none: no live node; start one with `rqproc node start`" in out


def test_an_id_whose_run_began_before_it_moved_is_explained_by_its_holder(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1, modulo=2)
    cluster.start("b")
    cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    cluster.start("a")
    found = cluster.client.explain(id, "gated")
    book.release("gated", id)
    assert (found.location.owner, found.location.holder, found.asked) == ("a", "b", "b")
    assert found.told
    assert (found.told.node, found.told.owns) == ("b", False)
    assert found.told.run


def test_asking_runs_nothing_and_takes_no_hold(line: Line, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    for _ in range(3):
        (found,) = line.json("explain", str(id), "-r", "price")
        assert found["location"]["holder"] is None
        assert (found["told"]["kept"], found["told"]["runs"]) == (None, [])
    assert book.count("price", id) == 0


@pytest.mark.parametrize("where", ["in memory", "local"])
def test_the_kit_and_local_mode_explain_too(where: str) -> None:
    app = App("redis://nowhere")

    @app.resource(ttl=60)
    def price(id: int) -> int:
        return 7 * id

    with LocalCluster(app, nodes=3) if where == "in memory" else app.at("local://"):
        assert price.request(6) == 42
        found = app.client.explain(6, "price")
        assert found.told
        assert found.told.kept
        assert (found.told.kept.what, found.told.kept.bytes) == ("value", 2)
        (run,) = found.told.runs
        assert run.error == ""
        assert found.told.requests == 0, "the question itself is none"


def test_asyncio_is_told_the_same(three: Cluster, ids: Fresh) -> None:
    (id,) = ids(1)

    async def ask() -> Explanation:
        async with AsyncClient(three.url, namespace=three.namespace) as client:
            return await client.explain(id, "price")

    found = asyncio.run(ask())
    assert found.told
    assert found.told.node == three.client.owner(id)
