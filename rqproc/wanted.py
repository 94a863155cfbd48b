"""The calls of one order, from the first packet to the last answer.

Knows answers, and where those that are missing are awaited. Must not know packets or clocks.

Whoever still waits after a while sends the calls without an answer again. That drops nodes which
have died where nobody else asks, brings back what a server has lost, and notices one that stands
still. Nothing that was answered is run for it, since route leaves alone what it knows:

  1. A call is queued or runs: its job is known until it is answered, else until a minute after its
     deadline. Route does nothing.
  2. It is answered while the nudge is on its way: its answer came as its job went, in one script. A
     call with a stream of its own is known by that stream. Calls that share one are known as soon
     as it holds any answer: they entered together, so what has no job by then has its answer. That
     stands behind our cursor, and the same packet reads it.
  3. We have read the answer: that call is not sent again. Were it on its way once more, the stream
     stands for it: an answer is kept for a minute past the deadline. We remove the stream, as
     litter, later than all of our packets, and not at all if one of them was lost: it may be late.
  4. The server has lost its data, answers too: neither job nor stream is known, and what we have no
     answer of is queued anew. What is written then is read though the cursor is of the old stream:
     ids of entries begin with the server's time. A run that was begun before counts if the server
     is told of it again, under the same job id; else it is run again, for its answer is refused.
  5. Nobody may live then, for the nodes have to join anew first. A call that was known before is
     not given up for that. Route has answered it in its stream, so it is sent again with another
     one; the old one is read on, since a node that has begun to run it answers there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rqproc import wire
from rqproc.cluster import Job, Order
from rqproc.keys import results_key
from rqproc.link import Command


@dataclass(slots=True, eq=False)
class _Stream:
    """Where answers are awaited.

    Attributes:
        calls: ids of those that are sent (again) with this stream; None for all of the order's.
        sent: they have been.
        carried: some may have been queued with it.
        cursor: up to where it has been read.
    """

    order: Order
    calls: set[str] | None = None
    sent: bool = False
    carried: bool = False
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
        self._missing = {job.id: job for job in order.jobs}
        self._streams = {results_key(order.reply): _Stream(order)}
        self._left: list[str] = []
        self._alone: dict[str, wire.Answer] = {}
        self._moves = 0

    def __len__(self) -> int:
        """How many answers are missing."""
        return len(self._missing)

    def send(self) -> list[Order]:
        """Return what is to be sent (again) now: the calls without an answer, stream by stream."""
        found = []
        self._alone.clear()
        for stream in self._streams.values():
            stream.sent = True
            if not self.answers and stream.calls is None:
                found.append(stream.order)
            elif jobs := self._asked_in(stream):
                found.append(replace(stream.order, jobs=jobs))
        return found

    def give_up(self) -> None:
        """Time is over: where nobody lived, last, that is the answer."""
        self.answers |= self._alone

    def _asked_in(self, stream: _Stream) -> tuple[Job, ...]:
        calls = self._missing if stream.calls is None else stream.calls
        return tuple(
            job for job in stream.order.jobs if job.id in self._missing and job.id in calls
        )

    @property
    def litter(self) -> list[str]:
        """The streams that nobody reads again: all of them, once all is answered for sure."""
        return self._left if self.sure and not self._missing else []

    def read(self, wait_s: float) -> Command:
        """The blocking look at what has come since the last one."""
        cursors = [stream.cursor for stream in self._streams.values()]
        return ("XREAD", "BLOCK", round(wait_s * 1000), "STREAMS", *self._streams, *cursors)

    def take_in(self, found: Iterable[Sequence[Any]], *, known: bool) -> None:
        """Read what a look has brought; ``known``: the server has had these calls before."""
        read = tuple(self._streams.items())
        for name, entries in found:
            stream = self._streams[name.decode()]
            refused = []
            for stream.cursor, flat in entries:
                answer = wire.answer(flat)
                if answer.job_id not in self._missing:
                    continue  # it came twice
                if known and _nobody_lives(answer):
                    refused.append(answer.job_id)
                    self._alone[answer.job_id] = answer
                else:
                    self.answers[answer.job_id] = answer
                    del self._missing[answer.job_id]
            if refused:
                self._send_elsewhere(stream, refused)
        for name, stream in read:
            if not self._missing or not self._is_open(stream):
                self._left.append(name)
                del self._streams[name]

    def _send_elsewhere(self, stream: _Stream, ids: Sequence[str]) -> None:
        """Send calls with a new stream from now on: in the old one they stand as answered."""
        stream.calls = {job.id for job in self._asked_in(stream)}.difference(ids)
        self._moves += 1
        base = stream.order.reply.partition("+")[0]
        jobs = tuple(self._missing[id] for id in ids)
        again = replace(stream.order, jobs=jobs, reply=f"{base}+{self._moves}")
        self._streams[results_key(again.reply)] = _Stream(again, set(ids))

    def _is_open(self, stream: _Stream) -> bool:
        """Whether an answer may still come in a stream."""
        stream.carried |= stream.sent and bool(self._asked_in(stream))
        waited = any(job.id in self._missing for job in stream.order.jobs)
        return waited and (stream.carried or not stream.sent)


def _nobody_lives(answer: wire.Answer) -> bool:
    return answer.report is not None and answer.report.get("type") == "NoLiveNode"
