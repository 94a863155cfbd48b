"""``local://``: this process serves as a node does, without a server."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from local_shop import WITHIN_S, Clock, Shop, holds, until

from rqproc import App, AsyncClient, Client, Reply
from rqproc.errors import (
    ConfigError,
    Crowded,
    HandlerFailed,
    HandlerTimeout,
    InvalidId,
    Overloaded,
    RequestTimeout,
    RqprocError,
    UnknownResource,
)
from rqproc.local.backend import LocalBackend
from rqproc.local.spaces import DaemonRuntime, LocalPlace
from rqproc.local.worker import LocalWorker
from rqproc.protocol.keys import Keys
from rqproc.settings import LOCAL, NodeSettings


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.release(1000)  # whatever a failed test has left behind


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


# --- entries -------------------------------------------------------------------------------------


def test_a_value_is_computed_once_and_then_found(shop: Shop) -> None:
    first, again = shop.price.reply(42), shop.price.reply("42")
    assert (first.source, again.source) == ("miss", "hit")
    assert first.value == again.value
    assert first.token == again.token == first.value["token"]
    assert {first.node, again.node} == {"local"}
    assert again.age_s + again.expires_in_s == pytest.approx(30, abs=0.01)


def test_each_caller_has_a_value_of_its_own(shop: Shop) -> None:
    shop.price.request(1)["n"] = "changed"
    assert shop.price.request(1)["n"] == 1


def test_a_value_is_new_when_its_ttl_is_over(shop: Shop) -> None:
    clock = Clock()
    with shop.at(clock=clock):
        first = shop.price.reply(1)
        clock.passes(29.5)
        assert shop.price.reply(1)[3:6] == ("hit", 29.5, 0.5)
        clock.passes(0.5)
        later = shop.price.reply(1)
    assert (later.source, later.value["n"]) == ("miss", 2)
    assert later.token > first.token


def test_past_the_limit_the_least_recently_used_entry_goes(shop: Shop) -> None:
    with shop.at(max_entries=2):
        for id in (1, 2, 1, 3):
            shop.price.request(id)
        assert [shop.price.reply(id).source for id in (1, 3, 2)] == ["hit", "hit", "miss"]


def test_an_invalidated_value_is_computed_anew(shop: Shop) -> None:
    shop.price.request(1)
    assert [shop.price.invalidate(1), shop.price.invalidate(1)] == [True, False]
    assert shop.price.reply(1).source == "miss"


def test_a_value_computed_while_its_id_is_invalidated_is_not_kept(
    shop: Shop, pool: ThreadPoolExecutor
) -> None:
    early = pool.submit(shop.slow.request, 1)
    shop.begun()
    assert shop.slow.invalidate(1) is True
    shop.release(2)
    assert early.result()["n"] == 1
    assert shop.slow.reply(1).source == "miss"


def test_many_ids_are_answered_each_as_it_stands(shop: Shop) -> None:
    shop.price.request(2)
    found = shop.app.client.reply_many([3, 2, "1", 2], "price")
    assert list(found) == [3, 2, "1"]
    assert [reply.id for reply in found.values()] == [3, 2, 1]
    assert [reply.source for reply in found.values()] == ["miss", "hit", "miss"]
    assert shop.price.request_many(range(600))[599]["n"] == 1


# --- one at a time -------------------------------------------------------------------------------


def test_callers_of_one_id_share_one_computation(shop: Shop, pool: ThreadPoolExecutor) -> None:
    asked = [pool.submit(shop.slow.reply, 1) for _ in range(30)]
    holds(shop.app.client, 30)
    shop.release()
    sources = Counter(one.result().source for one in asked)
    assert sources == {"miss": 1, "joined": 29}
    assert shop.log == ["1", "end 1"]


def test_tasks_and_threads_share_one_computation(shop: Shop, pool: ThreadPoolExecutor) -> None:
    async def ask() -> list[Reply]:
        tasks = [asyncio.create_task(shop.app.async_client.reply(1, "aslow")) for _ in range(20)]
        await asyncio.to_thread(holds, shop.app.client, 21)
        shop.release()
        return await asyncio.gather(*tasks)

    first = pool.submit(shop.aslow.reply, 1)
    shop.begun()
    replies = asyncio.run(ask())
    assert {reply.source for reply in replies} == {"joined"}
    assert first.result().source == "miss"


def test_a_choke_point_runs_one_at_a_time_in_the_order_of_asking(shop: Shop) -> None:
    jobs = [shop.held.enqueue(1, f"n{n}") for n in range(20)]
    shop.release(20)
    assert all(job.latest_result(timeout=WITHIN_S) for job in jobs)
    assert shop.log == [text for n in range(20) for text in (f"n{n}", f"end n{n}")]


def test_a_slow_id_does_not_delay_another(shop: Shop, pool: ThreadPoolExecutor) -> None:
    slow = pool.submit(shop.held.request, 1)
    shop.begun()
    assert shop.charge.request(1)["n"] == 2
    assert not slow.done()
    shop.release()
    slow.result()


def test_lanes_bound_how_many_handlers_run(shop: Shop, pool: ThreadPoolExecutor) -> None:
    with shop.at(concurrency=2):
        asked = [pool.submit(shop.held.request, id) for id in (1, 2, 3)]
        shop.begun(2)
        holds(shop.app.client, 3)
        assert len(shop.log) == 2
        shop.release(3)
        assert [one.result()["n"] for one in asked] == [1, 1, 1]


# --- errors --------------------------------------------------------------------------------------


def test_a_handlers_error_has_its_type_message_and_traceback(shop: Shop) -> None:
    with pytest.raises(HandlerFailed) as caught:
        shop.explode.request(7)
    error = caught.value
    assert (error.resource, error.id, error.type) == ("explode", 7, "ValueError")
    assert error.reason == "no such id: 7"
    assert "in _explode" in error.traceback


@pytest.mark.parametrize(("value", "says"), [({1}, "not JSON"), ("x" * 2**20, "over 1048576")])
def test_a_value_that_no_server_would_carry_is_told_here_too(value: Any, says: str) -> None:
    app = App(LOCAL)
    give = app.resource(ttl=0, name="give")(lambda id: value)
    with pytest.raises(HandlerFailed, match=says):
        give.request(1)


def test_a_kept_resource_takes_no_arguments(shop: Shop) -> None:
    with pytest.raises(HandlerFailed, match="only ids go in"):
        shop.price.request(1, 2)


def test_an_unknown_resource_names_the_known_ones_and_what_to_do_here(shop: Shop) -> None:
    with pytest.raises(UnknownResource, match=r"Client\('local://', app=app\)") as caught:
        shop.app.client.request(1, "prize")
    assert {"price", "demo"} <= set(caught.value.known)


def test_an_invalid_id_is_refused(shop: Shop) -> None:
    with pytest.raises(InvalidId):
        shop.price.request("")


def test_of_many_ids_the_one_that_is_late_times_out_alone() -> None:
    app, gate = App(LOCAL), threading.Event()
    app.resource(ttl=30, name="slow")(lambda id: id if id else gate.wait(WITHIN_S))
    found = app.client.request_many([1, 0, 2], "slow", timeout=2.0, return_exceptions=True)
    gate.set()
    assert (found[1], found[2]) == (1, 2)
    assert isinstance(found[0], RequestTimeout)


def test_a_request_past_its_deadline_is_never_run(shop: Shop, pool: ThreadPoolExecutor) -> None:
    blocking = pool.submit(shop.held.request, 1, "blocks")
    shop.begun()
    with pytest.raises(RequestTimeout) as caught:
        shop.held.with_options(timeout=0.02).request(1, "late")
    assert (caught.value.id, caught.value.timeout_s) == (1, 0.02)
    assert "its handler runs in this process" in str(caught.value)
    shop.release(2)
    blocking.result()
    shop.held.request(1, "after")
    assert [text for text in shop.log if not text.startswith("end")] == ["blocks", "after"]


def test_a_deadline_that_the_worker_sees_first_is_no_answer(
    shop: Shop, pool: ThreadPoolExecutor
) -> None:
    clock = Clock()
    with shop.at(clock=clock):
        blocking = pool.submit(shop.held.with_options(timeout=100.0).request, 1, "blocks")
        shop.begun()
        late = pool.submit(shop.held.with_options(timeout=0.3).request, 1, "late")
        holds(shop.app.client, 2)
        clock.passes(1.0)
        shop.release(2)
        blocking.result()
        with pytest.raises(RequestTimeout):
            late.result()
    assert shop.log == ["blocks", "end blocks"]


def test_who_has_given_up_is_awaited_no_more(shop: Shop, pool: ThreadPoolExecutor) -> None:
    with shop.at() as there:
        blocking = pool.submit(shop.held.request, 1)
        shop.begun()
        with pytest.raises(RequestTimeout):
            shop.held.with_options(timeout=0.02).request(1)
        assert there._place.worker.survey().awaited == 1
        shop.release()
        blocking.result()


def test_a_cancelled_task_is_not_run_later_and_ends_no_run_of_others(shop: Shop) -> None:
    async def ask() -> tuple[int, list[str]]:
        running = asyncio.create_task(shop.aslow.arequest(1))
        await asyncio.to_thread(shop.begun)
        joined = asyncio.create_task(shop.aslow.arequest(1))
        await asyncio.to_thread(holds, shop.app.client, 2)
        behind = [asyncio.create_task(shop.held.arequest(2, tag)) for tag in ("a", "b", "c")]
        await asyncio.to_thread(holds, shop.app.client, 5)
        for task in (running, behind[1]):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        shop.release(3)
        await asyncio.gather(behind[0], behind[2])
        return (await joined)["n"], shop.log

    n, log = asyncio.run(ask())
    assert n == 1
    assert "b" not in log
    assert {"a", "c"} < set(log)


def test_an_id_with_too_many_requests_is_crowded(shop: Shop, pool: ThreadPoolExecutor) -> None:
    with shop.at(max_waiters=2):
        asked = [pool.submit(shop.held.request, 1) for _ in range(2)]
        holds(shop.app.client, 2)
        with pytest.raises(Crowded) as caught:
            shop.held.request(1)
        assert (caught.value.node, caught.value.queued, caught.value.limit) == ("local", 2, 2)
        assert shop.charge.request(2)["n"] == 1
        shop.release(2)
        assert sorted(one.result()["n"] for one in asked) == [1, 2]


def test_too_many_requests_in_all_are_overload(shop: Shop) -> None:
    with shop.at(max_queue=3):
        found = shop.app.client.enqueue_many(range(7), "held", return_exceptions=True)
        assert [isinstance(job, Overloaded) for job in found] == [False] * 6 + [True]
        refused: Any = found[-1]
        assert (refused.node, refused.queued, refused.limit) == ("local", 3, 3)
        with pytest.raises(Overloaded, match="3 requests wait for it, the limit is 3"):
            shop.price.request(1)
        shop.release(6)
        jobs: list[Any] = found[:6]
        assert all(job.latest_result(timeout=WITHIN_S) for job in jobs)
        assert shop.price.request(1)


# --- handlers that ask ---------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ["chain", "achain"])
def test_a_chain_longer_than_all_lanes_is_answered(shop: Shop, resource: str) -> None:
    with shop.at(concurrency=1, max_queue=2):
        ids = list(range(8))
        assert shop.app.client.request(0, resource, args=ids[1:]) == ids


@pytest.mark.parametrize("resource", ["chain", "achain"])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_circle_is_an_error_that_tells_the_way(shop: Shop, resource: str, length: int) -> None:
    circle = [*range(length), 0]
    with pytest.raises(HandlerFailed, match="RequestCycle") as caught:
        shop.app.client.request(0, resource, args=circle[1:])
    way = " waits for ".join(f"{resource} {id}" for id in (circle if length > 1 else (0, 0)))
    assert f"{way}: a handler must not ask" in str(caught.value)


def test_two_callers_whose_ids_ask_for_each_other_are_a_circle(
    shop: Shop, pool: ThreadPoolExecutor
) -> None:
    asked = [pool.submit(shop.meet.request, *ids) for ids in ((1, 2), (2, 1))]
    shop.begun(2)
    shop.release(3)  # one of the two is run once more, for the other
    assert any("RequestCycle" in str(one.exception()) for one in asked)


def test_a_circle_that_has_been_left_is_none(shop: Shop) -> None:
    assert [shop.chain.request(1, 2), shop.chain.request(2, 1)] == [[1, 2], [2, 1]]


def test_a_cancelled_task_waits_for_nobody_any_more(shop: Shop) -> None:
    app = shop.app

    @app.resource(ttl=0)
    async def impatient(id: Any) -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await shop.held.arequest(id)
        return "gave up"

    with shop.at() as there:
        assert impatient.request(1) == "gave up"
        assert there._place.worker.survey().waiting == 0
        shop.release()


def test_apps_of_one_namespace_do_not_close_each_others_circles() -> None:
    one, other = App(LOCAL), App(LOCAL)
    inner = one.resource(ttl=0, name="price")(lambda id: f"inner {id}")
    outer = other.resource(ttl=0, name="price")(lambda id: inner.request(id))
    assert outer.request(1) == "inner 1"


# --- handlers that take too long -----------------------------------------------------------------


def test_a_coroutine_that_takes_too_long_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rqproc.node.stuck.STUCK_AFTER_S", WITHIN_S)  # a busy machine cancels late
    app = App(LOCAL)
    cancelled = threading.Event()

    @app.resource(ttl=0, timeout=0.2)
    async def hang(id: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(HandlerTimeout) as caught:
        hang.request(1)
    assert (caught.value.stuck, cancelled.is_set()) == (False, True)


def test_a_thread_that_takes_too_long_is_stuck_and_keeps_its_id_alone() -> None:
    app = App(LOCAL)
    gate = threading.Event()

    @app.resource(ttl=0, timeout=1.0)
    def hang(id: Any) -> str:
        if id == 1:
            gate.wait(WITHIN_S)
        return "done"

    def stuck() -> int:
        return app.client.membership().nodes[0].stuck

    with pytest.raises(HandlerTimeout) as caught:  # nobody else asks: the time comes by itself
        hang.request(1)
    assert (caught.value.stuck, stuck()) == (True, 1)
    assert "node list" not in str(caught.value)
    with pytest.raises(HandlerTimeout):
        hang.request(1)
    assert hang.request(2) == "done"
    gate.set()
    until(lambda: stuck() == 0)
    assert hang.request(1) == "done"


# --- who shares what -----------------------------------------------------------------------------


def test_all_clients_of_an_app_share_its_entries(shop: Shop) -> None:
    shop.price.request(1)
    assert Client(LOCAL, app=shop.app).reply(1, "price").source == "hit"

    async def ask() -> str:
        async with AsyncClient(LOCAL, app=shop.app) as client:
            return (await client.reply(1, "price")).source

    assert [asyncio.run(ask()), asyncio.run(ask())] == ["hit", "hit"]
    assert Client(LOCAL, app=shop.app, namespace="other").reply(1, "price").source == "miss"
    assert Client(LOCAL, app=Shop().app).reply(1, "price").source == "miss"


def test_a_closed_client_has_ended_nothing(shop: Shop) -> None:
    with Client(LOCAL, app=shop.app) as client:
        client.request(1, "price")
    assert client.reply(1, "price").source == "hit"
    assert shop.price.reply(1).source == "hit"


def test_clients_without_an_app_share_the_default_resource() -> None:
    first = Client(LOCAL, namespace="nobody").reply(1)
    again = Client(LOCAL, namespace="nobody").reply(1)
    assert (first.source, again.source, again.value["node"]) == ("miss", "hit", "local")
    with pytest.raises(UnknownResource):
        Client(LOCAL, namespace="nobody").request(1, "price")


def test_a_mapping_of_resources_is_served_too(shop: Shop) -> None:
    client = Client(LOCAL, app={"price": shop.price})
    assert [client.reply(1, "price").source for _ in range(2)] == ["miss", "hit"]
    assert client.request(1)["node"] == "local"


def test_a_resource_that_is_declared_later_is_served(shop: Shop) -> None:
    shop.price.request(1)
    late = shop.app.resource(ttl=0, name="late")(lambda id: "late")
    assert late.request(1) == "late"


def test_the_url_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQPROC_REDIS_URL", LOCAL)
    assert Client(namespace="environment").server == LOCAL
    assert App().client.members() == ("local",)


def test_each_time_an_app_is_tried_at_local_nothing_is_kept_yet() -> None:
    shop = Shop("redis://nowhere")
    for _ in range(2):
        with shop.app.at(LOCAL):
            assert [shop.price.reply(1).source for _ in range(2)] == ["miss", "hit"]
            assert asyncio.run(shop.price.arequest(1))
    assert shop.app.client.server == "nowhere:6379"


def test_leaving_the_trial_ends_its_threads(shop: Shop) -> None:
    before = set(threading.enumerate())
    with shop.app.at(LOCAL):
        shop.price.request(1)
        shop.release()
        shop.aslow.request(1)
        assert len(set(threading.enumerate()) - before) >= 3

    def left() -> set[str]:
        names = {thread.name for thread in set(threading.enumerate()) - before}
        return {name for name in names if name.startswith("rqproc")}

    until(lambda: not left())


def test_an_app_that_is_gone_has_left_no_thread_behind() -> None:
    before = set(threading.enumerate())
    shop = Shop()
    shop.release()
    shop.aslow.request(1)
    shop.price.request(1)
    started = set(threading.enumerate()) - before
    ours = [thread for thread in started if thread.name.startswith("rqproc")]
    del shop

    def gone() -> bool:  # a handler's thread may be about to let go of its last run
        gc.collect()
        return not any(thread.is_alive() for thread in ours)

    until(gone)


def test_nothing_is_kept_of_calls_that_were_answered(shop: Shop) -> None:
    with shop.at() as there:
        shop.price.request_many(range(10))
        shop.charge.enqueue(1).latest_result(timeout=WITHIN_S)
        with pytest.raises(HandlerFailed):
            shop.explode.request(1)
        survey = there._place.worker.survey()
    assert (survey.held, survey.awaited, survey.waiting) == (0, 0, 0)
    assert survey.tally.misses == 12


# --- the cluster of one --------------------------------------------------------------------------


def test_this_process_is_the_only_member_and_owns_everything(shop: Shop) -> None:
    client = shop.app.client
    shop.price.request_many([1, 2])
    shop.price.request(1)
    assert (client.members(), client.owner("x"), client.server) == (("local",), "local", LOCAL)
    (node,) = client.membership().nodes
    assert (node.entries, node.hits, node.misses, node.held) == (2, 1, 2, 0)
    assert client.report_death("local", pid=1, host="h") is False
    with pytest.raises(ConfigError, match="no nodes to drain"):
        client.drain("local")


def test_who_is_busy_with_an_id_is_its_holder(shop: Shop, pool: ThreadPoolExecutor) -> None:
    running = pool.submit(shop.held.request, 5)
    shop.begun()
    busy, idle = shop.app.client.locate([5, 6], "held")
    assert (busy.holder, idle.holder, idle.owner) == ("local", None, "local")
    shop.release()
    running.result()


def test_a_near_cache_is_not_needed_but_its_size_is_checked(shop: Shop) -> None:
    near = Client(LOCAL, app=shop.app, near=100)
    assert [near.reply(1, "price").source for _ in range(2)] == ["miss", "hit"]
    with pytest.raises(ConfigError, match="near"):
        Client(LOCAL, near=-1)


def test_a_node_inside_is_refused_with_what_to_do(shop: Shop) -> None:
    with pytest.raises(ConfigError, match=r"give App\(url=...\) a server"):
        shop.app.node()
    with shop.app.at(LOCAL), pytest.raises(ConfigError, match="without a node"):
        shop.app.node()


class Broken(dict[str, Any]):
    """Resources that cannot be looked up: nothing that a handler does, but a fault of our own."""

    def get(self, *args: Any) -> Any:
        raise ZeroDivisionError("broken")


def test_where_the_serving_thread_dies_its_callers_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = DaemonRuntime()
    make = partial(LocalWorker, "default", Broken(), runtime=runtime, settings=NodeSettings())
    client = Client(LocalBackend(Keys("default"), LocalPlace(make, runtime=runtime)))
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="has died") as caught:
            client.request(1, timeout=WITHIN_S)
        assert not isinstance(caught.value, RqprocError)
    assert time.monotonic() - began < WITHIN_S / 2
    assert "has died" in caplog.text
