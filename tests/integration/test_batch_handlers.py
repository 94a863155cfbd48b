"""Handlers that are called with many ids at once: in memory, on real processes, at local://."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from integration.fixtures import both_kinds

from rqproc import App, Cached, current
from rqproc.errors import HandlerFailed, RequestTimeout
from rqproc.testing import Kit, LocalCluster

TTL_S = 30.0
MOST = 10
WAIT_S = 2.0

app = App()

Ids = list[Any]


@app.resource(ttl=TTL_S, batch=MOST)
def prices(ids: Ids) -> dict[Any, Ids]:
    return dict.fromkeys(ids, ids)


@app.resource(ttl=TTL_S, batch=MOST)
async def quotes(ids: Ids) -> dict[Any, Ids]:
    await asyncio.sleep(0)
    return dict.fromkeys(ids, ids)


@app.resource(ttl=TTL_S, batch=MOST, batch_wait_s=WAIT_S)
def waits(ids: Ids) -> dict[Any, Ids]:
    return dict.fromkeys(ids, ids)


@app.resource(ttl=TTL_S, batch=2, batch_wait_s=TTL_S)
def slow(ids: Ids) -> dict[Any, Ids]:
    current().sleep(3.0)
    return dict.fromkeys(ids, ids)


@app.resource(ttl=TTL_S, batch=MOST, timeout=0.3)
def sticks(ids: Ids) -> dict[Any, Ids]:
    current().sleep(1.0)
    return dict.fromkeys(ids, ids)


@app.resource(ttl=TTL_S, batch=MOST, negative_ttl=5, negative=(LookupError,))
def odd(ids: Ids) -> Any:
    """Returns what the greatest id stands for."""
    what = max(ids)
    if what == 100:
        raise LookupError("no upstream")
    if what == 200:
        return list(ids)
    found: dict[Any, Any] = {id: id * 2 for id in ids}
    if what == 300:
        found[str(ids[0])] = found.pop(ids[0])
        found |= {901: 0, None: 0}
    if what == 400:
        del found[ids[0]]
    if what == 500:
        found[ids[0]] = KeyError("gone")
    if what == 600:
        found[ids[0]] = Cached(7, ttl=1)
    if what == 700:
        found[ids[0]] = object()
    return found


@app.resource(ttl=TTL_S, batch=MOST)
def strict(ids: Ids) -> dict[Any, int]:
    return {id: id for id in ids if id < 100}


@app.resource(ttl=TTL_S, batch=MOST)
def tokens(ids: Ids) -> dict[Any, Any]:
    run = current()
    assert list(run.batch) == ids
    assert (run.id, run.token) == (ids[0], run.batch[ids[0]].token)
    return {id: one.token for id, one in run.batch.items()}


@app.resource(ttl=TTL_S, batch=MOST, retries=1, backoff=0.01)
def flaky(ids: Ids) -> dict[Any, int]:
    tries.append(ids)
    if len(tries) == 1:
        raise ConnectionError("once more")
    return dict.fromkeys(ids, len(tries))


tries: list[Ids] = []


@both_kinds
def kit(request: pytest.FixtureRequest) -> Any:
    tries.clear()
    return request.param


@pytest.fixture
def cluster(kit: Any) -> Iterator[Kit]:
    with kit(app, nodes=2) as cluster:
        yield cluster


@pytest.fixture
def alone(kit: Any) -> Iterator[Kit]:
    """One node, that has one lane."""
    with kit(app, nodes=1, concurrency=1) as cluster:
        yield cluster


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def outcomes(cluster: Kit, resource: Any, ids: Sequence[Any]) -> dict[Any, Any]:
    return cluster.client.request_many(ids, resource.name, return_exceptions=True)


# --- who goes together ---


@pytest.mark.parametrize("resource", [prices, quotes], ids=["function", "coroutine"])
def test_the_misses_of_each_node_go_to_the_handler_in_one_call(cluster: Kit, resource: Any) -> None:
    ids = list(range(12))
    values = cluster.request_many(resource, ids)
    for id in ids:
        mine = [other for other in ids if cluster.owner(other) == cluster.owner(id)]
        assert values[id] == mine
    assert {cluster.reply(resource, id).source for id in ids} == {"hit"}


def test_a_call_has_no_more_ids_than_are_allowed(alone: Kit) -> None:
    values = alone.request_many(prices, range(2 * MOST + 3))
    calls = {tuple(ids) for ids in values.values()}
    assert sorted(len(ids) for ids in calls) == [3, MOST, MOST]


def test_all_ids_of_a_call_take_one_lane_together(alone: Kit) -> None:
    assert {len(ids) for ids in alone.request_many(prices, range(MOST)).values()} == {MOST}


def test_only_what_is_missing_goes_to_the_handler(alone: Kit) -> None:
    alone.request_many(prices, [1, 2])
    assert alone.request_many(prices, [1, 2, 3, 4]) == {1: [1, 2], 2: [1, 2], 3: [3, 4], 4: [3, 4]}


def test_arrays_that_overlap_compute_each_id_once(
    cluster: Kit, threads: ThreadPoolExecutor
) -> None:
    def ask(ids: range) -> Future[dict[Any, Any]]:
        return threads.submit(cluster.client.request_many, ids, "prices")

    with cluster.hold(prices, 3) as held:
        first = ask(range(6))
        held.wait()
        second = ask(range(2, 8))
        cluster.advance(0.3)
    assert first.result(10).keys() | second.result(10).keys() == set(range(8))
    assert [cluster.computations(prices, id) for id in range(8)] == [1] * 8
    cluster.assert_serial()


def test_a_single_id_goes_alone_where_nothing_waits_for_more(cluster: Kit) -> None:
    assert cluster.request(prices, 1) == [1]


def test_who_is_told_to_waits_for_others_to_go_along(alone: Kit) -> None:
    calls = [alone.start(waits, id) for id in (1, 2, 3)]
    assert [call.result() for call in calls] == [[1, 2, 3]] * 3
    assert alone.request(waits, 4) == [4]


def test_a_batch_that_is_full_waits_no_longer(alone: Kit) -> None:
    before_s = alone.now_s
    assert alone.request_many(waits, range(MOST))[0] == list(range(MOST))
    assert alone.now_s - before_s < WAIT_S


def test_jobs_go_along_too(cluster: Kit) -> None:
    jobs = [cluster.enqueue(prices, id) for id in range(4)]
    cluster.assert_nothing_lost()
    assert all(id in job.return_value() for id, job in enumerate(jobs))


def test_each_id_has_its_own_token(cluster: Kit) -> None:
    values = cluster.request_many(tokens, range(6))
    assert len(set(values.values())) == 6
    assert {id: cluster.reply(tokens, id).token for id in values} == values


def test_a_batch_that_fails_is_tried_again_as_a_whole(alone: Kit) -> None:
    assert alone.request_many(flaky, [1, 2]) == {1: 2, 2: 2}


# --- what it returns ---


def test_where_it_raises_each_id_has_the_error_and_it_is_not_remembered(alone: Kit) -> None:
    for _ in range(2):
        failed = outcomes(alone, odd, [1, 100])
        assert [str(error) for error in failed.values()] == [
            "odd 1: the handler raised LookupError: no upstream",
            "odd 100: the handler raised LookupError: no upstream",
        ]
    assert alone.request(odd, 1) == 2


def test_what_is_no_dict_is_an_error_of_each_id(alone: Kit) -> None:
    failed = outcomes(alone, odd, [1, 200])
    assert all("returns a dict of the values by id, not list" in str(e) for e in failed.values())


def test_values_of_ids_that_were_not_asked_for_are_left_out_with_one_warning(
    alone: Kit, kit: Any
) -> None:
    assert alone.request_many(odd, [1, 300]) == {1: 2, 300: 600}
    assert alone.invalidate(odd, 300)
    assert alone.request_many(odd, [2, 300]) == {2: 4, 300: 600}
    assert alone.reply(odd, 901).source == "miss"
    if kit is LocalCluster:
        warned = [event.text for event in alone.history if "not asked for" in event.text]
        assert len(warned) == 1


def test_an_id_without_a_value_has_an_error_of_its_own(alone: Kit) -> None:
    found = outcomes(alone, strict, [1, 100])
    assert found[1] == 1
    assert isinstance(found[100], HandlerFailed)
    assert "returned no value of it" in str(found[100])


def test_or_it_is_none_for_as_long_as_that_is_kept(alone: Kit) -> None:
    assert alone.request_many(odd, [1, 400]) == {1: None, 400: 800}
    assert alone.reply(odd, 1)[1:4:2] == (None, "hit")
    alone.advance(5)
    assert alone.reply(odd, 1)[1:4:2] == (2, "miss")


def test_an_exception_as_a_value_is_that_ids_error_and_may_be_remembered(alone: Kit) -> None:
    found = outcomes(alone, odd, [1, 500])
    assert found[500] == 1000
    assert (found[1].type, found[1].remembered) == ("KeyError", False)
    with pytest.raises(HandlerFailed, match="gone") as raised:
        alone.request(odd, 1)
    assert raised.value.remembered


def test_a_value_has_a_ttl_of_its_own(alone: Kit) -> None:
    assert alone.request_many(odd, [1, 600]) == {1: 7, 600: 1200}
    alone.advance(1)
    assert alone.reply(odd, 600).source == "hit"
    assert alone.reply(odd, 1).source == "miss"


def test_a_value_that_is_not_json_is_that_ids_error(alone: Kit) -> None:
    found = outcomes(alone, odd, [1, 700])
    assert "not JSON" in str(found[1])
    assert found[700] == 1400


# --- while it runs ---


def test_one_whose_time_is_over_does_not_keep_the_others(alone: Kit) -> None:
    hurried, patient = alone.start(slow, 1, timeout=2.0), alone.start(slow, 2)
    assert patient.result() == [1, 2]
    with pytest.raises(RequestTimeout):
        hurried.result()
    assert alone.reply(slow, 1)[1:4:2] == ([1, 2], "hit")


def test_what_nobody_waits_for_any_more_when_it_begins_is_left_out(alone: Kit) -> None:
    hurried, patient = alone.start(waits, 1, timeout=0.2), alone.start(waits, 2)
    assert patient.result() == [2]
    with pytest.raises(RequestTimeout):
        hurried.result()


def test_an_id_that_is_invalidated_meanwhile_is_not_kept_and_the_others_are(
    alone: Kit, threads: ThreadPoolExecutor
) -> None:
    with alone.hold(prices, 1) as held:
        asked = threads.submit(alone.client.request_many, [1, 2], "prices")
        held.wait()
        gone = threads.submit(alone.invalidate, prices, 1)
        assert gone.result(10)
    assert asked.result(10) == {1: [1, 2], 2: [1, 2]}
    assert alone.reply(prices, 2).source == "hit"
    assert alone.reply(prices, 1)[1:4:2] == ([1], "miss")


def test_a_batch_that_gets_stuck_fails_each_of_its_ids_and_keeps_them(alone: Kit) -> None:
    failed = outcomes(alone, sticks, [1, 2])
    assert [type(error).__name__ for error in failed.values()] == ["HandlerTimeout"] * 2
    assert [error.stuck for error in outcomes(alone, sticks, [1, 2]).values()] == [True] * 2
    alone.advance(1.0)
    assert [error.stuck for error in outcomes(alone, sticks, [2]).values()] == [True]
    alone.assert_serial()


def test_when_its_node_is_killed_each_id_is_run_by_its_next_owner(
    cluster: Kit, threads: ThreadPoolExecutor
) -> None:
    ids = list(range(6))
    first = cluster.owner(0)
    assert first
    with cluster.hold(prices, 0) as held:
        asked = threads.submit(cluster.client.request_many, ids, "prices", timeout=30)
        held.wait()
        cluster.kill(first)
    assert asked.result(40)[0] == [id for id in ids if id % 2 == 0]
    cluster.assert_serial()
    assert {cluster.computations(prices, id) for id in ids if id % 2 == 0} == {2}


def test_a_node_that_leaves_ends_what_it_has_gathered(cluster: Kit) -> None:
    owner = cluster.owner(1)
    assert owner
    call = cluster.start(waits, 1)
    cluster.leave(owner)
    assert call.result() == [1]
    assert cluster.computations(waits, 1) == 1


# --- without a server ---


def test_without_a_server_it_is_the_same() -> None:
    with app.at("local://"):
        assert prices.request_many([1, 2, 3]) == {id: [1, 2, 3] for id in (1, 2, 3)}
        assert prices.request_many([3, 4, "5"]) == {3: [1, 2, 3], 4: [4, 5], "5": [4, 5]}
        assert asyncio.run(quotes.arequest_many([1, 2])) == {1: [1, 2], 2: [1, 2]}
        assert odd.request_many([1, 400]) == {1: None, 400: 800}


def test_called_directly_it_is_the_plain_function() -> None:
    assert prices([1, 2]) == {1: [1, 2], 2: [1, 2]}
