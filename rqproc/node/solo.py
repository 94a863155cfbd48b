"""The worker of a node without a cluster: what is asked in this process, it gives to its desk.

Knows desk and runner, and does what route, take and finish do for a node on a server: it refuses
what is too much or would close a circle, gives out tokens, and brings each answer to its caller.
Must not know clients, event loops or processes.

One thread owns all of it, as a worker's does; callers and handlers leave messages. So no caller can
be interrupted in the middle of the desk's work, whatever its signals are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from rqproc import wire
from rqproc.app import Resource
from rqproc.cluster import Claim, Finish, FinishMany, Job, Order, Tally
from rqproc.ground import Ground
from rqproc.node.desk import Desk
from rqproc.node.entries import Entries
from rqproc.node.lanes import Lanes
from rqproc.node.runner import Runner
from rqproc.node.runs import Outcome, Run, Slot
from rqproc.node.waits import Waits
from rqproc.settings import NodeSettings

log = logging.getLogger("rqproc.node")

NAME = "local"
EPOCH = 1

ALIVE_S = 1.0
"""How often a caller that waits for a word looks whether there is anyone who could give it."""

END_S = 1.0
"""A solo waits for no handler, so it takes no longer to end; nor may it keep a program from it."""

CallKind = Literal["call", "part"]

T = TypeVar("T")


class Caller(Protocol):
    """Who waits for answers. It is told by the solo's thread, which has no time to lose."""

    def hear(self, finish: Finish) -> None: ...
    def refuse(self, id: str, report: bytes) -> None: ...
    def fail(self, error: BaseException) -> None:
        """There will be no answer."""


class Survey(NamedTuple):
    """What a solo says of itself: its counts, the requests that it holds, the calls and jobs that
    somebody still waits for, and the runs that wait for others.
    """

    tally: Tally
    held: int
    awaited: int
    waiting: int


class _Pending(NamedTuple):
    """A call that has no answer yet; ``parent`` is the address whose run waits for it."""

    caller: Caller
    parent: str


class Solo:
    """Serves from its making until it is stopped.

    Attributes:
        runner: who runs the handlers; those that it runs ask in the name of their addresses.
    """

    def __init__(
        self, namespace: str, resources: Mapping[str, Resource[..., Any]], *, ground: Ground,
        settings: NodeSettings,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._clock = clock = ground.suspend_proof
        self._desk = Desk(
            NAME, resources, entries=Entries(settings.max_entries, clock),
            lanes=Lanes(settings.concurrency), clock=clock,
        )  # fmt: skip
        self._desk.learn(EPOCH, (NAME,))
        # From the clock, so that a program's later runs have higher ones too.
        self._tokens = count(int(ground.now() * 1e6))
        self._waits = Waits()
        self._pending: dict[str, _Pending] = {}
        self._inbox: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self.runner = Runner(NAME, namespace, ground=ground, report=self._report)
        self._thread = ground.thread(self._serve, name="rqproc-local")
        self._thread.start()

    # --- called from other threads ---

    def submit(self, order: Order, caller: Caller, *, parent: str) -> None:
        """Take in calls; each is answered or refused, unless it is given up before.

        ``parent``: the address of the run that asks, if this solo runs it.
        """
        due = self._clock() + order.timeout_s
        self._post(partial(self._submit, order, caller, due, parent))

    def enqueue(self, order: Order, callers: Iterable[Caller]) -> list[bytes]:
        """Take in jobs, each with a caller of its own; return for each b"" or its refusal."""
        return self._call(
            lambda: [
                self._enter(job, "job", caller)
                for job, caller in zip(order.jobs, callers, strict=True)
            ]
        )

    def give_up(self, order: Order) -> None:
        """Nobody waits any more for what has no answer: it is not begun, if it was not."""
        self._post(partial(self._give_up, order))

    def survey(self) -> Survey:
        desk = self._desk
        return self._call(
            lambda: Survey(desk.tally(), desk.held, len(self._pending), len(self._waits))
        )

    def holds(self, address: str) -> bool:
        """Whether any request of an address is under way."""
        return self._call(lambda: self._desk.held_of(address) > 0)

    def stop(self) -> None:
        """End soon. What runs then runs on for nobody."""
        self._inbox.put(None)

    def join(self) -> None:
        self._thread.join(END_S)

    def _report(self, run: Run, news: Outcome | Slot) -> None:
        self._inbox.put(partial(self._take_in, run, news))

    def _post(self, work: Callable[[], object]) -> None:
        if self._failure:
            raise RuntimeError("what serves local:// here has died") from self._failure
        self._inbox.put(work)

    def _call(self, work: Callable[[], T]) -> T:
        found: Future[T] = Future()
        self._post(lambda: found.set_result(work()))
        while True:
            try:
                return found.result(ALIVE_S)
            except TimeoutError:
                if not self._thread.is_alive():
                    raise RuntimeError("what serves local:// here has ended") from self._failure

    # --- its own thread ---

    def _serve(self) -> None:
        try:
            while work := self._next():
                work()
                del work  # it may be all that keeps an app, while the next one is waited for
                self._work_off()
        except BaseException as error:  # whoever waits is told, whatever it was
            log.critical("what serves local:// in this process has died", exc_info=error)
            self._failure = error
            for pending in self._pending.values():
                pending.caller.fail(error)
        finally:
            self.runner.stop()

    def _next(self) -> Callable[[], object] | None:
        overdue_at = self._desk.overdue_at
        left_s = None if overdue_at is None else max(0.0, overdue_at - self._clock())
        try:
            return self._inbox.get(timeout=left_s)
        except Empty:
            return _nothing

    def _work_off(self) -> None:
        """Start what may run now, and bring the answers that there are."""
        self._desk.mind_the_time()
        while run := self._desk.next_run():
            self.runner.start(run)
        finishes = self._desk.collect()
        for finish in finishes:
            assert not isinstance(finish, FinishMany)  # calls are received one by one
            self._answer(finish)
        self._desk.acknowledged(finishes)

    def _answer(self, finish: Finish) -> None:
        """Given up, or answered before where a stuck run has ended: then nobody hears it."""
        id = finish.claim.id
        if pending := self._pending.pop(id, None):
            self._waits.end(pending.parent, id)
            if finish.outcome != "expired":
                pending.caller.hear(finish)

    def _take_in(self, run: Run, news: Outcome | Slot) -> None:
        if isinstance(news, str):
            self._desk.change_slot(run, news)
        else:
            self._desk.complete(run, news)

    def _submit(self, order: Order, caller: Caller, due: float, parent: str) -> None:
        for job in order.jobs:
            kind: CallKind = "call" if job.data else "part"
            if refused := self._enter(job, kind, caller, due=due, parent=parent):
                caller.refuse(job.id, refused)

    def _enter(
        self, job: Job, kind: CallKind | Literal["job"], caller: Caller, *,
        due: float | None = None, parent: str = "",
    ) -> bytes:  # fmt: skip
        """Give a request to the desk; return b"", or the report of why not."""
        if refusal := self._refusal(job, parent):
            return json.dumps(refusal).encode()
        self._pending[job.id] = _Pending(caller, parent)
        claim = Claim(job.id, next(self._tokens), job.address, kind, "", 0, job.data, 0)
        self._desk.receive(claim, due=due)
        return b""

    def _refusal(self, job: Job, parent: str) -> dict[str, object] | None:
        """What route.lua refuses. A node holds as many requests as may wait for it."""
        limits, desk = self._settings, self._desk
        held = desk.held_of(job.address)
        if held >= limits.max_waiters:
            return _too_many("Crowded", held, limits.max_waiters)
        queued = desk.held - desk.held_by_paused - limits.max_queue
        if queued >= limits.max_queue:
            return _too_many("Overloaded", queued, limits.max_queue)
        if parent and (way := self._waits.add(parent, job.id, job.address)):
            return {"type": "RequestCycle", "way": way}
        return None

    def _give_up(self, order: Order) -> None:
        left = {job.id for job in order.jobs if job.id in self._pending}
        for id in left:
            self._waits.end(self._pending.pop(id).parent, id)
        if left:
            self._desk.give_up(left)


def _nothing() -> None:
    """Time has passed: what has taken too long is to be minded."""


def _too_many(type: str, queued: int, limit: int) -> dict[str, object]:
    return {"type": type, "node": NAME, "queued": queued, "limit": limit}


def answer_of(finish: Finish, *, worker: str) -> wire.Answer:
    """Return what a caller on a server would read of a finish."""
    fields = [b"rqproc", finish.note.encode(), b"worker_name", worker.encode()]
    if finish.report:
        fields += (b"rqproc_error", finish.report.encode())
    else:
        fields += (b"return_value", finish.body.encode())
    return wire.answer(fields)
