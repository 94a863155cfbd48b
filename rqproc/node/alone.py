"""A node without a cluster, as clients ask it: the backend of ``local://``.

Knows places, and how to wait in threads and event loops. Must not know how requests are served.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, cast

from rqproc import calls, wire
from rqproc.app import App
from rqproc.calls import Batch
from rqproc.cluster import Finish, Order
from rqproc.context import ASKING
from rqproc.conversation import Request as Talk
from rqproc.errors import ConfigError, RqprocError
from rqproc.keys import Keys
from rqproc.losses import Losses
from rqproc.model import Location, Membership, NodeInfo
from rqproc.node.localjob import LocalJob, wait_for
from rqproc.node.place import Place, place_apart, place_of
from rqproc.node.solo import EPOCH, NAME, Solo, answer_of
from rqproc.placement import Id, address, slot
from rqproc.questions import NoNearCache
from rqproc.settings import LOCAL
from rqproc.wanted import Wanted

if TYPE_CHECKING:
    from rq.job import Job as RqJob

ADVICE = (
    "Give the app that declares it: Client('local://', app=app), or `rqproc request --app "
    "MODULE:APP`"
)


def backend(keys: Keys, app: object) -> LocalBackend:
    """Return what a client asks whose URL is ``local://``."""
    return LocalBackend(keys, place_of(keys.namespace, app))


@contextmanager
def fresh(app: App, namespace: str) -> Iterator[LocalBackend]:
    """A place of its own for an app, empty at first and forgotten at the end."""
    place = place_apart(namespace, app)
    try:
        yield LocalBackend(Keys(namespace), place)
    finally:
        place.end()


class LocalBackend:
    """The cluster of one namespace that this process is by itself. It is a ``Backend``."""

    server = LOCAL

    def __init__(self, keys: Keys, place: Place) -> None:
        self._keys = keys
        self._place = place
        self.ground = place.ground

    def asker(self) -> LocalAsker:
        return LocalAsker(self._place, self._worker)

    def async_asker(self) -> AsyncLocalAsker:
        return AsyncLocalAsker(self._place, self._worker)

    @property
    def _worker(self) -> str:
        return self._keys.queue_name(NAME)

    def near_cache(self, most: int, losses: Losses, app: object) -> NoNearCache:
        """Nothing is nearer than this process. Raises: ConfigError."""
        if type(most) is not int or most < 0:
            from rqproc.nearcache import check_near

            check_near(most)
        return NoNearCache()

    def enqueue(self, sent: Batch) -> list[RqJob | RqprocError]:
        order, clock = sent.order, self.ground.suspend_proof
        jobs = [
            LocalJob(job, origin=self._keys.ingress, result_ttl=order.result_ttl_s, clock=clock)
            for job in order.jobs
        ]
        refused = self._place.solo.enqueue(order, jobs)
        errors = calls.refusals(sent, refused, self._keys)
        return [error or cast("RqJob", job) for error, job in zip(errors, jobs, strict=True)]

    def membership(self) -> Membership:
        tally, held, _, _ = self._place.solo.survey()
        node = NodeInfo(
            name=NAME,
            incarnation=f"{NAME}:{os.getpid()}",
            state="member",
            lease_left_s=math.inf,
            queue=self._worker,
            queued=0,
            held=held,
            stuck=tally.stuck,
            entries=tally.entries,
            hits=tally.hits,
            joined=tally.joined,
            misses=tally.misses,
            pid=os.getpid(),
            host=socket.gethostname(),
        )
        return Membership(self._keys.namespace, EPOCH, (node,))

    def locate(self, resource: str, ids: Sequence[Id]) -> list[Location]:
        holds = self._place.solo.holds
        return [
            Location(
                id, slot(id), EPOCH, (NAME,), NAME, NAME if holds(address(resource, id)) else None
            )
            for id in ids
        ]

    def drain(self, node: str) -> bool:
        """Raises: ConfigError."""
        raise ConfigError(f"{LOCAL} has no nodes to drain: it ends with its process")

    def report_death(self, node: str, *, pid: int, host: str) -> bool:
        return False

    def close(self) -> None:
        """Others may ask here too."""


class _Listener:
    """Hears the answers to one order in a solo's thread, and keeps them for who asks.

    Args:
        left: how many there are to be.
        told: called when all are there, or none will come.
    """

    def __init__(self, left: int, worker: str, told: Callable[[], object]) -> None:
        self._left = left
        self._worker = worker
        self._told = told
        self._heard: deque[Callable[[], wire.Answer]] = deque()
        self._failure: BaseException | None = None

    def hear(self, finish: Finish) -> None:
        self._keep(partial(answer_of, finish, worker=self._worker))

    def refuse(self, id: str, report: bytes) -> None:
        self._keep(partial(wire.refusal, id, report))

    def fail(self, error: BaseException) -> None:
        self._failure = error
        self._told()

    def _keep(self, answer: Callable[[], wire.Answer]) -> None:
        self._heard.append(answer)
        self._left -= 1
        if not self._left:
            self._told()

    def tell(self, wanted: Wanted) -> None:
        """Hand over what was heard. Raises: RuntimeError: there will be no more."""
        while self._heard:
            answer = self._heard.popleft()()
            report = answer.report
            if report and report["type"] == "UnknownResource":
                answer = answer._replace(report={**report, "advice": ADVICE})
            wanted.take(answer)
        if self._failure:
            raise RuntimeError(f"what serves {LOCAL} here has died") from self._failure


class LocalAsker:
    """Asks from threads. It is an ``Asker``."""

    def __init__(self, place: Place, worker: str) -> None:
        self._place = place
        self._worker = worker

    def ask(self, wanted: Wanted, talk: Talk) -> None:
        talk.close()  # nothing of what it would say is needed here
        solo, told = self._place.solo, Event()
        listener = _Listener(len(wanted), self._worker, told.set)
        try:
            solo.submit(wanted.order, listener, parent=_parent(wanted.order, solo))
            wait_for(told, wanted.order.timeout_s)
            listener.tell(wanted)
        finally:
            if wanted:
                solo.give_up(wanted.order)

    def close(self) -> None:
        """Nothing is open."""


class AsyncLocalAsker:
    """Asks from the tasks of any number of event loops. It is an ``AsyncAsker``."""

    def __init__(self, place: Place, worker: str) -> None:
        self._place = place
        self._worker = worker

    async def ask(self, wanted: Wanted, talk: Talk) -> None:
        talk.close()
        loop = asyncio.get_running_loop()
        solo, told = self._place.solo, asyncio.Event()
        listener = _Listener(len(wanted), self._worker, partial(_tell, loop, told))
        try:
            solo.submit(wanted.order, listener, parent=_parent(wanted.order, solo))
            with suppress(TimeoutError):
                async with asyncio.timeout(wanted.order.timeout_s):
                    await told.wait()
            listener.tell(wanted)
        finally:
            if wanted:
                solo.give_up(wanted.order)

    async def close(self) -> None:
        """Nothing is open."""


def _tell(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
        loop.call_soon_threadsafe(told.set)


def _parent(order: Order, solo: Solo) -> str:
    """Whose run asks, if it is one of this solo: an address of another is not the same id."""
    run = ASKING.get()
    return order.parent if run and run.by is solo.runner else ""
