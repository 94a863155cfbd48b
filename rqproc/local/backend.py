"""A worker of this process, as clients ask it: the backend of ``local://``, and the fallback.

Knows places, and how to wait in threads and event loops. Must not know how requests are served.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from rqproc.calls.call import Call
from rqproc.calls.fallback import Fallback
from rqproc.calls.jobs import JobOptions, refusal
from rqproc.calls.loops import running_loop
from rqproc.calls.requests import NESTED
from rqproc.context import ASKING
from rqproc.errors import OWN_TIMEOUT, ConfigError, RqprocError
from rqproc.ids import Id, address, slot
from rqproc.local.job import LocalJob
from rqproc.local.spaces import LocalPlace, place_apart, place_of
from rqproc.local.worker import EPOCH, NAME, LocalWorker
from rqproc.model import Location, Membership, NodeInfo
from rqproc.protocol import answer_codec, stats_codec
from rqproc.protocol.keys import Keys
from rqproc.protocol.messages import Sent
from rqproc.resource import Declaring, ResourceSpec
from rqproc.settings import LOCAL
from rqproc.stats import ClusterStats

if TYPE_CHECKING:
    from rq.job import Job as RqJob

T = TypeVar("T")

ADVICE = {
    "UnknownResource": "Give the app that declares it: Client('local://', app=app), or `rqproc "
    "request --app MODULE:APP`",
    "HandlerTimeout": OWN_TIMEOUT,
}
"""What to do about errors here, where there is no node to look at."""

LATE = "its handler runs in this process, or waits for others there: allow more with `timeout`"


def backend(keys: Keys, app: object) -> LocalBackend:
    """Return what a client asks whose URL is ``local://``."""
    return LocalBackend(keys, place_of(keys.namespace, app))


@contextmanager
def fresh(app: Declaring, namespace: str) -> Iterator[LocalBackend]:
    """A place of its own for an app, empty at first and forgotten at the end."""
    place = place_apart(namespace, app)
    try:
        yield LocalBackend(Keys(namespace), place)
    finally:
        place.end()


class LocalBackend:
    """A cluster that this process is by itself. It is a ``Backend``."""

    server = LOCAL

    def __init__(self, keys: Keys, place: LocalPlace) -> None:
        self._keys = keys
        self._place = place
        self.runtime = place.runtime

    def asker(self) -> LocalAsker:
        return LocalAsker(self._place)

    def async_asker(self) -> AsyncLocalAsker:
        return AsyncLocalAsker(self._place)

    def fallback(self, resource: ResourceSpec) -> LocalBackend:
        """Nobody can be lost here."""
        return self

    def near_cache(self, most: int, fallback: Fallback, app: object) -> None:
        """Nothing is nearer than this process. Raises: ConfigError."""
        if type(most) is not int or most < 0:
            from rqproc.calls.near_cache import check_near

            check_near(most)

    def enqueue(
        self, jobs: Sequence[Sent], *, resource: str, ids: Sequence[Id], result_ttl_s: int | None
    ) -> list[RqJob | RqprocError]:
        origin, clock = self._keys.ingress, self.runtime.suspend_proof
        made = [LocalJob(job, origin=origin, result_ttl=result_ttl_s, clock=clock) for job in jobs]
        told = self._place.worker.enqueue(jobs, made)
        return [
            refusal(report, resource, id, self._keys.namespace) if report else cast("RqJob", job)
            for report, id, job in zip(told, ids, made, strict=True)
        ]

    def enqueue_by_rq(self, job: Sent, options: JobOptions, *, result_ttl_s: int | None) -> RqJob:
        """Raises: ConfigError."""
        raise ConfigError(f"{LOCAL} has no RQ, whose options these are: {', '.join(options)}")

    def stats(self) -> ClusterStats:
        now, told = time.time(), stats_codec.encode(self._place.worker.stats())
        return ClusterStats(now, (stats_codec.decode(f"{NAME}#{os.getpid()}", now, told),))

    def membership(self) -> Membership:
        tally, held, _, _ = self._place.worker.survey()
        node = NodeInfo(
            name=NAME,
            incarnation=f"{NAME}:{os.getpid()}",
            state="member",
            lease_left_s=math.inf,
            queue=self._keys.queue_name(NAME),
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
        holds = self._place.worker.holds
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
    """Gives a call its answers, in a worker's thread.

    Args:
        told: called when all are there, or none will come.
    """

    def __init__(self, call: Call, told: Callable[[], object]) -> None:
        self._call = call
        self._call.advice = LATE
        self._told = told
        self._failure: BaseException | None = None

    def hear(self, place: int, text: str, report: str) -> None:
        rest = text.partition(" ")[2].encode()
        self._take(place, _advised(rest) if rest.startswith(b"error ") else rest)

    def refuse(self, place: int, report: bytes) -> None:
        self._take(place, answer_codec.refusal(report))

    def fail(self, error: BaseException) -> None:
        self._failure = error
        self._told()

    def _take(self, place: int, answer: bytes | answer_codec.Answer) -> None:
        self._call.take(place, answer)
        if not self._call.left:
            self._told()

    def check(self) -> None:
        """Raises: RuntimeError: there will be no more answers."""
        if self._failure:
            raise RuntimeError("what runs handlers here has died") from self._failure


def _advised(rest: bytes) -> answer_codec.Answer:
    """Read an error, with what to do about it here."""
    answer = answer_codec.decode_answer(rest)
    if answer.report and (advice := ADVICE.get(answer.report["type"])):
        return answer._replace(report={**answer.report, "advice": advice})
    return answer


class LocalAsker:
    """Asks from threads. It is an ``Asker``."""

    def __init__(self, place: LocalPlace) -> None:
        self._place = place

    def ask(self, call: Call) -> None:
        worker, runtime = self._place.worker, self._place.runtime
        told = runtime.event()
        listener = _Listener(call, told.set)
        left_s = call.deadline - runtime.monotonic()
        asked = worker.named(call)
        try:
            worker.submit(asked, listener, left_s=left_s, parent=_parent(call, worker))
            told.wait(left_s)
            listener.check()
        finally:
            if call.left:
                worker.give_up(asked)

    def close(self) -> None:
        """Nothing is open."""


class AsyncLocalAsker:
    """Asks from the tasks of any number of event loops. It is an ``AsyncAsker``."""

    def __init__(self, place: LocalPlace) -> None:
        self._place = place

    async def ask(self, call: Call) -> None:
        loop = running_loop()
        worker, told = self._place.worker, asyncio.Event()
        listener = _Listener(call, partial(_tell, loop, told))
        left_s = call.deadline - self._place.runtime.monotonic()
        asked = worker.named(call)
        try:
            worker.submit(asked, listener, left_s=left_s, parent=_parent(call, worker))
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await told.wait()
            listener.check()
        finally:
            if call.left:
                worker.give_up(asked)

    async def run(self, work: Callable[[], T]) -> T:
        running_loop()
        return await asyncio.to_thread(work)

    async def close(self) -> None:
        """Nothing is open."""


def _tell(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
        loop.call_soon_threadsafe(told.set)


def _parent(call: Call, worker: LocalWorker) -> str:
    """Whose run asks, if it is one of this worker: an address of another is not the same id."""
    run = ASKING.get()
    return run.address if run and run.by is worker.runner and call.kind in NESTED else ""
