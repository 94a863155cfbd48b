"""What callers do with many calls at once, and what the server may forget of them.

Knows the steps of one call and of a node, see ``stage``. Must not decide when: see ``machine``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger import LEASE_MS, name_of
from simnode import SimNode
from stage import IDS, Stage

from rqproc import wire
from rqproc.cluster import Job, Order
from rqproc.link import Command
from rqproc.placement import address


class Callers(Stage):
    """A stage on which calls also go together, are withdrawn, and are forgotten."""

    def new_group(self, picks: Sequence[int], *, timeout_s: float) -> Order:
        """Calls that go together, three to a job; of one id too, for more than one caller."""
        jobs: list[Job] = []
        for place, pick in enumerate(pick % len(IDS) for pick in picks):
            if not place % 3:
                self.groups.append(f"{self.world.keys.namespace}-many{self.number()}")
            jobs.append(Job(f"{self.groups[-1]}:{place % 3}", address("r", IDS[pick]), b""))
        data = wire.encode_many("r")
        return Order("call", tuple(jobs), timeout_s, f"{self.groups[-1]}-all", together=data)

    def scatter(
        self, order: Order, *, only: int | None = None, fenced: bool | None = None,
        quiet: bool = False,
    ) -> None:  # fmt: skip
        """Send calls together, for the first time or again.

        Args:
            only: so many of them.
            fenced: whether the stream's name is fenced; None where the call does not name it.
        """
        jobs = order.jobs[:only]
        known = {job.id for job in jobs if job.id in self.ledger.by_id}
        due = {w.deadline_ms for job in order.jobs if (w := self.ledger.by_id.get(job.id))}
        left_s = (due.pop() - self.now) / 1000 if due else order.timeout_s
        fence = self.world.keys.fence(order.reply)
        if fenced:
            self.world.run(("SET", fence, 1))
        command = self.cluster.scatter(
            jobs, data=order.together, timeout_s=left_s, reply=order.reply, quiet=quiet,
            fence="" if fenced is None else order.reply,
        )  # fmt: skip
        reports = self.script(command)
        self.world.run(("DEL", fence))
        assert fenced is not False or not known, "only what is new is sent so"
        for job, report in zip(jobs, reports, strict=True):
            if job.id in known:
                assert report == b"", "a known id is left alone"
            elif not (quiet and b"NoLiveNode" in report):
                self.expect_routed(order._replace(timeout_s=left_s), job, report)
            else:
                assert self.view.target(job.address) is None, "somebody lives"
        self.look()

    def withdraw(self, order: Order) -> None:
        """A caller wants no more to do with what is at a node that has fallen silent."""
        self.script(self.cluster.survey())
        ids = [job.id for job in order.jobs if self.ledger[job.id].open_at(self.now)]
        lost = {id: reason for id in ids if (reason := self._loss(id))}
        wishes = order._replace(jobs=tuple(job for job in order.jobs if job.id in ids))
        command = self.cluster.withdraw(wishes, timeout_s=order.timeout_s)
        assert self.script(command) == len(lost), "what a node that beats has is not lost"
        for id, reason in lost.items():
            self.ledger[id].expect, self.ledger[id].withdrawn = reason, True

    def _loss(self, id: str) -> str | None:
        """Why a call is lost, None where it is not."""
        for inc, expiry in self.roll.leases.items():
            silent_ms = LEASE_MS - (expiry - self.now) + (inc in self.roll.graced) * LEASE_MS // 2
            taken = id in self.view.taken[inc]
            if taken or id in self.view.queued_calls(name_of(inc)):
                if silent_ms > LEASE_MS / 2:
                    return "OwnerLost"
                if taken:
                    return None
        return None if self.view.members else "NoLiveNode"

    def forget(self, before: Sequence[Command], node: SimNode, known: set[str]) -> None:
        """A server takes over that knows nothing of what a node has taken last."""
        self.world.restore(before)
        self.world.advance(100)
        self.world.server = f"server-{self.number()}"
        for other in self.nodes:
            other.blind = True
        self.sound = False
        self.open_session(node)
        for id in node.known.keys() - known:
            if (wanted := self.ledger[id]).kind != "part":
                wanted.copies += 1  # it lies in the queue as well, and is not taken from there
