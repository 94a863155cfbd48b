"""Handlers in the caller's own process: shared, in turn, bounded, and with the same outcomes."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from rqproc import App, current
from rqproc.app import Resource
from rqproc.calls.fallback import Errand
from rqproc.errors import (
    HandlerFailed,
    HandlerTimeout,
    LocallyOverloaded,
    Overloaded,
    RequestCycle,
    RequestTimeout,
    RqprocError,
)
from rqproc.local import fallback
from rqproc.local.fallback import MAX_RUNS, aserve, aserve_many, serve, serve_many
from rqproc.model import Reply, Request

Outcome = Reply | RqprocError


class Shop:
    """Resources whose handlers wait to be released, and are counted."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.runs: list[Any] = []
        self.inside = self.most_inside = 0
        self._lock = threading.Lock()
        app = App("redis://nowhere")
        self.price: Resource[..., Any] = app.resource(ttl=30, name="price")(self._handle)
        self.charge: Resource[..., Any] = app.resource(ttl=0, name="charge")(self._handle)
        self.aprice: Resource[..., Any] = app.resource(ttl=30, name="aprice")(self._ahandle)

    def _handle(self, id: Any) -> dict[str, Any]:
        with self._lock:
            self.runs.append(id)
            number = len(self.runs)
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        self.begun.release()
        try:
            assert self.gate.acquire(timeout=10)
        finally:
            with self._lock:
                self.inside -= 1
        return {"id": id, "n": number}

    async def _ahandle(self, id: Any) -> dict[str, Any]:
        self.runs.append(id)
        self.begun.release()
        while not self.gate.acquire(blocking=False):
            await asyncio.sleep(0.002)
        return {"id": id, "n": len(self.runs), "thread": threading.get_ident()}

    def started(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.begun.acquire(timeout=5)

    def release(self, times: int = 1) -> None:
        self.gate.release(times)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def errand(
    resource: Resource[..., Any],
    id: Any = 1,
    *args: Any,
    timeout: float = 5.0,
    queues: bool = False,
) -> Errand:
    request = Request(resource.name, id, args)
    deadline = time.monotonic() + timeout
    return Errand(request, resource, deadline, timeout, "shop", queues)


def plain(handler: Callable[..., Any], *, ttl: float = 0) -> Resource[..., Any]:
    return App("redis://nowhere").resource(ttl=ttl, name="plain")(handler)


def value(outcome: Outcome) -> Any:
    assert isinstance(outcome, Reply), outcome
    return outcome.value


def test_a_reply_says_that_it_was_made_here() -> None:
    reply = serve(errand(plain(lambda id: (id, 2)), 7))
    here = f"{socket.gethostname()}:{os.getpid()}"
    assert reply == Reply(7, [7, 2], here, "local", age_s=0.0, expires_in_s=0.0, token=0)


def test_arguments_are_the_handlers() -> None:
    assert value(serve(errand(plain(lambda id, amount: amount), 7, 5))) == 5


def test_what_keeps_its_values_takes_no_arguments_as_on_a_node() -> None:
    refused = serve(errand(plain(lambda id, size=1: size, ttl=30), 7, 2))
    assert isinstance(refused, HandlerFailed)
    assert "only ids go in" in refused.reason


def test_fifty_callers_of_one_id_are_one_computation(
    shop: Shop, threads: ThreadPoolExecutor
) -> None:
    callers = [threads.submit(serve, errand(shop.price)) for _ in range(50)]
    shop.started()
    _all_wait(callers)
    shop.release()
    values = [value(caller.result(5)) for caller in callers]
    assert values == [{"id": 1, "n": 1}] * 50
    assert len({id(v) for v in values}) == 50, "each has a value of its own"


def test_nothing_is_kept(shop: Shop) -> None:
    shop.release(2)
    assert [value(serve(errand(shop.price)))["n"] for _ in range(2)] == [1, 2]


def test_a_choke_point_runs_one_at_a_time_per_id(shop: Shop, threads: ThreadPoolExecutor) -> None:
    callers = [threads.submit(serve, errand(shop.charge)) for _ in range(6)]
    for _ in callers:
        shop.started()
        shop.release()
    assert {value(caller.result(5))["n"] for caller in callers} == set(range(1, 7))
    assert shop.most_inside == 1


def test_ids_run_side_by_side_up_to_a_limit(shop: Shop, threads: ThreadPoolExecutor) -> None:
    callers = [threads.submit(serve, errand(shop.price, id)) for id in range(MAX_RUNS)]
    shop.started(MAX_RUNS)
    refused = serve(errand(shop.price, 99))
    assert isinstance(refused, LocallyOverloaded)
    assert isinstance(refused, Overloaded)
    assert refused.limit == MAX_RUNS
    joins = threads.submit(serve, errand(shop.price, 0))
    _all_wait([joins])
    shop.release(MAX_RUNS)
    assert all(isinstance(caller.result(5), Reply) for caller in [*callers, joins])
    shop.release()
    assert value(serve(errand(shop.price, 99)))["id"] == 99


def test_many_are_done_side_by_side_and_wait_for_a_place(shop: Shop) -> None:
    shop.release(40)
    outcomes = serve_many([errand(shop.price, id, queues=True) for id in range(40)])
    assert [value(outcome)["id"] for outcome in outcomes] == list(range(40))
    assert 1 <= shop.most_inside <= MAX_RUNS


def test_of_many_those_that_are_not_done_by_the_deadline_are_late(shop: Shop) -> None:
    shop.release(2)
    began = time.monotonic()
    outcomes = serve_many([errand(shop.charge, id, timeout=0.4, queues=True) for id in range(3)])
    assert 0.4 <= time.monotonic() - began < 2.0
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        "Reply",
        "Reply",
        "RequestTimeout",
    ]
    shop.release()


def test_who_shares_a_run_waits_no_longer_than_it_allowed(
    shop: Shop, threads: ThreadPoolExecutor
) -> None:
    first = threads.submit(serve, errand(shop.price))
    shop.started()
    late = serve(errand(shop.price, timeout=0.1))
    assert isinstance(late, RequestTimeout)
    assert late.timeout_s == 0.1
    shop.release()
    assert value(first.result(5))["n"] == 1


def test_who_gives_up_its_place_in_a_lane_does_not_hold_up_the_next(
    shop: Shop, threads: ThreadPoolExecutor
) -> None:
    first = threads.submit(serve, errand(shop.charge))
    shop.started()
    assert isinstance(serve(errand(shop.charge, timeout=0.1)), RequestTimeout)
    second = threads.submit(serve, errand(shop.charge))
    shop.release(2)
    assert [value(caller.result(5))["n"] for caller in (first, second)] == [1, 2]


def test_a_caller_whose_time_is_over_starts_nothing(shop: Shop) -> None:
    assert isinstance(serve(errand(shop.price, timeout=0.0)), RequestTimeout)
    assert shop.runs == []


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("raised", "type", "reason"),
    [
        (ValueError("no such id"), "ValueError", "no such id"),
        (TimeoutError("upstream"), "TimeoutError", "upstream"),
        (StopIteration(3), "StopIteration", "3"),
        (SystemExit(3), "SystemExit", "3"),
        (Odd(), "Odd", "(its message raised RuntimeError)"),
    ],
)
def test_a_handlers_error_is_its_callers(raised: BaseException, type: str, reason: str) -> None:
    def fail(id: Any) -> Any:
        raise raised

    failed = serve(errand(plain(fail), 7))
    assert isinstance(failed, HandlerFailed)
    assert (failed.resource, failed.id, failed.type, failed.reason) == ("plain", 7, type, reason)
    assert "in fail" in failed.traceback


@pytest.mark.parametrize("odd", [{1, 2}, float("nan"), b"x", "x" * (1 << 20)])
def test_a_value_that_a_node_could_not_send_is_none_here_either(odd: object) -> None:
    failed = serve(errand(plain(lambda id: odd)))
    assert isinstance(failed, HandlerFailed)
    assert failed.type == "UnservableValue"


def test_ctrl_c_in_a_handler_ends_its_caller_and_those_who_share_the_run_know(
    shop: Shop, threads: ThreadPoolExecutor
) -> None:
    go = threading.Event()

    def interrupted(id: Any) -> Any:
        shop.begun.release()
        go.wait(5)
        raise KeyboardInterrupt

    resource = plain(interrupted, ttl=30)
    first = threads.submit(serve, errand(resource))
    shop.started()
    other = threads.submit(serve, errand(resource))
    _all_wait([other])
    go.set()
    with pytest.raises(KeyboardInterrupt):
        first.result(5)
    shared = other.result(5)
    assert isinstance(shared, HandlerFailed)
    assert shared.type == "Interrupted"


def test_a_handler_knows_the_run_that_it_is_in() -> None:
    seen = []

    def look(id: Any) -> str:
        run = current()
        seen.append((run.id, run.resource, run.node, run.token))
        assert run.time_left_s is not None
        assert 0 < run.time_left_s <= 3
        return run.node

    reply = serve(errand(plain(look), 7, timeout=3))
    assert isinstance(reply, Reply)
    assert seen == [(7, "plain", reply.node, 0)]
    with pytest.raises(LookupError):
        current()


def test_a_handler_that_asks_for_an_id_that_waits_for_it_is_told_at_once() -> None:
    """Here as on a node: each would wait for the other until the deadline."""
    told: list[Outcome] = []

    def ask_on(id: int) -> int:
        told.append(serve(errand(kept if id % 2 else choke, (id + 1) % 3)))
        return id

    kept, choke = plain(ask_on, ttl=30), plain(ask_on)
    began = time.monotonic()
    assert value(serve(errand(choke, 0))) == 0
    assert time.monotonic() - began < 1.0
    cycle = told[0]
    assert isinstance(cycle, RequestCycle)
    assert cycle.way == (("plain", 0), ("plain", 1), ("plain", 2))
    assert [type(outcome) for outcome in told[1:]] == [Reply, Reply]


def test_on_a_loop_too() -> None:
    told: list[Outcome] = []

    async def ask_itself(id: int) -> int:
        told.append(await aserve(errand(itself, id)))
        return id

    itself = plain(ask_itself, ttl=30)
    assert value(asyncio.run(aserve(errand(itself, 7)))) == 7
    assert isinstance(told[0], RequestCycle)


MARK: ContextVar[str] = ContextVar("mark", default="")


def test_a_handler_sees_its_callers_context_and_cannot_change_it() -> None:
    def mark(id: Any) -> str:
        before = MARK.get()
        MARK.set("changed")
        return before

    token = MARK.set("the caller's")
    try:
        many = serve_many([errand(plain(mark), id, queues=True) for id in (1, 2)])
        assert [value(outcome) for outcome in many] == ["the caller's"] * 2
        assert value(serve(errand(plain(mark)))) == "the caller's"
        assert MARK.get() == "the caller's"
    finally:
        MARK.reset(token)


def test_a_plain_handler_runs_in_the_calling_thread() -> None:
    assert value(serve(errand(plain(lambda id: threading.get_ident())))) == threading.get_ident()


def test_a_coroutine_runs_for_a_blocking_caller_too(shop: Shop) -> None:
    shop.release()
    assert value(serve(errand(shop.aprice)))["thread"] != threading.get_ident(), "left if late"


async def _serve_in_a_loop(wanted: Errand) -> Outcome:
    return serve(wanted)


def test_even_for_one_in_whose_thread_a_loop_runs(shop: Shop) -> None:
    shop.release()
    found = value(asyncio.run(_serve_in_a_loop(errand(shop.aprice))))
    assert found["thread"] != threading.get_ident()


# --- asyncio ----------------------------------------------------------------------------------


def test_on_a_loop_coroutines_run_on_it_and_functions_do_not_block_it(shop: Shop) -> None:
    async def play() -> tuple[Outcome, Outcome]:
        plain_one = asyncio.ensure_future(aserve(errand(shop.price)))
        await asyncio.to_thread(shop.started)
        shop.release()
        found = await plain_one
        shop.release()
        return found, await aserve(errand(shop.aprice))

    one, other = asyncio.run(play())
    assert value(one) == {"id": 1, "n": 1}
    assert value(other)["thread"] == threading.get_ident()


def test_many_on_a_loop_are_bounded_too(shop: Shop) -> None:
    async def play() -> list[Outcome]:
        return await aserve_many([errand(shop.price, id, queues=True) for id in range(40)])

    shop.release(40)
    assert [value(outcome)["id"] for outcome in asyncio.run(play())] == list(range(40))
    assert shop.most_inside <= MAX_RUNS


def test_threads_and_loops_share_a_run(shop: Shop, threads: ThreadPoolExecutor) -> None:
    async def play() -> list[Outcome]:
        waiting = [asyncio.ensure_future(aserve(errand(shop.price))) for _ in range(9)]
        await asyncio.sleep(0.05)
        shop.release()
        return await asyncio.gather(*waiting)

    first = threads.submit(serve, errand(shop.price))
    shop.started()
    assert [value(outcome)["n"] for outcome in asyncio.run(play())] == [1] * 9
    assert value(first.result(5))["n"] == 1


def test_a_run_goes_on_when_the_caller_that_began_it_is_cancelled(shop: Shop) -> None:
    async def play() -> Outcome:
        first = asyncio.ensure_future(aserve(errand(shop.aprice)))
        await asyncio.to_thread(shop.started)
        other = asyncio.ensure_future(aserve(errand(shop.aprice)))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0.05)
        shop.release()
        return await other

    assert value(asyncio.run(play()))["n"] == 1


def test_an_asyncio_caller_waits_no_longer_than_it_allowed(shop: Shop) -> None:
    async def play() -> Outcome:
        return await aserve(errand(shop.aprice, timeout=0.2))

    began = time.monotonic()
    assert isinstance(asyncio.run(play()), RequestTimeout)
    assert time.monotonic() - began < 2.0
    shop.release()
    assert value(serve(errand(shop.aprice)))["id"] == 1, "the loop's end has ended the run"


def test_a_child_of_a_fork_does_not_wait_for_what_its_parent_runs(
    shop: Shop, threads: ThreadPoolExecutor
) -> None:
    parents = threads.submit(serve, errand(shop.price))
    shop.started()
    fallback._after_fork()
    childs = threads.submit(serve, errand(shop.price))
    shop.started()
    shop.release(2)
    assert {value(run.result(5))["n"] for run in (parents, childs)} == {1, 2}


def test_nothing_is_left_of_runs_that_have_ended(shop: Shop) -> None:
    fallback._after_fork()
    place = fallback._place
    shop.release(3)
    serve_many([errand(shop.price, id, queues=True) for id in range(2)])
    serve(errand(shop.charge))
    assert (place.flights._flights, place.lanes._lanes) == ({}, {})
    assert place.slots._free == MAX_RUNS


def _all_wait(callers: list[Future[Outcome]]) -> None:
    """Until they have had the time to be where they wait."""
    time.sleep(0.1)
    assert not any(caller.done() for caller in callers)


def test_a_coroutine_that_is_late_keeps_no_blocking_caller(shop: Shop) -> None:
    began = time.monotonic()
    assert isinstance(serve(errand(shop.aprice, timeout=0.1)), RequestTimeout)
    assert time.monotonic() - began < 1
    shop.release()


def test_a_coroutine_past_its_resources_timeout_is_cancelled() -> None:
    app = App("redis://nowhere")

    @app.resource(ttl=0, timeout=0.05)
    async def slow(id: Any) -> None:
        await asyncio.Event().wait()

    for outcome in (serve(errand(slow)), asyncio.run(aserve(errand(slow)))):
        assert isinstance(outcome, HandlerTimeout)
        assert (outcome.timeout_s, outcome.stuck) == (0.05, False)
