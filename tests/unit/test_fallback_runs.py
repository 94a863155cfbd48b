"""Handlers in the caller's own process: shared, in turn, bounded, and with the same outcomes."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from local_shop import WITHIN_S, until
from watch import Watch

from rqproc import App, current
from rqproc.calls.call import Call
from rqproc.calls.fallback import Fallback, FallbackCall
from rqproc.calls.requests import Requests
from rqproc.declared import Resource
from rqproc.errors import (
    HandlerFailed,
    HandlerTimeout,
    LocallyOverloaded,
    NoLiveNode,
    Overloaded,
    RequestCycle,
    RequestTimeout,
    RqprocError,
)
from rqproc.ids import address
from rqproc.local.backend import LocalBackend
from rqproc.local.fallback import MAX_RUNS, fallback, fallback_place
from rqproc.local.spaces import DaemonRuntime
from rqproc.locks import Latch
from rqproc.model import Reply
from rqproc.protocol.keys import Keys

Outcome = Reply | RqprocError
Plain = Resource[..., Any]

KEYS = Keys("shop")


class Here:
    """A process whose cluster answers nothing."""

    def __init__(self) -> None:
        self.place = fallback_place(DaemonRuntime())

    def ask(self, resource: Plain, id: Any, *args: Any, timeout: float = 5.0) -> Outcome:
        return self._many(resource, [id], args, timeout)[0]

    def ask_many(self, resource: Plain, *ids: Any, timeout: float = 5.0) -> list[Outcome]:
        return self._many(resource, ids, (), timeout)

    async def aask(self, resource: Plain, id: Any, timeout: float = 5.0) -> Outcome:
        return (await self.aask_many(resource, id, timeout=timeout))[0]

    async def aask_many(self, resource: Plain, *ids: Any, timeout: float = 5.0) -> list[Outcome]:
        call, fallback_call, backend = self._lost(resource, ids, (), timeout)
        await backend.async_asker().ask(fallback_call.call)
        fallback_call.take_over()
        return list(call.outcomes("shop").values())

    def _many(self, resource: Plain, ids: Any, args: Any, timeout: float) -> list[Outcome]:
        call, fallback_call, backend = self._lost(resource, ids, args, timeout)
        backend.asker().ask(fallback_call.call)
        fallback_call.take_over()
        return list(call.outcomes("shop").values())

    def _lost(
        self, resource: Plain, ids: Any, args: Any, timeout: float
    ) -> tuple[Call, FallbackCall, LocalBackend]:
        call = Call(
            "a" if args else "c", resource.name, ids, [address(resource.name, id) for id in ids],
            timeout, time.monotonic() + timeout, "local", args=args,
        )  # fmt: skip
        call.outage = NoLiveNode("shop")
        fallback_call = Fallback.of("local", {resource.name: resource}).fallback_call(call, "shop")
        assert fallback_call
        return call, fallback_call, fallback(KEYS, fallback_call.resource, self.place)

    def holds(self, requests: int) -> None:
        """Wait until so many requests are under way."""
        until(lambda: self.place.worker.survey().held == requests)


class Shop:
    """Resources whose handlers wait to be released, and are counted."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.runs: list[Any] = []
        self.inside = self.most_inside = 0
        self._lock = threading.Lock()
        app = App("redis://nowhere")
        self.price: Plain = app.resource(ttl=30, name="price")(self._handle)
        self.charge: Plain = app.resource(ttl=0, name="charge")(self._handle)
        self.aprice: Plain = app.resource(ttl=30, name="aprice")(self._ahandle)

    def _handle(self, id: Any, tag: Any = None) -> dict[str, Any]:
        with self._lock:
            self.runs.append(tag or id)
            number = len(self.runs)
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        self.begun.release()
        try:
            assert self.gate.acquire(timeout=WITHIN_S)
        finally:
            with self._lock:
                self.inside -= 1
        return {"id": id, "n": number, "thread": threading.get_ident()}

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
def here() -> Iterator[Here]:
    made = Here()
    yield made
    made.place.end()


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    yield made
    made.release(1000)  # whatever a failed test has left behind


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def plain(handler: Callable[..., Any], *, ttl: float = 0) -> Plain:
    return App("redis://nowhere").resource(ttl=ttl, name="plain")(handler)


def value(outcome: Outcome) -> Any:
    assert isinstance(outcome, Reply), outcome
    return outcome.value


def test_a_reply_says_that_it_was_made_here(here: Here) -> None:
    process = f"{socket.gethostname()}:{os.getpid()}"
    for ttl in (0, 30):
        reply = here.ask(plain(lambda id: (id, 2), ttl=ttl), 7)
        assert reply == Reply(7, [7, 2], process, "local", age_s=0.0, expires_in_s=0.0, token=0)


def test_arguments_are_the_handlers(here: Here) -> None:
    assert value(here.ask(plain(lambda id, amount: amount), 7, 5)) == 5


def test_what_keeps_its_values_takes_no_arguments_as_on_a_node(here: Here) -> None:
    refused = here.ask(plain(lambda id, size=1: size, ttl=30), 7, 2)
    assert isinstance(refused, HandlerFailed)
    assert "only ids go in" in refused.reason


# --- one at a time ----------------------------------------------------------------------------


def test_fifty_callers_of_one_id_are_one_computation(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    callers = [threads.submit(here.ask, shop.price, 1) for _ in range(50)]
    here.holds(50)
    shop.release()
    values = [value(caller.result(5)) for caller in callers]
    assert [found["n"] for found in values] == [1] * 50
    assert len({id(found) for found in values}) == 50, "each has a value of its own"


def test_nothing_is_kept(here: Here, shop: Shop) -> None:
    shop.release(2)
    assert [value(here.ask(shop.price, 1))["n"] for _ in range(2)] == [1, 2]
    assert here.place.worker.survey().tally.entries == 0


def test_a_choke_point_runs_one_at_a_time_per_id_in_the_order_of_asking(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    callers: list[Future[Outcome]] = []
    for n in range(6):
        callers.append(threads.submit(here.ask, shop.charge, 1, f"tag {n}"))
        here.holds(n + 1)
    shop.release(6)
    assert [value(caller.result(5))["n"] for caller in callers] == [1, 2, 3, 4, 5, 6]
    assert shop.runs == [f"tag {n}" for n in range(6)]
    assert shop.most_inside == 1


def test_resources_of_one_name_are_not_one(here: Here, threads: ThreadPoolExecutor) -> None:
    both = threading.Barrier(2, timeout=WITHIN_S)
    one = plain(lambda id: ("one", both.wait() >= 0), ttl=30)
    other = plain(lambda id: ("other", both.wait() >= 0), ttl=30)
    asked = [threads.submit(here.ask, resource, 1) for resource in (one, other)]
    assert [value(caller.result(5))[0] for caller in asked] == ["one", "other"]


def test_a_long_name_is_a_name_too(here: Here) -> None:
    app = App("redis://nowhere")
    name = "n" * 100
    found = app.resource(ttl=0, name=name)(lambda id: current().resource)
    assert value(here.ask(found, 1)) == name


# --- slots ------------------------------------------------------------------------------------


def test_ids_run_side_by_side_up_to_a_limit(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    callers = [threads.submit(here.ask, shop.price, id) for id in range(MAX_RUNS)]
    shop.started(MAX_RUNS)
    refused = here.ask(shop.charge, 99)
    assert isinstance(refused, LocallyOverloaded)
    assert isinstance(refused, Overloaded)
    assert refused.limit == MAX_RUNS
    assert refused.node == f"{socket.gethostname()}:{os.getpid()}"
    joins = threads.submit(here.ask, shop.price, 0)
    here.holds(MAX_RUNS + 1)
    shop.release(MAX_RUNS)
    assert all(isinstance(caller.result(5), Reply) for caller in [*callers, joins])
    shop.release()
    assert value(here.ask(shop.price, 99))["id"] == 99


def test_what_waits_behind_a_run_of_its_id_is_not_refused(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    callers = [threads.submit(here.ask, shop.charge, id) for id in range(MAX_RUNS)]
    shop.started(MAX_RUNS)
    second = threads.submit(here.ask, shop.charge, 0)
    here.holds(MAX_RUNS + 1)
    shop.release(MAX_RUNS + 1)
    assert all(isinstance(caller.result(5), Reply) for caller in [*callers, second])


def test_many_are_done_side_by_side_and_wait_for_a_slot(here: Here, shop: Shop) -> None:
    shop.release(40)
    outcomes = here.ask_many(shop.price, *range(40))
    assert [value(outcome)["id"] for outcome in outcomes] == list(range(40))
    assert 1 <= shop.most_inside <= MAX_RUNS


def test_while_many_wait_for_a_slot_another_is_refused(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    many = threads.submit(here.ask_many, shop.price, *range(20))
    here.holds(20)
    assert isinstance(here.ask(shop.price, 99), LocallyOverloaded)
    shop.release(20)
    assert len(many.result(5)) == 20


def test_of_many_those_that_are_not_done_by_the_deadline_are_late(here: Here, shop: Shop) -> None:
    shop.release(2)
    watch = Watch()
    outcomes = here.ask_many(shop.charge, 0, 1, 2, timeout=1.5)
    assert watch.stop() < 3.0
    assert watch.whole_s >= 1.5
    names = sorted(type(outcome).__name__ for outcome in outcomes)
    assert names == ["Reply", "Reply", "RequestTimeout"]


def test_of_many_those_that_have_no_slot_by_the_deadline_are_not_begun(
    here: Here, shop: Shop
) -> None:
    # All that have a slot begin, however late.
    now = here.place.runtime.monotonic()
    here.place.runtime.monotonic = lambda: now
    here.place.runtime.suspend_proof = lambda: 1000.0
    outcomes = here.ask_many(shop.price, *range(20), timeout=0.2)
    assert {type(outcome) for outcome in outcomes} == {RequestTimeout}
    shop.release(20)
    here.holds(0)
    assert len(shop.runs) == MAX_RUNS


# --- deadlines --------------------------------------------------------------------------------


def test_who_shares_a_run_waits_no_longer_than_it_allowed(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    first = threads.submit(here.ask, shop.price, 1)
    shop.started()
    late = here.ask(shop.price, 1, timeout=0.1)
    assert isinstance(late, RequestTimeout)
    assert (late.resource, late.id, late.timeout_s) == ("price", 1, 0.1)
    shop.release()
    assert value(first.result(5))["n"] == 1


def test_who_gives_up_behind_a_run_does_not_hold_up_the_next(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    first = threads.submit(here.ask, shop.charge, 1)
    shop.started()
    assert isinstance(here.ask(shop.charge, 1, "late", timeout=0.1), RequestTimeout)
    second = threads.submit(here.ask, shop.charge, 1)
    shop.release(2)
    assert [value(caller.result(5))["n"] for caller in (first, second)] == [1, 2]
    assert "late" not in shop.runs


def test_a_caller_whose_time_is_over_starts_nothing(here: Here, shop: Shop) -> None:
    assert isinstance(here.ask(shop.price, 1, timeout=0.0), RequestTimeout)
    here.holds(0)
    assert shop.runs == []


class Interrupted(Latch):
    """An event at which Ctrl-C meets whoever waits for it."""

    def wait(self, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt


def test_ctrl_c_ends_the_wait_of_its_caller_alone(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    other = threads.submit(here.ask, shop.price, 1)
    shop.started()
    here.place.runtime.event = Interrupted  # type: ignore[method-assign]
    for id in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            here.ask(shop.price, id)
    here.place.runtime.event = Latch  # type: ignore[method-assign]
    assert here.place.worker.survey().awaited == 1
    shop.release(2)
    assert value(other.result(5))["n"] == 1


# --- errors -----------------------------------------------------------------------------------


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
        (KeyboardInterrupt(), "KeyboardInterrupt", ""),
        (Odd(), "Odd", "(its message raised RuntimeError)"),
    ],
)
def test_a_handlers_error_is_its_callers(
    here: Here, raised: BaseException, type: str, reason: str
) -> None:
    def fail(id: Any) -> Any:
        raise raised

    failed = here.ask(plain(fail), 7)
    assert isinstance(failed, HandlerFailed)
    assert (failed.resource, failed.id, failed.type, failed.reason) == ("plain", 7, type, reason)
    assert "in fail" in failed.traceback
    assert value(here.ask(plain(lambda id: id), 7)) == 7


def test_so_is_one_that_would_end_an_event_loop(here: Here) -> None:
    async def leave(id: Any) -> Any:
        raise SystemExit(3)

    failed = here.ask(plain(leave), 7)
    assert isinstance(failed, HandlerFailed)
    assert failed.type == "SystemExit"


@pytest.mark.parametrize("odd", [{1, 2}, float("nan"), b"x", "x" * (1 << 20)])
def test_a_value_that_a_node_could_not_send_is_none_here_either(here: Here, odd: object) -> None:
    failed = here.ask(plain(lambda id: odd), 1)
    assert isinstance(failed, HandlerFailed)
    assert failed.type == "UnservableValue"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_coroutine_past_its_resources_timeout_is_cancelled(
    here: Here, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rqproc.node.stuck.STUCK_AFTER_S", WITHIN_S)  # a busy machine cancels late
    app = App("redis://nowhere")

    @app.resource(ttl=0, timeout=0.05)
    async def slow(id: Any) -> None:
        await asyncio.Event().wait()

    outcome = asyncio.run(here.aask(slow, 1)) if is_async else here.ask(slow, 1)
    assert isinstance(outcome, HandlerTimeout)
    assert (outcome.resource, outcome.timeout_s, outcome.stuck) == ("slow", 0.05, False)


def test_a_function_past_its_resources_timeout_is_stuck_and_takes_no_slot(
    here: Here, shop: Shop
) -> None:
    app = App("redis://nowhere")
    slow: Plain = app.resource(ttl=0, timeout=0.01, name="slow")(shop._handle)
    for outcome in here.ask_many(slow, *range(MAX_RUNS)):
        assert isinstance(outcome, HandlerTimeout)
        assert outcome.stuck
    assert isinstance(here.ask(slow, 0), HandlerTimeout), "its id waits for it"
    shop.release(MAX_RUNS + 1)
    assert value(here.ask(shop.charge, 99))["id"] == 99


# --- handlers ---------------------------------------------------------------------------------


def test_a_handler_knows_the_run_that_it_is_in(here: Here) -> None:
    seen = []

    def look(id: Any) -> str:
        run = current()
        seen.append((run.id, run.resource, run.node, run.token))
        assert run.time_left_s is not None
        assert 0 < run.time_left_s <= 3
        return run.node

    reply = here.ask(plain(look), 7, timeout=3)
    assert isinstance(reply, Reply)
    assert seen == [(7, "plain", reply.node, 0)]
    with pytest.raises(LookupError):
        current()


def test_no_cluster_knows_of_a_run_that_waits_here(here: Here) -> None:
    """It would find a circle in what another run of the id, on a node, has asked for."""
    clients = [
        Requests(name, Fallback(), timeout=5.0, near=None, nearby=None)
        for name in ("default", "shop", "local")
    ]

    def ask_on(id: int) -> list[str]:
        return [client.one(1, "price", (), None, None, None).parent for client in clients]

    assert value(here.ask(plain(ask_on), 1)) == ["", "", ""]


MARK: ContextVar[str] = ContextVar("mark", default="")


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handlers_context_is_its_runs_alone(here: Here, is_async: bool) -> None:
    def mark(id: Any) -> str:
        before = MARK.get()
        MARK.set("changed")
        return before

    async def amark(id: Any) -> str:
        return mark(id)

    resource = plain(amark if is_async else mark)
    token = MARK.set("the caller's")
    try:
        assert [value(here.ask(resource, id)) for id in (1, 1, 2)] == [""] * 3
        assert MARK.get() == "the caller's"
    finally:
        MARK.reset(token)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_asks_for_an_id_that_waits_for_it_is_told_at_once(
    here: Here, is_async: bool
) -> None:
    """Here as on a node: each would wait for the other until the deadline."""
    told: list[Outcome] = []

    def following(id: int) -> tuple[Plain, int]:
        return (kept if id % 2 else choke), (id + 1) % 3

    def ask_on(id: int) -> int:
        told.append(here.ask(*following(id)))
        return id

    async def aask_on(id: int) -> int:
        told.append(await here.aask(*following(id)))
        return id

    handler = aask_on if is_async else ask_on
    kept, choke = plain(handler, ttl=30), plain(handler)
    watch = Watch()
    assert value(here.ask(choke, 0)) == 0
    assert watch.stop() < 1.0
    cycle = told[0]
    assert isinstance(cycle, RequestCycle)
    assert (cycle.resource, cycle.id) == ("plain", 0)
    assert cycle.way == (("plain", "0"), ("plain", "1"), ("plain", "2"))
    assert [type(outcome) for outcome in told[1:]] == [Reply, Reply]


def test_two_callers_whose_ids_ask_for_each_other_are_a_circle(
    here: Here, threads: ThreadPoolExecutor
) -> None:
    both = threading.Barrier(2, timeout=WITHIN_S)
    told: list[Outcome] = []

    def meet(id: int) -> int:
        both.wait()
        told.append(here.ask(resource, 1 - id))
        return id

    resource = plain(meet, ttl=30)
    asked = [threads.submit(here.ask, resource, id) for id in (0, 1)]
    assert [value(caller.result(5)) for caller in asked] == [0, 1]
    assert {type(outcome) for outcome in told} == {Reply, RequestCycle}


def test_handlers_that_only_wait_for_others_take_no_slots(here: Here) -> None:
    requests = Requests("elsewhere", Fallback(), timeout=5.0, near=None, nearby=None)

    def ask_on(id: int) -> int:
        if not id:
            return 0
        with requests.begin(requests.one(id, "plain", (), None, None, None)):  # as clients do
            return 1 + int(value(here.ask(resource, id - 1, timeout=30.0)))

    resource = plain(ask_on)
    assert value(here.ask(resource, 2 * MAX_RUNS, timeout=30.0)) == 2 * MAX_RUNS


# --- threads and event loops ------------------------------------------------------------------


def test_a_function_runs_on_a_thread_of_its_own(here: Here, shop: Shop) -> None:
    shop.release()
    assert value(here.ask(shop.price, 1))["thread"] != threading.get_ident()


def test_coroutines_run_on_one_loop_whoever_asks(here: Here, shop: Shop) -> None:
    async def blocking() -> Outcome:
        return here.ask(shop.aprice, 2)

    shop.release(3)
    found = [
        here.ask(shop.aprice, 1), asyncio.run(blocking()), asyncio.run(here.aask(shop.aprice, 3))
    ]  # fmt: skip
    (thread,) = {value(outcome)["thread"] for outcome in found}
    assert thread != threading.get_ident()


def test_a_function_does_not_block_the_loop_of_its_caller(here: Here, shop: Shop) -> None:
    async def play() -> Outcome:
        asked = asyncio.ensure_future(here.aask(shop.price, 1))
        await asyncio.to_thread(shop.started)
        shop.release()
        return await asked

    assert value(asyncio.run(play()))["n"] == 1


def test_many_on_a_loop_are_bounded_too(here: Here, shop: Shop) -> None:
    shop.release(40)
    outcomes = asyncio.run(here.aask_many(shop.price, *range(40)))
    assert [value(outcome)["id"] for outcome in outcomes] == list(range(40))
    assert shop.most_inside <= MAX_RUNS


def test_threads_and_loops_share_a_run(here: Here, shop: Shop, threads: ThreadPoolExecutor) -> None:
    async def play() -> list[Outcome]:
        waiting = [asyncio.ensure_future(here.aask(shop.price, 1)) for _ in range(9)]
        await asyncio.to_thread(here.holds, 10)
        shop.release()
        return await asyncio.gather(*waiting)

    first = threads.submit(here.ask, shop.price, 1)
    shop.started()
    assert [value(outcome)["n"] for outcome in asyncio.run(play())] == [1] * 9
    assert value(first.result(5))["n"] == 1


def test_a_run_goes_on_when_the_caller_that_began_it_is_cancelled(here: Here, shop: Shop) -> None:
    async def play() -> Outcome:
        first = asyncio.ensure_future(here.aask(shop.aprice, 1))
        await asyncio.to_thread(shop.started)
        other = asyncio.ensure_future(here.aask(shop.aprice, 1))
        await asyncio.to_thread(here.holds, 2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        shop.release()
        return await other

    assert value(asyncio.run(play()))["n"] == 1


def test_what_a_cancelled_caller_has_not_begun_is_not_begun(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    async def play() -> None:
        asked = asyncio.ensure_future(here.aask(shop.charge, 1))
        await asyncio.to_thread(here.holds, 2)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    first = threads.submit(here.ask, shop.charge, 1)
    shop.started()
    asyncio.run(play())
    shop.release(2)
    first.result(5)
    here.holds(0)
    assert shop.runs == [1]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_coroutine_that_is_late_keeps_no_caller(
    here: Here, shop: Shop, threads: ThreadPoolExecutor, is_async: bool
) -> None:
    watch = Watch()
    if is_async:
        late = asyncio.run(here.aask(shop.aprice, 1, timeout=0.1))
    else:
        late = here.ask(shop.aprice, 1, timeout=0.1)
    assert isinstance(late, RequestTimeout)
    assert watch.stop() < 1.0
    asked_next = threads.submit(here.ask, shop.aprice, 1)
    here.holds(2)
    shop.release()
    assert value(asked_next.result())["n"] == 1, "it shares the run"


# --- processes, and what is left --------------------------------------------------------------


def test_a_child_of_a_fork_does_not_wait_for_what_its_parent_runs(
    here: Here, shop: Shop, threads: ThreadPoolExecutor
) -> None:
    parents = threads.submit(here.ask, shop.price, 1)
    shop.started()
    here.place.forget_parent()
    childs = threads.submit(here.ask, shop.price, 1)
    shop.started()
    shop.release(2)
    assert {value(run.result(5))["n"] for run in (parents, childs)} == {1, 2}


def test_nothing_is_left_of_runs_that_have_ended(here: Here, shop: Shop) -> None:
    shop.release(3)
    here.ask_many(shop.price, 0, 1)
    here.ask(shop.charge, 1)
    survey = here.place.worker.survey()
    assert (survey.held, survey.awaited, survey.waiting) == (0, 0, 0)
    assert not here.place.worker._dispatcher.scheduler.lanes_taken


def test_a_resource_that_is_gone_is_not_kept(here: Here) -> None:
    def make() -> weakref.ref[Plain]:
        resources = [plain(lambda id: id), plain(lambda id: id, ttl=30)]
        for resource in resources:
            assert value(here.ask(resource, 1)) == 1
        return weakref.ref(resources[1])

    def gone() -> bool:  # a handler's thread may be about to let go of its last run
        gc.collect()
        return made() is None

    made = make()
    until(gone)
