"""What a caller says to the cluster, step by step, without any input or output.

Each function here is a generator: it yields what is to be done (send these commands, pause) and is
sent the replies, or has the connection's failure thrown in. The blocking client and the asyncio
client are thin loops around the same generators, so there is one place that knows when a request
may be sent again: always, since the scripts know a job's id when they see it twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from rqproc.backoff import Backoff, Chance
from rqproc.cluster import Cluster
from rqproc.errors import RedisUnavailable
from rqproc.link import Command, LinkLost, Refused
from rqproc.model import OnLost
from rqproc.packets import MOST_GRACE_S, Demand
from rqproc.wanted import Wanted

T = TypeVar("T")

OUTAGE_S = 3.0
"""Seconds that an unreachable Redis is waited for before RedisUnavailable: a restart passes
unnoticed, a wrong URL is told within five seconds."""

REPLY_GRACE_S = MOST_GRACE_S
"""Seconds past a blocking read's end after which the server itself is late."""

NUDGE_S = 2.0
"""Seconds after which whoever still waits sends its calls again; a quarter of the timeout if that
is sooner."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send commands in one packet; every reply is due within ``within_s`` seconds."""

    commands: tuple[Command, ...]
    within_s: float


class Look(NamedTuple):
    """Have something done, and wait for answers: until one comes, or for ``wait_s`` seconds.

    ``grace_s``: seconds past that after which the server itself is late.
    """

    demands: Sequence[Demand]
    wait_s: float
    grace_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


SHORTEST_PAUSE_S = 0.001

Conversation = Generator[Send | Pause, Any, T]
Request = Generator[Look | Pause, Any, None]
Clock = Callable[[], float]


class _Patience:
    """Decides, after a failed packet, how long to pause and when to give up."""

    def __init__(self, server: str, clock: Clock, *, chance: Chance = random.random) -> None:
        self._server = server
        self._clock = clock
        self._since: float | None = None
        self._backoff = Backoff(shortest_s=0.01, longest_s=0.5, chance=chance)
        self._last: LinkLost | Refused | None = None
        self._told = False
        self.limit_s = OUTAGE_S

    def renew(self) -> None:
        self._since, self._last, self._told = None, None, False
        self._backoff.reset()

    def check(self) -> None:
        """Raises: RedisUnavailable: time is over, and the last packet failed."""
        if self._last is not None:
            raise self._over(self._last) from self._last

    def after(self, error: LinkLost | Refused) -> Pause:
        """Raises: RedisUnavailable: the error will not pass, or has lasted too long."""
        if isinstance(error, Refused) and not error.passing:
            raise self._over(error) from error
        if isinstance(error, Refused) and error.code == "NOSCRIPT" and not self._told:
            self._told = True  # the server is there: the next packet tells it the script
            return Pause(0.0)
        now = self._clock()
        self._last = error
        if self._since is None:
            self._since = now - (error.spent_s if isinstance(error, LinkLost) else 0.0)
        left_s = self._since + self.limit_s - now
        if left_s < SHORTEST_PAUSE_S:
            raise self._over(error) from error
        return Pause(min(self._backoff.next_s(), left_s))

    def _over(self, error: LinkLost | Refused) -> RedisUnavailable:
        return RedisUnavailable(self._server, str(error), advice=error.advice)


def run(
    cluster: Cluster, script: str, command: Command, *, server: str, clock: Clock,
    chance: Chance = random.random,
) -> Conversation[Any]:  # fmt: skip
    """Run one idempotent script, through a short outage if need be; return its reply.

    Raises:
        RedisUnavailable: not reachable, or it refuses the command.
    """
    patience = _Patience(server, clock, chance=chance)
    commands: tuple[Command, ...] = (command,)
    while True:
        try:
            replies = yield Send(commands, within_s=OUTAGE_S)
        except (LinkLost, Refused) as error:
            commands = (*_with_script(cluster, error, script), command)
            yield patience.after(error)
        else:
            return replies[-1]


def _with_script(cluster: Cluster, error: LinkLost | Refused, *scripts: str) -> tuple[Command, ...]:
    """A server that does not know the scripts is told them in the next packet."""
    unknown = isinstance(error, Refused) and error.code == "NOSCRIPT"
    return cluster.load(*scripts) if unknown else ()


def ask(
    wanted: Wanted, *, server: str, clock: Clock, on_lost: OnLost = "wait",
    chance: Chance = random.random,
) -> Request:  # fmt: skip
    """Have calls routed and wait for their answers.

    The answers stand in ``wanted``; those that did not come in time are missing. Whoever still
    waits after a while sends the calls without an answer again; see ``wanted``.

    With ``on_lost`` other than "wait", calls that are lost by half of the timeout are withdrawn:
    the reason stands for their answer. Nobody living is an answer then, known calls or not, and an
    outage is not waited out.

    Raises:
        RedisUnavailable: it refuses the command; or it is not reachable, by the deadline if it has
            had these calls, else for ``OUTAGE_S``.
    """
    plan = _Plan(wanted, on_lost, clock)
    patience: _Patience | None = None
    look: Look | None = plan.first()
    while look:
        try:
            yield look
        except (LinkLost, Refused) as error:
            if wanted:
                patience = patience or _Patience(server, clock, chance=chance)
                patience.limit_s = plan.outage_s
                yield patience.after(error)
            plan.nudge_now()
        else:
            if patience and wanted.heard:
                patience.renew()
        look = plan.next()
    if patience and wanted:
        patience.check()
    wanted.give_up()


class _Plan:
    """What one caller does when, as long as answers are missing."""

    def __init__(self, wanted: Wanted, on_lost: OnLost, clock: Clock) -> None:
        self._wanted = wanted
        self._on_lost = on_lost
        self._clock = clock
        self._pace = _pace(wanted.order.timeout_s, on_lost)
        self._began = clock()
        self._end = self._began + wanted.order.timeout_s
        self._nudge_at = self._began + self._pace.next_nudge_s(0.0)

    @property
    def outage_s(self) -> float:
        """How long the server may be away."""
        return self._pace.outage_s if self._wanted.carried else self._pace.first_outage_s

    def first(self) -> Look:
        order = self._wanted.order
        wait_s = self._nudge_at - self._began
        return Look((Demand(order, order.timeout_s),), wait_s, self._pace.grace_s)

    def nudge_now(self) -> None:
        """A packet has failed: what it carried is sent again."""
        self._wanted.heard = False
        self._nudge_at = self._clock()

    def next(self) -> Look | None:
        """Return what is done now; None where all is answered, or time is over."""
        now = self._clock()
        left_s = self._end - now
        if not self._wanted or left_s <= 0:
            return None
        demands: tuple[Demand, ...] = ()
        if now >= self._nudge_at:
            spent_s = now - self._began
            demands = (self._nudge(left_s, spent_s),)
            self._nudge_at = self._began + self._pace.next_nudge_s(spent_s)
        return Look(demands, min(left_s, self._nudge_at - now), self._pace.grace_s)

    def _nudge(self, left_s: float, spent_s: float) -> Demand:
        """Calls are taken back where they are lost before they are asked for again."""
        return Demand(
            self._wanted.missing(),
            left_s,
            again=True,
            quiet=self._wanted.carried and self._on_lost == "wait",
            withdraw=spent_s >= self._pace.withdraw_s,
        )


@dataclass(frozen=True, slots=True)
class _Pace:
    """How long a caller waits for what.

    Attributes:
        slice_s: for an answer, before the calls are sent again.
        grace_s: for the server, past that.
        first_outage_s, outage_s: for a server that is away, before and after it has had the calls.
        withdraw_s: for the node, before it is looked at.
    """

    slice_s: float
    grace_s: float
    first_outage_s: float
    outage_s: float
    withdraw_s: float

    def next_nudge_s(self, spent_s: float) -> float:
        """When, after the beginning, the calls are sent again if they are sent now."""
        next_s = spent_s + self.slice_s
        return next_s if spent_s >= self.withdraw_s else min(next_s, self.withdraw_s)


@lru_cache(maxsize=64)
def _pace(timeout_s: float, on_lost: OnLost) -> _Pace:
    """Whoever does not want to wait knows within half of its timeout that Redis is away.

    An outage is found out of by packets with pauses up to half a second between them.
    """
    slice_s = min(NUDGE_S, timeout_s / 4)
    if on_lost == "wait":
        return _Pace(slice_s, REPLY_GRACE_S, OUTAGE_S, math.inf, math.inf)
    grace_s, outage_s = min(OUTAGE_S - NUDGE_S, slice_s), min(OUTAGE_S - 0.5, timeout_s / 4)
    return _Pace(slice_s, grace_s, outage_s, outage_s, timeout_s / 2)
