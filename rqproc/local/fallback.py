"""The caller's own process in the place of a node: where the cluster cannot answer.

Knows handlers, and how many of them may run. Must not know why the cluster could not answer.

What happens is told once, by a generator that yields what to wait for and what to call; a blocking
and an asyncio driver carry it out, and meet in the same place: one run of an id at a time in this
process, whichever client, thread or event loop asks.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile
from typing import Any

from rqproc.calls.drive import adrive, drive
from rqproc.calls.fallback import Errand
from rqproc.context import CURRENT, Current
from rqproc.errors import LocallyOverloaded, RequestCycle, RequestTimeout, RqprocError, from_remote
from rqproc.ids import Id
from rqproc.local.turns import Flights, Lanes, Turns
from rqproc.model import Reply
from rqproc.protocol import answer_codec
from rqproc.protocol import codec as wire
from rqproc.runtime import Runtime, after_fork, settle

MAX_RUNS = 16
"""Handlers that run at once in a process whose cluster cannot answer."""


class _Place:
    """What all local runs of this process share."""

    def __init__(self) -> None:
        self.node = f"{socket.gethostname()}:{os.getpid()}"
        self.flights = Flights()
        self.lanes = Lanes()
        self.slots = Turns(MAX_RUNS)


_place = _Place()


def _after_fork() -> None:
    """In a forked child: the parent's runs end in the parent alone."""
    global _place
    _place = _Place()


after_fork(_after_fork)


@dataclass(frozen=True, slots=True)
class _Wait:
    """Wait for a future until a moment; TimeoutError is thrown in past it."""

    future: Future[Any]
    until: float
    runtime: Runtime


@dataclass(frozen=True, slots=True)
class _Call:
    """Call a handler; its value is sent in, what it raises is thrown in."""

    handler: Callable[[], Any]
    is_async: bool
    current: Current
    behind: tuple[Errand, ...]


_behind: ContextVar[tuple[Errand, ...]] = ContextVar("rqproc_local", default=())
"""The local runs that wait for what is asked here, the first of them first."""


@dataclass(frozen=True, slots=True)
class _End:
    """How a run has ended: with a value as JSON, with a report as JSON, or before it began."""

    text: str = ""
    report: str = ""


_FULL = _End()
_CUT_SHORT = _End(
    report=answer_codec.failure_report("Interrupted", "the caller that ran it was ended")
)

_Talk = Generator[_Wait | _Call, Any, Reply | RqprocError]
_Part = Generator[_Wait | _Call, Any, _End]


def _talk(errand: Errand) -> _Talk:
    place, request = _place, errand.request
    key = _key(errand)
    waiting = dropwhile(lambda other: _key(other) != key, _behind.get())
    way = [(other.request.resource, other.request.id) for other in waiting]
    if way:
        return RequestCycle(request.resource, request.id, way)
    try:
        if errand.deadline <= errand.runtime.monotonic():
            raise TimeoutError
        if errand.resource.ttl_s > 0:
            end = yield from _shared(place, errand, key)
        else:
            end = yield from _in_turn(place, errand, key)
    except TimeoutError:
        return RequestTimeout(request.resource, request.id, errand.timeout_s)
    return _outcome(place, errand, end)


def _key(errand: Errand) -> tuple[int, str, Id]:
    """Apps, and clients of several clusters, may have resources of the same name."""
    return id(errand.resource.handler), errand.request.resource, errand.request.id


def _shared(place: _Place, errand: Errand, key: object) -> _Part:
    request = errand.request
    if request.args or request.kwargs:  # a node refuses them too: they are not part of the key
        reason = (
            f"{request.resource} keeps its values (ttl={errand.resource.ttl_s:g}): only ids go in"
        )
        return _End(report=answer_codec.failure_report("TypeError", reason))
    flight, first = place.flights.board(key)
    if not first:
        shared: _End = yield _Wait(flight, errand.deadline, errand.runtime)
        return shared
    end = _CUT_SHORT
    try:
        end = yield from _run(place, errand)
        return end
    finally:
        place.flights.land(key, end)


def _in_turn(place: _Place, errand: Errand, key: object) -> _Part:
    turn = place.lanes.ask(key)
    try:
        yield _Wait(turn, errand.deadline, errand.runtime)
        return (yield from _run(place, errand))
    finally:
        place.lanes.leave(key, turn)


def _run(place: _Place, errand: Errand) -> _Part:
    slot = place.slots.ask()
    try:
        try:
            # One that a local run asks for would wait for a place that its asker holds.
            queues = errand.queues and not _behind.get()
            yield _Wait(slot, errand.deadline if queues else 0.0, errand.runtime)
        except TimeoutError:
            return _FULL
        try:
            value = yield _call(place, errand)
            return _End(wire.encode_value(value))
        except _Overdue:
            return _End(
                report=answer_codec.overdue_report(errand.resource.timeout_s or 0.0, stuck=False)
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a handler may raise anything
            return _End(report=answer_codec.failure_report(*answer_codec.told(error)))
    finally:
        place.slots.leave(slot)


class _Overdue(Exception):
    """A coroutine took longer than its resource allows, and was cancelled."""


async def _within(handler: Callable[[], Coroutine[Any, Any, Any]], timeout_s: float | None) -> Any:
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await handler()
    except TimeoutError:
        if not limit.expired():
            raise
        raise _Overdue from None


def _call(place: _Place, errand: Errand) -> _Call:
    request, resource = errand.request, errand.resource
    handler = partial(resource.handler, request.id, *request.args, **request.kwargs)
    return _Call(
        partial(_within, handler, resource.timeout_s) if resource.is_async else handler,
        resource.is_async,
        Current(
            request.id,
            request.resource,
            place.node,
            token=0,
            deadline=errand.deadline,
            runtime=errand.runtime,
        ),
        (*_behind.get(), errand),
    )


def _enter(step: _Call) -> None:
    CURRENT.set(step.current)
    _behind.set(step.behind)


def _outcome(place: _Place, errand: Errand, end: _End) -> Reply | RqprocError:
    """Each caller has a value or an error of its own."""
    request = errand.request
    if end is _FULL:
        return LocallyOverloaded(place.node, MAX_RUNS)
    if end.report:
        return from_remote(
            json.loads(end.report),
            resource=request.resource,
            id=request.id,
            namespace=errand.namespace,
        )
    return Reply(request.id, json.loads(end.text), place.node, "local", 0.0, 0.0, 0)


# --- blocking ---------------------------------------------------------------------------------


def serve(errand: Errand) -> Reply | RqprocError:
    """Have a handler run in the calling thread, or share a run that is under way.

    A coroutine runs on a thread of its own, where it may be left behind at the deadline.
    """
    return _serve_aside([errand])[0] if errand.resource.is_async else _serve(errand)


def _serve(errand: Errand) -> Reply | RqprocError:
    return drive(_talk(errand), _do, failures=BaseException)  # the talk knows what to make of it


def serve_many(errands: Sequence[Errand]) -> list[Reply | RqprocError]:
    """Have several handlers run side by side; what is not done by its deadline is left behind."""
    return [serve(errands[0])] if len(errands) == 1 else _serve_aside(errands)


def _serve_aside(errands: Sequence[Errand]) -> list[Reply | RqprocError]:
    runs: list[Future[Reply | RqprocError]] = [Future() for _ in errands]
    todo = deque(zip(errands, runs, strict=True))
    runtime = errands[0].runtime
    for _ in range(min(len(errands), MAX_RUNS)):
        work = partial(contextvars.copy_context().run, _serve_all, todo)
        runtime.thread(work, name="rqproc-local").start()
    for run in runs:
        runtime.wait(run, max(0.0, errands[0].deadline - runtime.monotonic()))
    todo.clear()
    return [
        run.result() if run.done() else _late(errand)
        for run, errand in zip(runs, errands, strict=True)
    ]


def _serve_all(todo: deque[tuple[Errand, Future[Reply | RqprocError]]]) -> None:
    while True:
        try:
            errand, run = todo.popleft()
        except IndexError:  # other threads work on it too
            return
        settle(run, partial(_serve, errand))


def _do(step: _Wait | _Call) -> Any:
    if isinstance(step, _Wait):
        left_s = max(0.0, step.until - step.runtime.monotonic())
        if not step.runtime.wait(step.future, left_s):
            raise TimeoutError
        return step.future.result()
    context = contextvars.copy_context()
    context.run(_enter, step)
    if not step.is_async:
        return context.run(step.handler)
    return context.run(_run_alone, step.handler)


def _run_alone(handler: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """On a thread of its own: the caller's may have an event loop that runs."""
    return asyncio.run(handler())


def _late(errand: Errand) -> RequestTimeout:
    return RequestTimeout(errand.request.resource, errand.request.id, errand.timeout_s)


# --- asyncio ----------------------------------------------------------------------------------

_tasks: set[asyncio.Task[Reply | RqprocError]] = set()
"""Runs go on when the caller that began them is cancelled: others may share them."""


async def aserve(errand: Errand) -> Reply | RqprocError:
    """``serve`` for asyncio: coroutines on this loop, plain functions on a thread."""
    task = asyncio.create_task(_aserve(errand))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    try:
        async with asyncio.timeout(errand.deadline - errand.runtime.monotonic()):
            return await asyncio.shield(task)
    except TimeoutError:
        return _late(errand)


async def aserve_many(errands: Sequence[Errand]) -> list[Reply | RqprocError]:
    return list(await asyncio.gather(*map(aserve, errands)))


async def _aserve(errand: Errand) -> Reply | RqprocError:
    return await adrive(_talk(errand), _ado, failures=BaseException)


async def _ado(step: _Wait | _Call) -> Any:
    if isinstance(step, _Wait):
        if step.future.done():
            return step.future.result()
        async with asyncio.timeout(step.until - step.runtime.monotonic()):
            return await asyncio.wrap_future(step.future)
    _enter(step)  # in the context of this task alone
    if step.is_async:
        return await step.handler()
    return await asyncio.to_thread(step.handler)
