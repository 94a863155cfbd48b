"""How requests enter a worker without a server, and how their answers leave it.

Knows limits, tokens, who waits for whom, and whose each request is: it does what ``routing.lua``,
``running.lua``, ``nested.lua`` and ``answering.lua`` do for a node on a server. Must not know
threads, nor how a handler is run. Used by the worker's thread alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from rqproc.ids import parse_address
from rqproc.local.waits import Waits
from rqproc.node.dispatcher import Dispatcher
from rqproc.protocol.messages import Claim, Sent
from rqproc.protocol.node_commands import Ending
from rqproc.resource import ResourceSpec
from rqproc.settings import NodeSettings

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


class _Pending(NamedTuple):
    """A call that has no answer yet: who waits for which of its own, and the address whose run
    does.
    """

    listener: AnswerListener
    place: int
    parent: str


class Routing:
    """The requests of one worker that somebody waits for.

    Args:
        node: the worker's name, in refusals.
        tokens: rise from one to the next.
        queues: a single request may wait for a lane; one of several always may.
    """

    def __init__(
        self, node: str, resources: Mapping[str, ResourceSpec], dispatcher: Dispatcher, *,
        settings: NodeSettings, tokens: Iterator[int], queues: bool,
    ) -> None:  # fmt: skip
        self._node = node
        self._resources = resources
        self._dispatcher = dispatcher
        self._limits = settings
        self._tokens = tokens
        self._queues = queues
        self._waits = Waits()
        self._pending: dict[str, _Pending] = {}

    @property
    def awaited(self) -> int:
        """How many calls and jobs somebody still waits for."""
        return len(self._pending)

    @property
    def waiting(self) -> int:
        """How many runs wait for others."""
        return len(self._waits)

    # --- requests ---

    def submit(
        self, asked: Sequence[Asked], listener: AnswerListener, *, due: float, parent: str
    ) -> None:
        """Take in a call; each of its ids is refused, or answered unless it is given up before.

        Args:
            due: when its caller gives up, on the dispatcher's clock.
            parent: the address of the run that asks, if this worker runs it.
        """
        queues = self._queues or len(asked) > 1
        for one, place in asked:
            pending = _Pending(listener, place, parent)
            if refused := self._enter(one, "call", pending, due=due, queues=queues):
                listener.refuse(place, refused)

    def enqueue(self, jobs: Sequence[Sent], listeners: Iterable[AnswerListener]) -> list[bytes]:
        """Take in jobs, each with a listener of its own; return for each b"" or its refusal."""
        return [
            self._enter(job, "job", _Pending(listener, 0, ""))
            for job, listener in zip(jobs, listeners, strict=True)
        ]

    def give_up(self, names: Iterable[str]) -> None:
        """Nobody waits for these any more; one that has its answer is left alone."""
        left = {name for name in names if name in self._pending}
        for name in left:
            self._waits.end(self._pending.pop(name).parent, name)
        if left:
            self._dispatcher.scheduler.give_up({name.encode() for name in left})

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
        """Return the refusal, None where there is room. As a node it holds as many requests as may
        wait for it: what is beyond those waits in a queue.
        """
        limits, dispatcher = self._limits, self._dispatcher
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
        return {"type": type, "node": self._node, "queued": queued, "limit": limit}

    def _readable(self, address: str) -> str:
        _, name, id = parse_address(address)
        resource = self._resources.get(name)
        return f"{resource.name if resource else name}:{id}"

    # --- answers ---

    def answer(self, ending: Ending) -> None:
        """Give an ending to its listener; what was given up, or answered before, has none."""
        how, name, _, text, extra = map(str, ending)
        if pending := self._pending.pop(name, None):
            self._waits.end(pending.parent, name)
            if not how.endswith(":expired"):
                pending.listener.hear(pending.place, text, extra if how.startswith("job") else "")

    def fail(self, error: BaseException) -> None:
        """There will be no answer to anything."""
        for pending in self._pending.values():
            pending.listener.fail(error)
