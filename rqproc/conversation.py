"""What a caller says to the cluster, step by step, without any input or output.

Each function here is a generator: it yields what is to be done (send these commands, pause) and is
sent the replies, or has the connection's failure thrown in. The blocking client and the asyncio
client are thin loops around the same generators, so there is one place that knows when a request
may be sent again: always, since the scripts know a job's id when they see it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rqproc import wire
from rqproc.cluster import Cluster, Order
from rqproc.errors import RedisUnavailable
from rqproc.keys import results_key
from rqproc.link import Command, LinkLost, Refused

T = TypeVar("T")

OUTAGE_S = 3.0
"""Seconds that an unreachable Redis is waited for before RedisUnavailable: a restart passes
unnoticed, a wrong URL is told within five seconds."""

REPLY_GRACE_S = 1.5
"""Seconds past a blocking read's end after which the server itself is late."""


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


Conversation = Generator[Send | Pause, Any, T]
Clock = Callable[[], float]


class _Patience:
    """Decides, after a failed packet, how long to pause and when to give up."""

    def __init__(self, server: str, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._since: float | None = None
        self._pause_s = 0.01
        self._last: LinkLost | Refused | None = None

    def renew(self) -> None:
        self._since, self._pause_s, self._last = None, 0.01, None

    def check(self) -> None:
        """Raises: RedisUnavailable: time is over, and the last packet failed."""
        if self._last is not None:
            raise RedisUnavailable(self._server, str(self._last)) from self._last

    def after(self, error: LinkLost | Refused) -> Pause:
        """Raises: RedisUnavailable: the error will not pass, or has lasted too long."""
        if isinstance(error, Refused) and not error.passing:
            raise RedisUnavailable(self._server, error.reason) from error
        now = self._clock()
        self._last = error
        if self._since is None:
            self._since = now - (error.spent_s if isinstance(error, LinkLost) else 0.0)
        if now - self._since >= OUTAGE_S:
            raise RedisUnavailable(self._server, str(error)) from error
        pause = Pause(self._pause_s)
        self._pause_s = min(self._pause_s * 2, 0.5)
        return pause


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
            commands = (*_with_script(cluster, script, error), command)
            yield patience.after(error)
        else:
            return replies[-1]


def _with_script(cluster: Cluster, script: str, error: LinkLost | Refused) -> tuple[Command, ...]:
    """A server that does not know the script is told it in the next packet."""
    unknown = isinstance(error, Refused) and error.code == "NOSCRIPT"
    return cluster.load(script) if unknown else ()


def ask(
    cluster: Cluster, order: Order, *, litter: Sequence[str], server: str, clock: Clock
) -> Conversation[dict[str, wire.Answer]]:
    """Route calls and wait for their answers, in one packet where nothing goes wrong.

    ``litter`` are keys that earlier calls have left; they are removed in the same packet.

    Returns:
        The answers by job id; those that did not come in time are missing.

    Raises:
        RedisUnavailable: not reachable, or it refuses the command.
    """
    end = clock() + order.timeout_s
    patience = _Patience(server, clock)
    tidy: tuple[Command, ...] = (("UNLINK", *litter),) if litter else ()
    before: tuple[Command, ...] = (*tidy, cluster.route(order))
    answers: dict[str, wire.Answer] = {}
    cursor: bytes | str = "0-0"
    while len(answers) < len(order.jobs) and (left_s := end - clock()) > 0:
        wait_ms = max(1, int(left_s * 1000))
        read: Command = ("XREAD", "BLOCK", wait_ms, "STREAMS", results_key(order.reply), cursor)
        try:
            replies = yield Send(
                (*before, read),
                within_s=left_s + REPLY_GRACE_S,
                prelude_bytes=_size(before, order),
            )
        except (LinkLost, Refused) as error:
            yield patience.after(error)
            route = cluster.route(order, timeout_s=max(end - clock(), 0.001))
            before = (*_with_script(cluster, "route", error), route)
            continue
        patience.renew()
        before = ()
        for entry_id, flat in replies[-1][0][1] if replies[-1] else ():
            cursor = entry_id
            found = wire.answer(flat)
            answers.setdefault(found.job_id, found)
    if len(answers) < len(order.jobs):
        patience.check()
    return answers


def _size(before: tuple[Command, ...], order: Order) -> int:
    """Bytes of the replies that tell a caller nothing: ``:1`` of UNLINK, an empty text per job.

    Never as many as the shortest error of a server has: an error must wake the caller.
    """
    if not before:
        return 0
    return min(4 * (len(before) - 1) + 4 + 6 * len(order.jobs), SHORTEST_ERROR_BYTES - 1)


def left_behind(order: Order) -> list[str]:
    """Return the keys of calls that have been answered: nobody reads them again."""
    return [results_key(order.reply)]
