"""When a caller asks again, for how long, and when it gives up. Without input or output.

Knows pending calls, failures and a clock that it is given. Must not know how anything is sent.

Whoever still waits after a while asks again for what has no answer. That drops nodes which have
died where nobody else asks, brings back what a server has lost, and notices one that stands still.
Nothing is run twice for it, since every call has one id for good:

  1. It is queued or runs: the server knows it. Nothing is done; but what a node was sent and may
     not have got is queued for it once more.
  2. A run has answered it, and that was lost on its way: such answers are kept, and given again.
  3. A hit has answered it: it is looked up anew.
  4. The server has lost its data: the call is queued anew. A run that was begun before counts if
     the server is told of it again, under the same id; else it is run again, for its answer is
     refused.
  5. Nobody may live then, for the nodes have to join anew first. A call that was known before is
     not given up for that, unless it still stands so at its deadline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from rqproc.calls.call import Call
from rqproc.errors import RedisUnavailable
from rqproc.model import OnLost
from rqproc.runtime import Chance
from rqproc.transport.backoff import Backoff
from rqproc.transport.connection import ConnectionLost, Refused

OUTAGE_S = 3.0
"""Seconds that an unreachable Redis is waited for before RedisUnavailable: a restart passes
unnoticed, a wrong URL is told within five seconds."""

GRACE_S = 1.5
"""Seconds after which a server is late with the reply to a command that does not wait."""

NUDGE_S = 2.0
"""Seconds after which whoever still waits asks again; a quarter of the timeout if that is sooner.
"""

SHORTEST_S = 0.001
"""Less than this many seconds is no time any more; a server takes 0 as for ever."""

SHORTEST_LOOK_S = 0.25
"""The least time that an answer is waited for before a server is asked again."""

Clock = Callable[[], float]


class Look(NamedTuple):
    """One wait for answers, until all are there or its time is over, and what is sent before it.

    Attributes:
        wait_s: seconds that answers are waited for.
        grace_s: seconds after which the server itself is late.
        again: whether what has no answer is asked again; what was never sent is sent anyway.
        withdraw: whether it is taken back first, if it is lost.
    """

    wait_s: float
    grace_s: float
    again: bool = False
    withdraw: bool = False

    @property
    def connect_s(self) -> float:
        """Seconds that an attempt to connect may take for it."""
        return max(self.wait_s, self.grace_s)


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


Steps = Generator[Look | Pause, None, None]


class Patience:
    """Decides, after a failure, how long to pause and when to give up.

    Args:
        server: its address, for the error.
    """

    def __init__(self, server: str, clock: Clock, *, chance: Chance) -> None:
        self._server = server
        self._clock = clock
        self._since: float | None = None
        self._backoff = Backoff(shortest_s=0.01, longest_s=0.5, chance=chance)
        self._last: ConnectionLost | Refused | None = None
        self._loaded = False
        self.limit_s = OUTAGE_S

    def renew(self) -> None:
        self._since, self._last, self._loaded = None, None, False
        self._backoff.reset()

    @property
    def look_s(self) -> float:
        """For how long a server that was away may be looked at before it is given up."""
        if self._last is None or self._since is None:
            return math.inf
        return max(SHORTEST_LOOK_S, self._since + self.limit_s - self._clock())

    def check(self) -> None:
        """Raises: RedisUnavailable: time is over, and the last packet failed."""
        if self._last is not None:
            raise self._over(self._last) from self._last

    def after(self, error: ConnectionLost | Refused) -> Pause:
        """Raises: RedisUnavailable: the error will not pass, or has lasted too long."""
        if isinstance(error, Refused) and not error.passing:
            raise self._over(error) from error
        if isinstance(error, Refused) and error.code == "NOFUNCTION" and not self._loaded:
            self._loaded = True  # the server is there: the next packet brings it the functions
            return Pause(0.0)
        now = self._clock()
        self._last = error
        if self._since is None:
            self._since = now - (error.spent_s if isinstance(error, ConnectionLost) else 0.0)
        left_s = self._since + self.limit_s - now
        if left_s < SHORTEST_S:
            raise self._over(error) from error
        return Pause(min(self._backoff.next_s(), left_s))

    def _over(self, error: ConnectionLost | Refused) -> RedisUnavailable:
        return RedisUnavailable(self._server, str(error), advice=error.advice)


def first_look(call: Call) -> Look:
    """Return what a caller does before it asks again."""
    pace = _pace(call.timeout_s, call.on_lost)
    return pace.first


def persevere(
    call: Call, error: ConnectionLost | Refused | None, *, began: float, server: str, clock: Clock,
    chance: Chance,
) -> Steps:  # fmt: skip
    """Say what a caller does that was not answered at its first look, or was told an error then.

    The answers stand in the call; those that did not come in time are missing.

    With ``on_lost`` other than "wait", calls that are lost by half of the timeout are withdrawn:
    the reason stands for their answer. Nobody living is an answer then, known calls or not, and an
    outage is not waited out.

    Raises:
        RedisUnavailable: it refuses the command; or it is not reachable, by the deadline if it has
            had these calls, else for ``OUTAGE_S``.
    """
    pace = _pace(call.timeout_s, call.on_lost)
    patience: Patience | None = None
    nudge_at = began + pace.first.wait_s
    while call.left:
        if error:
            patience = patience or Patience(server, clock, chance=chance)
            patience.limit_s = pace.outage_s if call.carried else pace.first_outage_s
            call.heard = False
            pause = patience.after(error)
            yield Pause(min(pause.seconds, max(0.0, call.deadline - clock())))
            nudge_at = clock()
        elif patience and call.heard:
            patience.renew()
        now = clock()
        left_s = call.deadline - now
        if left_s <= 0:
            break
        again = now >= nudge_at
        spent_s = now - began
        if again:
            nudge_at = began + pace.next_nudge_s(spent_s)
        wait_s = min(left_s, nudge_at - now, patience.look_s if patience else math.inf)
        withdraw = again and spent_s >= pace.withdraw_s
        error = None
        try:
            yield Look(wait_s, pace.first.grace_s, again, withdraw)
        except (ConnectionLost, Refused) as failure:
            error = failure
    if patience and call.left:
        patience.check()
    call.give_up()


@dataclass(frozen=True, slots=True)
class _Pace:
    """How long a caller waits for what.

    Attributes:
        first: for an answer, before it asks again; and for the server.
        slice_s: the same, later on.
        first_outage_s, outage_s: for a server that is away, before and after it has had the calls.
        withdraw_s: for the node, before it is looked at.
    """

    first: Look
    slice_s: float
    first_outage_s: float
    outage_s: float
    withdraw_s: float

    def next_nudge_s(self, spent_s: float) -> float:
        """When, after the beginning, is asked again if it is done now."""
        next_s = spent_s + self.slice_s
        return next_s if spent_s >= self.withdraw_s else min(next_s, self.withdraw_s)


@lru_cache(maxsize=64)
def _pace(timeout_s: float, on_lost: OnLost) -> _Pace:
    """Whoever does not want to wait knows within half of its timeout that Redis is away.

    An outage is noticed by packets that fail, with pauses of up to half a second between them.
    """
    slice_s = min(NUDGE_S, timeout_s / 4)
    if on_lost == "wait":
        return _Pace(Look(slice_s, GRACE_S), slice_s, OUTAGE_S, math.inf, math.inf)
    grace_s, outage_s = min(OUTAGE_S - NUDGE_S, slice_s), min(OUTAGE_S - 0.5, timeout_s / 4)
    first = Look(min(slice_s, timeout_s / 2), grace_s)
    return _Pace(first, slice_s, outage_s, outage_s, timeout_s / 2)
