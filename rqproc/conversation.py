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
from typing import Any, TypeVar

from rqproc.backoff import Backoff, Chance
from rqproc.cluster import Cluster, Order
from rqproc.errors import RedisUnavailable
from rqproc.link import Command, LinkLost, Refused
from rqproc.model import OnLost
from rqproc.wanted import Wanted

T = TypeVar("T")

OUTAGE_S = 3.0
"""Seconds that an unreachable Redis is waited for before RedisUnavailable: a restart passes
unnoticed, a wrong URL is told within five seconds."""

REPLY_GRACE_S = 1.5
"""Seconds past a blocking read's end after which the server itself is late."""

NUDGE_S = 2.0
"""Seconds after which whoever still waits sends its calls again; a quarter of the timeout if that
is sooner."""

SHORTEST_ERROR_BYTES = 20
"""``-NOSCRIPT No matching script.`` has 31, and the others are longer."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send commands in one packet; every reply is due within ``within_s`` seconds.

    ``prelude_bytes``: see ``Link.exchange``.
    """

    commands: tuple[Command, ...]
    within_s: float
    prelude_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


SHORTEST_PAUSE_S = 0.001

Conversation = Generator[Send | Pause, Any, T]
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
    cluster: Cluster, script: str, command: Command, *, server: str, clock: Clock
) -> Conversation[Any]:
    """Run one idempotent script, through a short outage if need be; return its reply.

    Raises:
        RedisUnavailable: not reachable, or it refuses the command.
    """
    patience = _Patience(server, clock)
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
    cluster: Cluster, wanted: Wanted, *, litter: Sequence[str], server: str, clock: Clock,
    on_lost: OnLost = "wait",
) -> Conversation[None]:  # fmt: skip
    """Route calls and wait for their answers, in one packet where nothing goes wrong.

    ``litter`` are keys that earlier calls have left; they are removed in the same packet. The
    answers stand in ``wanted``; those that did not come in time are missing.

    Whoever still waits after a while sends the calls without an answer again; see ``wanted``.

    With ``on_lost`` other than "wait", calls that are lost by half of the timeout are withdrawn:
    the reason stands for their answer. Nobody living is an answer then, known calls or not, and an
    outage is not waited out.

    Raises:
        RedisUnavailable: it refuses the command; or it is not reachable, by the deadline if it has
            had these calls, else for ``OUTAGE_S``.
    """
    began = clock()
    end = began + wanted.timeout_s
    pace = _pace(wanted.timeout_s, on_lost)
    patience = _Patience(server, clock)
    patience.limit_s = pace.first_outage_s
    before: tuple[Command, ...] = (("UNLINK", *litter),) if litter else ()
    nudge_at, known = began, False
    while wanted and (left_s := end - (now := clock())) > 0:
        late = now - began >= pace.withdraw_s
        if now >= nudge_at:
            before = (*before, *_demands(cluster, wanted.send(), left_s=left_s, late=late))
            nudge_at = began + pace.next_nudge_s(now - began)
        wait_s = max(round(min(left_s, nudge_at - now), 3), 0.001)  # as XREAD counts; 0 is for ever
        try:
            replies = yield Send(
                (*before, wanted.read(wait_s)),
                within_s=wait_s + pace.grace_s,
                prelude_bytes=_size(before, len(wanted)),
            )
        except (LinkLost, Refused) as error:
            wanted.sure &= isinstance(error, Refused)  # what is refused has arrived
            yield patience.after(error)
            before, nudge_at = _with_script(cluster, error, *pace.scripts), clock()
            continue
        patience.renew()
        patience.limit_s = pace.outage_s
        wanted.take_in(replies[-1] or (), known=known)
        before, known = (), on_lost == "wait"
    if wanted:
        patience.check()
        wanted.give_up()


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
    scripts: tuple[str, ...] = ("route", "withdraw")

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
        return _Pace(slice_s, REPLY_GRACE_S, OUTAGE_S, math.inf, math.inf, ("route",))
    grace_s, outage_s = min(OUTAGE_S - NUDGE_S, slice_s), min(OUTAGE_S - 0.5, timeout_s / 4)
    return _Pace(slice_s, grace_s, outage_s, outage_s, timeout_s / 2)


def _demands(
    cluster: Cluster, orders: Sequence[Order], *, left_s: float, late: bool
) -> list[Command]:
    """Calls are taken back where they are lost before they are asked for again."""
    routes = [cluster.route(order, timeout_s=left_s) for order in orders]
    if not late:
        return routes
    return [*(cluster.withdraw(order, timeout_s=left_s) for order in orders), *routes]


def _size(before: tuple[Command, ...], calls: int) -> int:
    """Bytes of the replies that tell a caller nothing: ``:1`` of UNLINK, an empty text per call.

    Never as many as the shortest error of a server has: an error must wake the caller.
    """
    if not before:
        return 0
    return min(4 * len(before) + 6 * calls, SHORTEST_ERROR_BYTES - 1)
