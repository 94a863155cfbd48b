"""What a caller says to the cluster, step by step, without any input or output.

Each function here is a generator: it yields what is to be done (send these commands, pause) and is
sent the replies, or has the connection's failure thrown in. The blocking client and the asyncio
client are thin loops around the same generators, so there is one place that knows when a request
may be sent again: always, since the scripts know a job's id when they see it twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rqproc import wire
from rqproc.cluster import Cluster, Job, Order
from rqproc.errors import RedisUnavailable
from rqproc.keys import results_key
from rqproc.link import Command, LinkLost, Refused

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
        self.limit_s = OUTAGE_S

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
        if now - self._since >= self.limit_s:
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


@dataclass(slots=True, eq=False)
class _Stream:
    """Calls whose answers come in one stream, and up to where that has been read."""

    order: Order
    missing: dict[str, Job]
    cursor: bytes | str = "0-0"


class Wanted:
    """The calls of one order: the answers that have come, and where the others are awaited.

    Attributes:
        answers: by job id.
        sure: no packet was lost, so none can still be on its way.
    """

    def __init__(self, order: Order) -> None:
        self.timeout_s = order.timeout_s
        self.answers: dict[str, wire.Answer] = {}
        self.sure = True
        self._streams = {_name(order): _Stream(order, {job.id: job for job in order.jobs})}
        self._left: list[str] = []
        self._moves = 0

    def __len__(self) -> int:
        """How many answers are missing."""
        return sum(len(stream.missing) for stream in self._streams.values())

    @property
    def orders(self) -> tuple[Order, ...]:
        """What is to be sent (again): the calls without an answer, stream by stream."""
        return tuple(
            stream.order
            if len(stream.missing) == len(stream.order.jobs)
            else replace(stream.order, jobs=tuple(stream.missing.values()))
            for stream in self._streams.values()
        )

    @property
    def litter(self) -> list[str]:
        """The streams that nobody reads again, once all is answered.

        A packet that is late on its way would have its calls run again if their stream were gone:
        where one may be, the streams stay until they expire.
        """
        return self._left if self.sure and not self else []

    def read(self, wait_s: float) -> Command:
        """The blocking look at what has come since the last one."""
        names = (name.decode() for name in self._streams)
        cursors = (stream.cursor for stream in self._streams.values())
        wait_ms = max(1, round(wait_s * 1000))  # 0 would be for ever
        return ("XREAD", "BLOCK", wait_ms, "STREAMS", *names, *cursors)

    def take_in(self, found: Iterable[Sequence[Any]], *, known: bool) -> None:
        """Read what a look has brought; ``known``: the server has had these calls before."""
        for name, entries in found:
            stream = self._streams[name]
            refused = []
            for stream.cursor, flat in entries:
                answer = wire.answer(flat)
                job = stream.missing.pop(answer.job_id, None)
                if job is None:
                    continue  # it came twice
                if known and _nobody_lives(answer):
                    refused.append(job)
                else:
                    self.answers[job.id] = answer
            if not stream.missing:
                self._left.append(name.decode())
                del self._streams[name]
            if refused:
                self._await_elsewhere(stream.order, refused)

    def _await_elsewhere(self, order: Order, jobs: Sequence[Job]) -> None:
        """Ask again for calls in a new stream: in the old one they stand as answered."""
        self._moves += 1
        name = order.reply.partition("+")[0]
        again = replace(order, jobs=tuple(jobs), reply=f"{name}+{self._moves}")
        self._streams[_name(again)] = _Stream(again, {job.id: job for job in jobs})


def _nobody_lives(answer: wire.Answer) -> bool:
    return answer.report is not None and answer.report.get("type") == "NoLiveNode"


def _name(order: Order) -> bytes:
    return results_key(order.reply).encode()


def ask(
    cluster: Cluster, wanted: Wanted, *, litter: Sequence[str], server: str, clock: Clock
) -> Conversation[None]:
    """Route calls and wait for their answers, in one packet where nothing goes wrong.

    ``litter`` are keys that earlier calls have left; they are removed in the same packet. The
    answers stand in ``wanted``; those that did not come in time are missing.

    Whoever still waits after a while sends the calls without an answer again. That drops nodes
    which have died where nobody else asks, brings back what a server has lost, and notices one that
    stands still. Nothing is run for it that was answered, since route leaves alone what it knows:

      1. A call is queued or runs: its job is known, until it is answered, and a minute longer than
         its deadline. Route does nothing.
      2. It is answered at the moment at which the nudge is on its way: the answer was written as
         the job went, in one script. A call with a stream of its own is known by that stream, calls
         that share one are known as soon as it holds any answer: they entered together, so what has
         no job by then has its answer. It stands behind our cursor, and the same packet reads it.
      3. We have read the answer: that call is not sent again. The stream still stands for it, since
         every answer is kept for a minute past the deadline, and we remove it, as litter, in a
         later packet than all of ours, and not at all if one of them may be late on its way.
      4. The server has lost its data, answers too: neither job nor stream is known, and what has no
         answer yet is queued anew. New entries are read though the cursor is of an old stream: ids
         of entries begin with the server's time. What nodes still run is not answered to us: they
         have lost their leases with the rest, and their finish is refused.
      5. Then nobody may live yet, for the nodes have to join anew first. A call that was known
         before is not given up for that: route has answered it in its stream, so it is sent again
         with another one.

    Raises:
        RedisUnavailable: it refuses the command; or it is not reachable, by the deadline if it has
            had these calls, else for ``OUTAGE_S``.
    """
    end = clock() + wanted.timeout_s
    slice_s = min(NUDGE_S, wanted.timeout_s / 4)
    patience = _Patience(server, clock)
    before: tuple[Command, ...] = (("UNLINK", *litter),) if litter else ()
    nudge_at, known = clock(), False
    while wanted and (left_s := end - (now := clock())) > 0:
        if now >= nudge_at:
            routes = (cluster.route(order, timeout_s=left_s) for order in wanted.orders)
            before, nudge_at = (*before, *routes), now + slice_s
        wait_s = min(left_s, nudge_at - now)
        try:
            replies = yield Send(
                (*before, wanted.read(wait_s)),
                within_s=wait_s + REPLY_GRACE_S,
                prelude_bytes=_size(before, len(wanted)),
            )
        except (LinkLost, Refused) as error:
            wanted.sure &= isinstance(error, Refused)  # what is refused has arrived
            yield patience.after(error)
            before, nudge_at = _with_script(cluster, "route", error), clock()
            continue
        patience.renew()
        wanted.take_in(replies[-1] or (), known=known)
        before, known, patience.limit_s = (), True, math.inf
    if wanted:
        patience.check()


def _size(before: tuple[Command, ...], calls: int) -> int:
    """Bytes of the replies that tell a caller nothing: ``:1`` of UNLINK, an empty text per call.

    Never as many as the shortest error of a server has: an error must wake the caller.
    """
    if not before:
        return 0
    return min(4 * len(before) + 6 * calls, SHORTEST_ERROR_BYTES - 1)
