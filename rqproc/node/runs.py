"""What passes between dispatcher and runner: a handler's run, who waits for it, what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rqproc.ids import parse_address, request_name
from rqproc.model import Request
from rqproc.protocol import answer_codec
from rqproc.protocol.codec import Serializer
from rqproc.resource import ResourceSpec
from rqproc.tracing import Carrier


@dataclass(frozen=True, slots=True)
class Done:
    """A handler's value, as JSON text.

    ``at``: when the handler returned it, on the dispatcher's clock, or the future for "now": its
    age does not wait for the worker to hear of it.
    ``ttl_s``: seconds for which its handler wants it kept; None where the resource says.
    """

    text: str
    at: float = math.inf
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A handler's error, as its caller will see it.

    ``remembered``: it answers those who ask later, too.
    """

    type: str
    reason: str
    traceback: str
    remembered: bool = False

    @property
    def kind(self) -> str:
        """The type by which it is counted; so of each failure."""
        return self.type

    @property
    def report(self) -> str:
        return answer_codec.failure_report(self.type, self.reason, self.traceback)

    @property
    def text(self) -> str:
        return self.traceback or f"{self.type}: {self.reason}\n"


@dataclass(frozen=True, slots=True)
class Overdue:
    """The handler took longer than its resource allows.

    ``stuck``: it runs on, since a thread cannot be ended.
    """

    timeout_s: float
    stuck: bool

    @property
    def kind(self) -> str:
        return "HandlerTimeout"

    @property
    def report(self) -> str:
        return answer_codec.overdue_report(self.timeout_s, stuck=self.stuck)

    @property
    def reason(self) -> str:
        return f"not done after {self.timeout_s:g} s"

    @property
    def traceback(self) -> str:
        """It has not raised."""
        return ""

    @property
    def text(self) -> str:
        return f"{self.kind}: {self.reason}\n"


@dataclass(frozen=True, slots=True)
class RefusedRun:
    """It is answered with an error without having been run."""

    report: str
    text: str

    @property
    def kind(self) -> str:
        return answer_codec.kind_of(self.report)


Failure = Failed | Overdue | RefusedRun
Outcome = Done | Failed | Overdue

Slot = Literal["given back", "wanted again"]
"""A handler that waits for another id needs no slot until it has its answer."""


@dataclass(slots=True, eq=False)
class Taken:
    """A call or a job that this node has taken, until the server has acknowledged its end.

    Attributes:
        id: as the cluster knows it.
        address: of what it asks for; ``key`` is the same as bytes, by which all is looked up here.
        token: of its claim; 0 where it has none, since it joined a run.
        due: moment, on the dispatcher's clock, at which its caller gives up; None if that is
            unknown, or never.
        serializer: of a job, in which it wants its value; None of a call. A job without a token
            waits for its turn; then it is claimed.
        ended: it has its answer, which may still be on its way to the server.
        holds: it is a run that nobody is answered for any more, but keeps its id from others.
        stopped: a job that RQ has been told to stop: it ends so when its run does.
        renews: it wants a value that is newer than all that callers keep.
        since: moment, on the dispatcher's clock, at which it was queued, or taken if that is not
            known.
        trace: the context of its caller's span; None where it brought none.
    """

    id: bytes
    address: str
    key: bytes
    token: int = 0
    due: float | None = None
    serializer: Serializer | None = None
    ended: bool = False
    holds: bool = False
    stopped: bool = False
    renews: bool = False
    since: float = 0.0
    trace: Carrier | None = None

    @property
    def name(self) -> str:
        """The id as text."""
        return self.id.decode(errors="surrogateescape")


@dataclass(slots=True, eq=False)
class HandlerRun:
    """One run of a handler, and everyone who waits for it; the first of them caused it.

    Attributes:
        keeps: its value becomes an entry.
        asks: how many requests of its own it waits for.
        job: what it was started for; None where that was a call.
        hold: what is released when it ends, where everyone has been answered or forgotten before.
        is_refresh: it was begun for those who come later: whoever caused it was answered before.
        batch: all runs that one call of a batch handler makes, this one too, of which the first
            stands for all; empty before they begin, when they have ended, and of other handlers.
        closes: it is an object's last, and for nobody; see ``objects``.
        given: the value that it comes to, where a caller has given it and no handler is run.
        queued_at: moment, on the dispatcher's clock, at which it was to be made.
        began_at: moment, on the dispatcher's clock, at which its handler was called.
    """

    address: str
    key: bytes
    resource: ResourceSpec
    request: Request
    token: int
    waiting: list[Taken] = field(default_factory=list)
    keeps: bool = True
    job: Taken | None = None
    hold: Taken | None = None
    asks: int = 0
    is_refresh: bool = False
    closes: bool = False
    batch: Sequence[HandlerRun] = ()
    given: Done | None = None
    queued_at: float = 0.0
    began_at: float = 0.0

    @property
    def about(self) -> dict[str, Any]:
        """Fields of what is logged of it; the request is the one that caused it."""
        _, resource, id = parse_address(self.address)
        first = self.hold or next(iter(self.waiting), None)
        return {
            "resource": resource,
            "id": id,
            "request": request_name(first.name) if first else "",
        }

    @property
    def made_together(self) -> Sequence[HandlerRun]:
        """The runs that one call makes, be it this one alone."""
        return self.batch or (self,)

    @property
    def unclaimed(self) -> Taken | None:
        """The job that is to be claimed before this starts; None where that need not be."""
        if any(taken.token and not taken.ended for taken in self.waiting):
            return None
        jobs = (one for one in self.waiting if one.serializer is not None and not one.ended)
        return next(jobs, None)

    @property
    def deadline(self) -> float | None:
        return self.waiting[0].due if self.waiting else None

    def orphan(self) -> Taken:
        """Answer nobody any more; return what keeps its address from others."""
        self.waiting.clear()
        self.keeps = False
        self.hold = Taken(b"~%d" % self.token, self.address, self.key, self.token, holds=True)
        return self.hold
