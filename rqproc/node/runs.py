"""What passes between desk and runner: a handler's run, who waits for it, what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rqproc import wire
from rqproc.app import Resource
from rqproc.cluster import Claim
from rqproc.model import Request


@dataclass(frozen=True, slots=True)
class Done:
    """A handler's value, as JSON text.

    ``at``: when the handler returned it, on the desk's clock, or the future for "now": its age does
    not wait for the worker to hear of it.
    """

    text: str
    at: float = math.inf


@dataclass(frozen=True, slots=True)
class Failed:
    """A handler's error, as its caller will see it."""

    type: str
    reason: str
    traceback: str

    @property
    def report(self) -> str:
        return wire.failure_report(self.type, self.reason, self.traceback)

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
    def report(self) -> str:
        return wire.overdue_report(self.timeout_s, stuck=self.stuck)

    @property
    def text(self) -> str:
        return f"HandlerTimeout: not done after {self.timeout_s:g} s\n"


Outcome = Done | Failed | Overdue

Slot = Literal["given back", "wanted again"]
"""A handler that waits for another id needs no slot until it has its answer."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A claim that waits for a run's end.

    Attributes:
        due: moment, on the desk's clock, at which its caller gives up; None for never.
    """

    claim: Claim
    call: wire.Call
    due: float | None


@dataclass(slots=True, eq=False)
class Run:
    """One run of a handler, and everyone who waits for it; the first of them caused it.

    Attributes:
        keeps: its value becomes an entry.
        overdue_at: moment at which it counts as stuck; None for never.
        asks: how many requests of its own it waits for.
        hold: what is released when it ends, where everyone has been answered or forgotten before.
    """

    address: str
    resource: Resource[..., Any]
    request: Request
    token: int
    waiting: list[Waiting] = field(default_factory=list)
    keeps: bool = True
    overdue_at: float | None = None
    hold: Claim | None = None
    asks: int = 0

    @property
    def deadline(self) -> float | None:
        return self.waiting[0].due if self.waiting else None

    def orphan(self) -> Claim:
        """Answer nobody any more; return the claim that keeps its address from others."""
        self.waiting.clear()
        self.keeps = False
        self.hold = Claim(f"~{self.token}", self.token, self.address, "call", "", 0, b"", 0)
        return self.hold
