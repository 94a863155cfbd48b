"""Entries of ids that move go to their next owners: in the test kit, by its clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rqproc import App, Cached
from rqproc.placement import PLACEMENTS
from rqproc.testing import LocalCluster

IDS = range(60)

app = App()


@app.resource(ttl=100)
def price(id: Any) -> Any:
    return {"id": id}


@app.resource(ttl=10, stale_ttl=40)
def stale(id: Any) -> int:
    return int(id)


@app.resource(ttl=100, negative_ttl=30, negative=(LookupError,))
def missing(id: Any) -> int:
    raise LookupError(str(id))


@app.resource(ttl=100)
def brief(id: Any) -> Cached[int]:
    return Cached(int(id), ttl=20)


@app.resource(ttl=100, max_entries=5)
def few(id: Any) -> int:
    return int(id)


@pytest.fixture(params=PLACEMENTS)
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    with LocalCluster(app, nodes=3, placement=request.param, handoff=True) as cluster:
        yield cluster


def changed(cluster: LocalCluster, resource: Any, ids: Any = IDS) -> set[Any]:
    """Have a node join and one leave; return the ids that have moved."""
    before = {found.id: found.owner for found in cluster.client.locate(list(ids), resource.name)}
    cluster.join()
    cluster.advance(0.5)
    cluster.leave("node-1")
    cluster.advance(0.5)
    after = {found.id: found.owner for found in cluster.client.locate(list(ids), resource.name)}
    return {id for id in ids if before[id] != after[id]}


def test_what_moves_is_not_made_anew(cluster: LocalCluster) -> None:
    cluster.request_many(price, IDS)
    assert len(changed(cluster, price)) > len(IDS) / 5
    assert {reply.source for reply in cluster.reply_many(price, IDS).values()} == {"hit"}
    assert {cluster.computations(price, id) for id in IDS} == {1}


def test_nothing_is_answered_past_the_ttl_that_it_had(cluster: LocalCluster) -> None:
    cluster.request_many(brief, IDS)
    cluster.advance(8)
    changed(cluster, brief)
    cluster.advance(5)
    found = cluster.reply_many(brief, IDS).values()
    assert {reply.source for reply in found} == {"hit"}
    assert all(19.8 <= reply.age_s + reply.expires_in_s <= 20 for reply in found), found
    cluster.advance(20 - min(reply.age_s for reply in found))
    assert {reply.source for reply in cluster.reply_many(brief, IDS).values()} == {"miss"}


def test_what_was_changed_before_or_meanwhile_is_not_brought_back(cluster: LocalCluster) -> None:
    cluster.request_many(price, IDS)
    cluster.invalidate_many(price, IDS[:20])
    cluster.join()
    cluster.invalidate_many(price, IDS[20:40])
    cluster.leave("node-1")
    cluster.set(price, 50, "given")
    cluster.advance(0.5)
    changed = [id for id, reply in cluster.reply_many(price, IDS).items() if reply.source == "miss"]
    assert changed == list(IDS[:40])
    assert cluster.request(price, 50) == "given"


def test_what_was_flushed_is_not_brought_back(cluster: LocalCluster) -> None:
    cluster.request_many(price, IDS)
    cluster.join()
    cluster.invalidate_all(price)
    cluster.leave("node-1")
    cluster.advance(0.5)
    assert {reply.source for reply in cluster.reply_many(price, IDS).values()} == {"miss"}


def test_old_values_and_remembered_errors_move_too(cluster: LocalCluster) -> None:
    cluster.request_many(stale, IDS)
    cluster.request_many(missing, IDS, partial=True)
    cluster.advance(12)
    changed(cluster, stale)
    assert {reply.source for reply in cluster.reply_many(stale, IDS).values()} == {"stale"}
    told = cluster.request_many(missing, IDS, partial=True)
    assert len(told.errors) == len(IDS)
    assert {cluster.computations(missing, id) for id in IDS} == {1}
    cluster.advance(60)
    assert {reply.source for reply in cluster.reply_many(stale, IDS).values()} == {"miss"}


def test_what_the_next_owner_has_no_room_for_does_not_come_in_the_place_of_its_own() -> None:
    with LocalCluster(app, nodes=2, placement="slots", handoff=True) as cluster:
        cluster.request_many(few, IDS)
        before = {id for id, r in cluster.reply_many(few, IDS).items() if r.source == "hit"}
        mine = [id for id in IDS if cluster.owner(id) == "node-2"][-5:]
        cluster.request_many(few, mine)
        cluster.leave("node-1")
        cluster.advance(0.5)
        assert {r.source for r in cluster.reply_many(few, mine).values()} == {"hit"}, before


def test_without_it_what_moves_is_made_anew() -> None:
    with LocalCluster(app, nodes=3, placement="slots") as cluster:
        cluster.request_many(price, IDS)
        moved = changed(cluster, price)
        found = cluster.reply_many(price, IDS)
        assert {id for id, reply in found.items() if reply.source == "miss"} == moved


def test_one_that_is_killed_or_paused_while_it_takes_loses_entries_and_no_more(
    cluster: LocalCluster,
) -> None:
    cluster.request_many(price, IDS)
    cluster.pause("node-2")
    cluster.leave("node-1")
    cluster.invalidate_many(price, [id for id in IDS if cluster.owner(id) == "node-3"])
    cluster.resume("node-2")
    cluster.advance(0.5)
    sources = {id: reply.source for id, reply in cluster.reply_many(price, IDS).items()}
    assert {sources[id] for id in IDS if cluster.owner(id) == "node-3"} == {"miss"}
    cluster.join("node-4")
    cluster.kill("node-4")
    cluster.advance(20)
    assert set(cluster.request_many(price, IDS)) == set(IDS)
