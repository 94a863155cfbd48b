"""A worker without a server: what is asked in this process, it gives to a dispatcher.

It serves ``local://``, and it is the fallback of clients whose cluster cannot answer.

Knows dispatcher and runner, and does what route, claim and answer do for a node on a server: it
refuses what is too much or would close a circle, gives out tokens, and brings each answer to its
caller. Must not know clients, event loops or processes.

One thread owns all of it; callers and handlers leave messages. So no caller can be interrupted in
the middle of the dispatcher's work, whatever its signals are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from queue import Empty
from typing import Literal, NamedTuple, Protocol, TypeVar

from rqproc.calls.call import Call
from rqproc.ids import parse_address
from rqproc.local.states import LocalStates
from rqproc.local.waits import Waits
from rqproc.log_events import tell
from rqproc.node.cache import Cache
from rqproc.node.dispatcher import Dispatcher
from rqproc.node.lanes import Lanes
from rqproc.node.objects import Objects
from rqproc.node.runner import Heard, Runner
from rqproc.protocol.messages import Claim, Sent, Tally
from rqproc.protocol.node_commands import Ending
from rqproc.resource import ResourceSpec
from rqproc.runtime import Queue, Runtime, Thread
from rqproc.settings import NodeSettings
from rqproc.stats import NodeStats

log = logging.getLogger("rqproc.node")

NAME = "local"
EPOCH = 1

ALIVE_S = 1.0
"""How often a caller that waits for a word looks whether there is anyone who could give it."""

END_S = 1.0
"""A worker waits for no handler, so it takes no longer to end; nor may it keep a program from
it.
"""

T = TypeVar("T")

Asked = tuple[Sent, int]
"""One of a call's ids as it is known here, and its place."""


class AnswerListener(Protocol):
    """Who waits for answers. It is told by the worker's thread, which has no time to lose."""

    def hear(self, place: int, text: str, report: str) -> None:
        """One has ended: ``text`` is the answer to a call, as it would be published; of a job what
        RQ would keep of it, and of an error the ``report``.
        """

    def refuse(self, place: int, report: bytes) -> None: ...
    def fail(self, error: BaseException) -> None:
        """There will be no answer."""


class Survey(NamedTuple):
    """What a worker says of itself: its counts, the requests that it holds, the calls and jobs that
    somebody still waits for, and the runs that wait for others.
    """

    tally: Tally
    held: int
    awaited: int
    waiting: int


class _Pending(NamedTuple):
    """A call that has no answer yet: who waits for which of its own, and the address whose run
    does.
    """

    listener: AnswerListener
    place: int
    parent: str


class LocalWorker:
    """Serves from its start until it is stopped.

    Args:
        name: the node's, in replies.
        is_fallback: it keeps no values and gives no tokens, for the nodes of a cluster may compute
            the same; and it refuses a single request that would have to wait for a lane.

    Attributes:
        runner: who runs the handlers; those that it runs ask in the name of their addresses.
    """

    def __init__(
        self, namespace: str, resources: Mapping[str, ResourceSpec], *, runtime: Runtime,
        settings: NodeSettings, name: str = NAME, is_fallback: bool = False,
    ) -> None:  # fmt: skip
        self._name = name
        self._resources = resources
        self._settings = settings
        self._is_fallback = is_fallback
        self._clock = clock = runtime.suspend_proof
        cache = Cache(name, settings.max_entries, settings.max_bytes)
        objects = Objects(
            LocalStates(), owns=cache.owns, clock=clock, most=settings.max_entries,
            wake=lambda: self._inbox.put(_nothing),
        )  # fmt: skip
        self._dispatcher = Dispatcher(
            name, resources, cache=cache, lanes=Lanes(settings.concurrency), clock=clock,
            max_waiters=settings.max_waiters, chance=runtime.chance, objects=objects,
        )  # fmt: skip
        if not is_fallback:  # which owns nothing, and so keeps nothing
            self._dispatcher.learn(EPOCH, (name,))
        # From the clock, so that a program's later runs have higher ones too.
        self._tokens = count(int(runtime.now() * 1e6))
        self._numbers = count()
        self._waits = Waits()
        self._pending: dict[str, _Pending] = {}
        self._inbox: Queue[Callable[[], object] | None] = runtime.queue()
        self._failure: BaseException | None = None
        self._runtime = runtime
        self._serving: dict[str, list[Thread]] = {}
        self._over = False
        self.runner = Runner(
            name, namespace, runtime=runtime, report=self._report, has_tokens=not is_fallback,
            objects=objects,
        )  # fmt: skip

    # --- called from other threads ---

    @property
    def is_started(self) -> bool:
        return bool(self._serving)

    def start(self) -> None:
        """Have a thread serve; to be called again where it was interrupted."""
        me: list[Thread] = []
        thread = self._runtime.thread(partial(self._serve, me), name="rqproc-local")
        me.append(thread)
        thread.start()

    def named(self, call: Call) -> list[Asked]:
        """Return the ids of a call, by names that nothing else has."""
        # The names are such as ``reader.CALL`` matches: of a call without arguments the reader
        # takes the address for all that is asked, and there need be no data.
        number = next(self._numbers)
        asked: list[Asked] = []
        for place in call.missing():
            address = call.addresses[place]
            data = b"" if call.kind == "c" else call.data(place)
            name = f"r0-{call.kind}{number:x}_{place}-{address}"
            asked.append((Sent(name, address, data), place))
        return asked

    def submit(
        self, asked: Sequence[Asked], listener: AnswerListener, *, left_s: float, parent: str
    ) -> None:
        """Take in a call; each of its ids is answered or refused, unless it is given up before.

        Args:
            left_s: seconds until its caller gives up.
            parent: the address of the run that asks, if this worker runs it.
        """
        self._post(partial(self._submit, asked, listener, self._clock() + left_s, parent))

    def enqueue(self, jobs: Sequence[Sent], listeners: Iterable[AnswerListener]) -> list[bytes]:
        """Take in jobs, each with a listener of its own; return for each b"" or its refusal."""
        return self._call(
            lambda: [
                self._enter(job, "job", _Pending(listener, 0, ""))
                for job, listener in zip(jobs, listeners, strict=True)
            ]
        )

    def give_up(self, asked: Iterable[Asked]) -> None:
        """Nobody waits any more for what has no answer: it is not begun, if it was not."""
        self._post(partial(self._give_up, [sent.id for sent, _ in asked]))

    def survey(self) -> Survey:
        dispatcher, pending = self._dispatcher, self._pending
        return self._call(
            lambda: Survey(dispatcher.tally(), dispatcher.held, len(pending), len(self._waits))
        )

    def stats(self) -> NodeStats:
        return self._call(self._dispatcher.stats)

    def holds(self, address: str) -> bool:
        """Whether any request of an address is under way."""
        return self._call(lambda: self._dispatcher.held_of(address) > 0)

    def stop(self) -> None:
        """End soon. What runs then runs on for nobody."""
        self._inbox.put(None)

    def join(self) -> None:
        for thread in self._serving.get("by", ()):
            thread.join(END_S)

    # --- called from threads of handlers ---

    def _report(self, heard: Sequence[Heard]) -> None:
        self._inbox.put(partial(self._take_in, heard))

    # --- how other threads leave work ---

    def _post(self, work: Callable[[], object]) -> None:
        if self._failure:
            raise RuntimeError("what runs handlers here has died") from self._failure
        self._inbox.put(work)

    def _call(self, work: Callable[[], T]) -> T:
        found: list[T] = []
        told = self._runtime.event()

        def do() -> None:
            found.append(work())
            told.set()

        self._post(do)
        while not told.wait(ALIVE_S):
            if self._over:
                raise RuntimeError("what runs handlers here has ended") from self._failure
        return found[0]

    # --- its own thread ---

    def _serve(self, me: list[Thread]) -> None:
        if self._serving.setdefault("by", me) is not me:
            return  # whoever started this one was interrupted before
        try:
            while work := self._next():
                work()
                del work  # it may be all that keeps an app, while the next one is waited for
                self._work_off()
            self._close_objects()
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it was
            text = "what runs handlers in this process has died"
            tell(log, "runner_died", text, exc_info=error, error=error)
            self._failure = error
            for pending in self._pending.values():
                pending.listener.fail(error)
        finally:
            self._over = True
            self.runner.stop()

    def _close_objects(self) -> None:
        """It ends: no object is left open, if none takes longer than its end may."""
        end = self._clock() + END_S
        while (left_s := end - self._clock()) > 0 and self._dispatcher.has_objects:
            self._dispatcher.close_objects(every=True)
            self._work_off()
            with suppress(Empty):
                if work := self._inbox.get(timeout=left_s):
                    work()

    def _next(self) -> Callable[[], object] | None:
        dispatcher = self._dispatcher
        moments = (dispatcher.scheduler.due_at, dispatcher.idle_at)
        due_at = min((moment for moment in moments if moment is not None), default=None)
        left_s = None if due_at is None else max(0.0, due_at - self._clock())
        try:
            return self._inbox.get(timeout=left_s)
        except Empty:
            return _nothing

    def _work_off(self) -> None:
        """Start what may run now, and bring the answers that there are."""
        dispatcher = self._dispatcher
        dispatcher.scheduler.mind_the_time()
        dispatcher.close_objects()
        while run := dispatcher.scheduler.next_run():
            self.runner.start(run)
        endings = dispatcher.collect()
        for ending in endings:
            self._answer(ending)
        dispatcher.acknowledged(endings)

    def _answer(self, ending: Ending) -> None:
        """Given up, or answered before where a stuck run has ended: then nobody hears it."""
        how, name, _, text, extra = map(str, ending)
        if pending := self._pending.pop(name, None):
            self._waits.end(pending.parent, name)
            if not how.endswith(":expired"):
                pending.listener.hear(pending.place, text, extra if how.startswith("job") else "")

    def _take_in(self, heard: Sequence[Heard]) -> None:
        for run, news in heard:
            if isinstance(news, str):
                self._dispatcher.scheduler.change_slot(run, news)
            else:
                self._dispatcher.scheduler.complete(run, news)

    def _submit(
        self, asked: Sequence[Asked], listener: AnswerListener, due: float, parent: str
    ) -> None:
        queues = not self._is_fallback or len(asked) > 1
        for one, place in asked:
            pending = _Pending(listener, place, parent)
            if refused := self._enter(one, "call", pending, due=due, queues=queues):
                listener.refuse(place, refused)

    def _enter(
        self, sent: Sent, what: Literal["call", "job"], pending: _Pending, *,
        due: float | None = None, queues: bool = True,
    ) -> bytes:  # fmt: skip
        """Give a request to the dispatcher; return b"", or the report of why not.

        ``queues``: it may wait for a lane that is free.
        """
        refusal = self._refusal(sent.address, queues=queues) or self._note_wait(
            sent, pending.parent
        )
        if refusal:
            return json.dumps(refusal).encode()
        self._pending[sent.id] = pending
        data = sent.data.encode() if isinstance(sent.data, str) else sent.data
        claim = Claim(sent.id, what, sent.address, next(self._tokens), 0, data)
        self._dispatcher.receive(claim, due=due)
        return b""

    def _refusal(self, address: str, *, queues: bool) -> dict[str, object] | None:
        """What is too much. A node holds as many requests as may wait for it."""
        limits, dispatcher = self._settings, self._dispatcher
        held = dispatcher.held_of(address)
        if held >= limits.max_waiters:
            return self._too_many("Crowded", held, limits.max_waiters)
        waiting = dispatcher.held - dispatcher.scheduler.held_by_paused
        queued = waiting - limits.max_queue
        if queued >= limits.max_queue:
            return self._too_many("Overloaded", queued, limits.max_queue)
        if not (queues or held or dispatcher.scheduler.room):
            return self._too_many("LocallyOverloaded", limits.concurrency, limits.concurrency)
        return None

    def _note_wait(self, sent: Sent, parent: str) -> dict[str, object] | None:
        """Note whom a run waits for; where that would close a circle, return the refusal."""
        if parent and (way := self._waits.add(parent, sent.id, sent.address)):
            return {"type": "RequestCycle", "way": [self._readable(address) for address in way]}
        return None

    def _too_many(self, type: str, queued: int, limit: int) -> dict[str, object]:
        return {"type": type, "node": self._name, "queued": queued, "limit": limit}

    def _readable(self, address: str) -> str:
        _, name, id = parse_address(address)
        resource = self._resources.get(name)
        return f"{resource.name if resource else name}:{id}"

    def _give_up(self, names: Iterable[str]) -> None:
        left = {name for name in names if name in self._pending}
        for name in left:
            self._waits.end(self._pending.pop(name).parent, name)
        if left:
            self._dispatcher.scheduler.give_up({name.encode() for name in left})


def _nothing() -> None:
    """Time has passed: what has taken too long is to be minded."""
