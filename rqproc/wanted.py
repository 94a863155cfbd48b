"""The calls of one order, from the first packet to the last answer.

Knows answers. Must not know packets, streams or clocks.

Whoever still waits after a while sends the calls without an answer again. That drops nodes which
have died where nobody else asks, brings back what a server has lost, and notices one that stands
still. Nothing that was answered is run for it, since route leaves alone what it knows:

  1. A call is queued or runs: its job is known until it is answered, else until a minute after its
     deadline. Route does nothing.
  2. It is answered while the nudge is on its way: its answer came as its job went, in one script.
     It stands in the caller's stream, behind what the caller has read; there route finds it.
  3. We have read the answer: that call is not sent again. Were it on its way once more, the stream
     stands for it: what was read is removed later than all of our packets, and not at all if one of
     them was lost, since that may be late; see ``switchboard``.
  4. The server has lost its data, answers too: neither job nor answer is known, and what we have no
     answer of is queued anew. What is written then is read though the cursor is of the old stream:
     ids of entries begin with the server's time. A run that was begun before counts if the server
     is told of it again, under the same job id; else it is run again, for its answer is refused.
  5. Nobody may live then, for the nodes have to join anew first. A call that was known before is
     not given up for that, unless it still stands so at its deadline.
"""

from __future__ import annotations

from rqproc import wire
from rqproc.cluster import Order


class Wanted:
    """The calls of one order: the answers that have come, and those that are missing.

    Attributes:
        answers: by job id.
        carried: the server has had all of these calls.
        heard: it has spoken of them since the last trouble with it.
        nobody: by job id, what was answered where nobody lived when a known call was sent again.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.answers: dict[str, wire.Answer] = {}
        self.carried = False
        self.heard = False
        self._missing = {job.id: job for job in order.jobs}
        self.nobody: dict[str, wire.Answer] = {}

    def __len__(self) -> int:
        """How many answers are missing."""
        return len(self._missing)

    def missing(self) -> Order:
        """Return the calls without an answer."""
        if len(self._missing) == len(self.order.jobs):
            return self.order
        return self.order._replace(jobs=tuple(self._missing.values()))

    def take(self, answer: wire.Answer, *, id: str = "") -> None:
        """Take in an answer; one that came before, or after it was given up, is left alone.

        ``id``: the call's own, where the answer is to another name of it.
        """
        key = id or answer.job_id
        if self._missing.pop(key, None):
            self.answers[key] = answer

    def give_up(self) -> None:
        """Time is over: where nobody lived, last, that is the answer.

        Whoever reads for this caller may take in an answer at the same moment.
        """
        for id in tuple(self._missing):
            if answer := self.nobody.get(id):
                self.take(answer)
