"""A worker without a server: what is asked in this process, it gives to a dispatcher.

It serves ``local://``, and it is the fallback of clients whose cluster cannot answer.

Knows dispatcher and runner, and the thread in which they work; what a server would do for them,
``routing`` does. Must not know clients, event loops or processes.

One thread owns all of it; callers and handlers leave messages. So no caller can be interrupted in
the middle of the dispatcher's work, whatever its signals are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from queue import Empty
from typing import NamedTuple, TypeVar

from rqproc.calls.call import Call
from rqproc.local.routing import AnswerListener, Asked, Routing
from rqproc.local.states import LocalStates
from rqproc.log_events import tell
from rqproc.node.cache import Cache
from rqproc.node.dispatcher import Dispatcher
from rqproc.node.lanes import Lanes
from rqproc.node.objects import Objects
from rqproc.node.runner import Heard, Runner
from rqproc.protocol.messages import Sent, Tally
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


class Survey(NamedTuple):
    """What a worker says of itself: its counts, the requests that it holds, the calls and jobs that
    somebody still waits for, and the runs that wait for others.
    """

    tally: Tally
    held: int
    awaited: int
    waiting: int


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
        tokens = count(int(runtime.now() * 1e6))
        self._routing = Routing(
            name, resources, self._dispatcher, settings=settings, tokens=tokens,
            queues=not is_fallback,
        )  # fmt: skip
        self._numbers = count()
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
        due, submit = self._clock() + left_s, self._routing.submit
        self._post(partial(submit, asked, listener, due=due, parent=parent))

    def enqueue(self, jobs: Sequence[Sent], listeners: Iterable[AnswerListener]) -> list[bytes]:
        """Take in jobs, each with a listener of its own; return for each b"" or its refusal."""
        return self._call(partial(self._routing.enqueue, jobs, listeners))

    def give_up(self, asked: Iterable[Asked]) -> None:
        """Nobody waits any more for what has no answer: it is not begun, if it was not."""
        self._post(partial(self._routing.give_up, [sent.id for sent, _ in asked]))

    def survey(self) -> Survey:
        dispatcher, routing = self._dispatcher, self._routing
        return self._call(
            lambda: Survey(
                dispatcher.figures.tally(), dispatcher.held, routing.awaited, routing.waiting
            )
        )

    def stats(self) -> NodeStats:
        return self._call(self._dispatcher.figures.stats)

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
            self._routing.fail(error)
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
            self._routing.answer(ending)
        dispatcher.acknowledged(endings)

    def _take_in(self, heard: Sequence[Heard]) -> None:
        for run, news in heard:
            if isinstance(news, str):
                self._dispatcher.scheduler.change_slot(run, news)
            else:
                self._dispatcher.scheduler.complete(run, news)


def _nothing() -> None:
    """Time has passed: what has taken too long is to be minded."""
