"""Runs handlers: plain functions on threads, coroutine functions on one event loop.

Knows threads, the loop, and what is set around a handler; how it is called is told in ``calling``.
Must not know claims, lanes or Redis.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from rqproc.context import ASKING, CURRENT, Asking, Current
from rqproc.errors import ConfigError
from rqproc.ids import parse_address
from rqproc.log_events import tell
from rqproc.node.calling import ReturnedValues, call, call_async, pauses
from rqproc.node.runs import Failed, HandlerRun, Outcome, Overdue, Slot, Taken
from rqproc.node.spans import RunSpans
from rqproc.objects import OBJECTS, ObjectKeeper
from rqproc.protocol import answer_codec
from rqproc.runtime import Runtime, Thread

log = logging.getLogger("rqproc.node")

Heard = tuple[HandlerRun, Outcome | Slot]
Report = Callable[[Sequence[Heard]], None]
Enter = Callable[[], object]
"""Changes the context that it is called in."""

MOST_THREADS = 4096
"""Lanes bound how many handlers run; those that wait for other ids, or are stuck, come on top."""

ONE_LOOP = (
    "asyncio runs one event loop in a thread, and where greenlets stand for threads that is the "
    "program's own: make the handler a plain function, or ask where no event loop runs"
)

CLEAN_UP_S = 0.2
"""What coroutines have to end in that are cancelled at the end of their node."""


class Runner:
    """Starts runs; what one call makes together is started by the first of them.

    ``report`` is called with the outcome of each, once, and before that when it gives back its slot
    or wants it again; from whichever thread it runs on, for all together that one call makes.

    ``has_tokens``: whether handlers are told the tokens of their runs, else 0. ``logs``: whether
    what they raise is logged, since who has asked is somewhere else. ``find_job``: returns what
    makes a job known to RQ as the one that is run; it may have to be asked for. ``objects``: who
    has those of stateful ids.
    """

    def __init__(
        self, node: str, namespace: str, *, runtime: Runtime, report: Report,
        has_tokens: bool = True, logs: bool = False,
        find_job: Callable[[Taken], Enter | None] = lambda _: None,
        objects: ObjectKeeper | None = None,
    ) -> None:  # fmt: skip
        self._runtime = runtime
        self._node = node
        self._namespace = namespace
        self._report = report
        self._has_tokens = has_tokens
        self._logs = logs
        self._values = ReturnedValues()
        self._cancelled: set[HandlerRun] = set()
        self._find_job = find_job
        self._objects = objects
        self._spans = RunSpans(node, namespace, runtime.suspend_proof)
        self._threads = runtime.threads(MOST_THREADS, name="rqproc-handler")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looping: Thread | None = None
        self._under_way: set[HandlerRun] = set()
        self._pid = os.getpid()
        self._stopping = False
        self._tasks: set[Future[None]] = set()  # a loop alone does not keep its tasks alive
        self._coroutines: dict[HandlerRun, asyncio.Task[Any] | None] = {}

    def submit(self, work: Callable[[], None]) -> None:
        """Have a thread do something else than a run."""
        self._threads.submit(work)

    def expect(self, run: HandlerRun) -> None:
        """It is about to be run by ``run``, in the calling thread."""
        self._under_way.add(run)

    def run(self, run: HandlerRun) -> None:
        """Run a plain function, in the calling thread."""
        self._run(run)

    def start(self, run: HandlerRun) -> None:
        """Have a run begun by another thread, or by the event loop."""
        self._under_way.add(run)
        if not run.resource.is_async:
            self._threads.submit(self._run, run)
        elif self._is_beside_a_loop():
            self._end(run, [Failed(*answer_codec.describe(ConfigError(ONE_LOOP)))])
        elif run.job:  # to find it may block: not on the loop
            self._threads.submit(self._begin, run, self._event_loop())
        else:
            self._begin(run, self._event_loop())

    def _begin(self, run: HandlerRun, loop: asyncio.AbstractEventLoop) -> None:
        """Have a coroutine begin."""
        enter = self._find_job(run.job) if run.job else None
        task = asyncio.run_coroutine_threadsafe(self._run_async(run, enter), loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, run: HandlerRun) -> None:
        """Cancel a coroutine's run, soon."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._cancel, run)

    def _cancel(self, run: HandlerRun) -> None:
        if task := self._coroutines.get(run):
            self._cancelled.add(run)
            task.cancel()
        elif self._loop and run in self._under_way:  # it is about to begin
            self._loop.call_soon(self._cancel, run)

    def stop(self) -> None:
        """Take no more, and end the threads. Where a handler still runs none is waited for, but
        coroutines are cancelled and may clean up.
        """
        idle = not self._under_way
        self._threads.shutdown(wait=idle, cancel_futures=True)
        if self._loop and self._looping:
            self._loop.call_soon_threadsafe(self._stop_loop, self._loop)
            self._looping.join(None if idle else CLEAN_UP_S)

    def _stop_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the loop itself: what a handler has stopped meanwhile runs once more, up to here."""
        self._stopping = True
        loop.stop()

    def _end(self, run: HandlerRun, outcomes: Sequence[Outcome]) -> None:
        """``outcomes``: of each of those that one call has made, or one that is all of theirs."""
        self._leave_child(None)
        self._under_way.discard(run)
        runs = run.made_together
        each = outcomes if len(outcomes) == len(runs) else [outcomes[0]] * len(runs)
        for one, outcome in zip(runs, each, strict=True):
            self._spans.end(one, outcome)
        self._report(list(zip(runs, each, strict=True)))

    def _run(self, run: HandlerRun) -> None:
        """What limits a handler's time by an exception from another thread may be late with it: it
        comes here then, and must not keep the run from being reported.
        """
        try:
            outcomes = self._outcomes_of(run)
        except BaseException as error:  # noqa: BLE001
            outcomes = [self._failed(run, error)]
        try:
            self._end(run, outcomes)
        except BaseException:
            self._end(run, outcomes)  # the first report counts
            raise

    def _outcomes_of(self, run: HandlerRun) -> Sequence[Outcome]:
        context = contextvars.copy_context()
        try:
            context.run(self._enter, run)
            if run.job and (enter := self._find_job(run.job)):
                context.run(enter)
            value = context.run(self._try, run)
            return self._values.outcomes(run, value, self._runtime.suspend_proof())
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything, SystemExit too
            return [self._failed(run, error)]

    def _try(self, run: HandlerRun) -> Any:
        """Call the handler, again where it raises what its resource has tried again."""
        policy = run.resource.policy
        if not policy.retries:
            return call(run)
        waits, tried = pauses(policy, self._runtime.chance), 0
        while True:
            try:
                return call(run)
            except Exception as error:
                self._leave_child(error)
                if not policy.tries_again(error, tried):
                    raise
            tried += 1
            self._runtime.sleep(waits.next_s())

    async def _awaited(self, run: HandlerRun) -> Sequence[Outcome]:
        try:
            async with asyncio.timeout(run.resource.timeout_s) as limit:
                value = await self._try_async(run)
                return self._values.outcomes(run, value, self._runtime.suspend_proof())
        except TimeoutError:
            if not limit.expired():
                raise
            return [Overdue(run.resource.timeout_s or 0.0, stuck=False)]

    async def _try_async(self, run: HandlerRun) -> Any:
        policy = run.resource.policy
        waits, tried = pauses(policy, self._runtime.chance), 0
        while True:
            try:
                return await call_async(run)
            except Exception as error:
                self._leave_child(error)
                if not policy.tries_again(error, tried):
                    raise
            tried += 1
            await asyncio.sleep(waits.next_s())

    async def _run_async(self, run: HandlerRun, enter: Enter | None) -> None:
        self._coroutines[run] = asyncio.current_task()
        try:
            self._enter(run)  # in the context of this task alone
            if enter:
                enter()
            outcomes = await self._awaited(run)
        except BaseException as error:
            if self._loop and self._loop.is_closed():  # it is thrown away: nobody is there to tell
                raise
            outcomes = [self._failed(run, error)]
        del self._coroutines[run]
        self._cancelled.discard(run)
        self._end(run, outcomes)

    def _failed(self, run: HandlerRun, error: BaseException) -> Failed:
        """Log what a handler has raised, once, for people and for those who report errors."""
        self._leave_child(error)
        policy, others = run.resource.policy, len(run.made_together) - 1
        if self._logs and run not in self._cancelled and not self._stopping:
            _, _, id = parse_address(run.address)
            job = run.job.name if run.job else ""
            about = {**run.about, "node": self._node, "job": job}
            what = f"{run.resource.name} {id}" + (f", job {job}" if job else "")
            what += f" and {others} more" if others else ""
            text = "%s %s: the handler has failed"
            tell(log, "handler_failed", text, self._node, what, exc_info=error, **about)
        remembered = not policy.batch and policy.remembers(error)
        return Failed(*answer_codec.describe(error), remembered=remembered)

    def _leave_child(self, error: BaseException | None) -> None:
        """End the process, if it is a child that the handler has forked: its way out of the handler
        is its end, for it has no node to go back to.
        """
        if os.getpid() == self._pid:
            return
        code = 0
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error:
            traceback.print_exception(error)
            code = 1
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)

    def _enter(self, run: HandlerRun) -> None:
        CURRENT.set(self._current(run))
        if self._objects is not None and run.resource.idle_s is not None:
            OBJECTS.set(self._objects)
        ASKING.set(Asking(self._namespace, run.address, partial(self._change_slot, run), by=self))
        self._spans.begin(run)

    def _change_slot(self, run: HandlerRun, waits: bool) -> None:
        self._report([(run, "given back" if waits else "wanted again")])

    def _current(self, run: HandlerRun) -> Current:
        one = self._current_of_one(run)
        if not run.resource.policy.batch:
            return one
        batch = {other.request.id: self._current_of_one(other) for other in run.made_together}
        deadlines = [other.deadline for other in batch.values()]
        known = [due for due in deadlines if due is not None]
        latest = max(known) if len(known) == len(deadlines) else None
        return replace(one, deadline=latest, batch=batch)

    def _current_of_one(self, run: HandlerRun) -> Current:
        due, runtime = run.deadline, self._runtime
        return Current(
            id=parse_address(run.address)[2],
            resource=run.resource.name,
            node=self._node,
            token=run.token if self._has_tokens else 0,
            deadline=None if due is None else runtime.monotonic() + due - runtime.suspend_proof(),
            runtime=runtime,
        )

    def _is_beside_a_loop(self) -> bool:
        """Whether another loop than ours runs in this thread, as greenlets make possible."""
        try:
            return asyncio.get_running_loop() is not self._loop
        except RuntimeError:
            return False

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop, started with the first coroutine. Called under the worker's lock."""
        if self._loop is None:
            self._loop = self._runtime.event_loop()
            self._loop.shutdown_default_executor = _keep_executor  # type: ignore[method-assign]
            self._looping = self._runtime.thread(
                partial(_serve, self._loop, lambda: self._stopping), name="rqproc-handlers-async"
            )
            self._looping.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop, is_over: Callable[[], bool]) -> None:
    """Run an event loop until it is to end; coroutines that are left then are cancelled.

    A handler's code can stop it: by its own word, or by SystemExit in a task, which asyncio raises
    through the loop. Others' coroutines are on it too, so it goes on.
    """
    try:
        while not is_over():
            _run_on(loop)
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())  # connections of clients are closed
    finally:
        loop.close()


async def _keep_executor(timeout: float | None = None) -> None:
    """Leave the threads of ``asyncio.to_thread`` to the other handlers: they end with the loop."""
    text = "a handler has asked to shut down the executor of all handlers: it stays"
    tell(log, "executor_kept", text)


def _run_on(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt) as error:  # whoever awaits that task has it too
        text = "a task of a handler has raised %r through the event loop"
        tell(log, "task_failed", text, error, error=error)
