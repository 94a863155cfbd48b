"""Runs handlers: plain functions on threads, coroutine functions on one event loop.

Knows how to call a handler and what may come of it. Must not know claims, lanes or Redis.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from rqproc import wire
from rqproc.clock import suspend_proof
from rqproc.context import ASKING, CURRENT, Asking, Current
from rqproc.node.runs import Done, Failed, Outcome, Overdue, Run, Slot
from rqproc.placement import parse_address

Report = Callable[[Run, Outcome | Slot], None]

MOST_THREADS = 4096
"""Lanes bound how many handlers run; those that wait for other ids, or are stuck, come on top."""


class Runner:
    """Starts runs.

    ``report`` is called with the outcome of each, once, and before that when it gives back its slot
    or wants it again; from whichever thread it runs on.
    """

    def __init__(self, node: str, namespace: str, *, report: Report) -> None:
        self._node = node
        self._namespace = namespace
        self._report = report
        self._threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="rqproc-handler")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looping: threading.Thread | None = None
        self._under_way: set[Run] = set()

    def start(self, run: Run) -> None:
        self._under_way.add(run)
        if run.resource.is_async:
            asyncio.run_coroutine_threadsafe(self._run_async(run), self._event_loop())
        else:
            self._threads.submit(self._run, run)

    def stop(self) -> None:
        """Take no more, and end the threads. Where a handler still runs nothing is waited for."""
        idle = not self._under_way
        self._threads.shutdown(wait=idle, cancel_futures=True)
        if self._loop and self._looping:
            self._loop.call_soon_threadsafe(self._loop.stop)
            if idle:
                self._looping.join()

    def _end(self, run: Run, outcome: Outcome) -> None:
        self._under_way.discard(run)
        self._report(run, outcome)

    def _run(self, run: Run) -> None:
        context = contextvars.copy_context()
        try:
            context.run(self._enter, run)
            value = context.run(_call, run)
            outcome: Outcome = Done(at=suspend_proof(), text=wire.encode_value(value))
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything, SystemExit too
            outcome = Failed(*wire.told(error))
        self._end(run, outcome)

    async def _run_async(self, run: Run) -> None:
        try:
            self._enter(run)  # in the context of this task alone
            outcome: Outcome = await _awaited(run)
        except BaseException as error:  # noqa: BLE001
            outcome = Failed(*wire.told(error))
        self._end(run, outcome)

    def _enter(self, run: Run) -> None:
        CURRENT.set(self._current(run))
        ASKING.set(Asking(self._namespace, run.address, partial(self._change_slot, run)))

    def _change_slot(self, run: Run, waits: bool) -> None:
        self._report(run, "given back" if waits else "wanted again")

    def _current(self, run: Run) -> Current:
        due = run.deadline
        return Current(
            id=parse_address(run.address)[2],
            resource=run.resource.name,
            node=self._node,
            token=run.token,
            deadline=None if due is None else time.monotonic() + due - suspend_proof(),
        )

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop, started with the first coroutine. Called from the worker's thread alone."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._looping = threading.Thread(
                target=_serve, args=(self._loop,), name="rqproc-handlers-async", daemon=True
            )
            self._looping.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run an event loop until it is stopped; coroutines that are left then are cancelled."""
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()


def _call(run: Run) -> Any:
    return run.resource.handler(run.request.id, *run.request.args, **run.request.kwargs)


async def _awaited(run: Run) -> Outcome:
    value: Coroutine[Any, Any, Any] = _call(run)
    try:
        async with asyncio.timeout(run.resource.timeout_s) as limit:
            made = await value
            return Done(at=suspend_proof(), text=wire.encode_value(made))
    except TimeoutError:
        if not limit.expired():
            raise
        return Overdue(run.resource.timeout_s or 0.0, stuck=False)
