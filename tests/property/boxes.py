"""Callers whose answers come into one stream, the box; and what may happen to their packets.

New calls go out without being looked for. After a lost connection the box is fenced, what has no
answer is sent again, and a new box is begun. Then a packet of the old connection may arrive.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis.stateful import precondition, rule
from ledger import Wanted
from outside import Outside, coin, id_picks, picks

from rqproc.cluster import Order
from rqproc.keys import results_key


@dataclass(eq=False)
class Box:
    """One stream, and the orders whose answers come there.

    Attributes:
        late: orders whose packet still lies before the server.
        trimmed: what was read may have been removed.
    """

    name: str
    orders: list[Order] = field(default_factory=list)
    late: list[Order] = field(default_factory=list)
    trimmed: bool = False


class Boxes(Outside):
    """Hypothesis makes a new one for each example: its boxes are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fenced: list[Box] = []
        self.begin_box()

    def begin_box(self) -> None:
        self.box = Box(f"{self.stage.world.keys.namespace}-box{self.stage.number()}")

    def tell(self, order: Order, *, again: bool) -> None:
        """A packet with an order's calls arrives."""
        fence = "" if again else order.reply
        command = self.stage.cluster.route_calls(
            order.jobs, timeout_s=order.timeout_s, reply=order.reply, parent="", fence=fence,
            quiet=False,
        )  # fmt: skip
        self.stage.send(order, command)

    def wanted(self, order: Order) -> list[Wanted]:
        """What has been heard of an order's calls, those that the server has not had left out."""
        found = (self.stage.ledger.by_id.get(job.id) for job in order.jobs)
        return [wanted for wanted in found if wanted]

    def in_time(self, order: Order) -> bool:
        """Whether someone waits for it, and nobody has deleted a job of it."""
        now = self.stage.now
        return all(w.deadline_ms > now and not w.gone for w in self.wanted(order))

    def missing(self, order: Order) -> Order:
        """Those of its calls that have no answer."""
        answered = {w.job.id for w in self.wanted(order) if w.answers}
        return order._replace(jobs=tuple(j for j in order.jobs if j.id not in answered))

    @rule(ids=id_picks, late=coin)
    def a_client_asks(self, ids: list[int], late: bool) -> None:
        order = Order("call", tuple(map(self.stage.new_job, ids)), 5.0, self.box.name)
        self.box.orders.append(order)
        if late:
            self.box.late.append(order)
        else:
            self.tell(order, again=False)

    @precondition(lambda self: self.box.orders)
    @rule(pick=picks)
    def a_client_nudges(self, pick: int) -> None:
        order = self.box.orders[-1 - pick % len(self.box.orders)]
        if order not in self.box.late and self.in_time(order) and (o := self.missing(order)).jobs:
            self.tell(o, again=True)

    @precondition(lambda self: self.box.orders)
    @rule()
    def what_a_client_has_read_is_removed(self) -> None:
        """Its nudges have all been acknowledged, and no other of its packets is looked for."""
        world = self.stage.world
        read_up_to = world._read_up_to.get(self.box.name, "0-0")
        if read_up_to != "0-0":
            self.box.trimmed = True
            self.stage.look(("XTRIM", results_key(self.box.name), "MINID", read_up_to))

    @rule(ids=id_picks)
    def a_clients_connection_breaks(self, ids: list[int]) -> None:
        if not self.box.orders:
            self.a_client_asks(ids, late=True)
        keys, box = self.stage.world.keys, self.box
        self.stage.look(("SET", keys.fence(box.name), 1, "PX", 130_000))
        self.fenced.append(box)
        for order in box.orders:
            if self.in_time(order) and (missing := self.missing(order)).jobs:
                self.tell(missing, again=True)
        self.begin_box()

    @precondition(lambda self: self.fenced)
    @rule(pick=picks)
    def a_late_packet_arrives(self, pick: int) -> None:
        box = self.fenced[-1 - pick % len(self.fenced)]
        while box.late:
            order = box.late.pop()
            if self.in_time(order):
                self.tell(order, again=False)

    @rule()
    def withdrawals_of_what_is_answered_arrive(self) -> None:
        """They were sent before the answers came: they take nothing back."""
        for box in [*self.fenced, self.box]:
            for order in box.orders:
                jobs = tuple(w.job for w in self.wanted(order) if w.answers and not w.gone)
                if jobs and not box.trimmed:
                    command = self.stage.cluster.withdraw(order._replace(jobs=jobs), timeout_s=1.0)
                    assert self.stage.script(command) == 0, "what is answered is not lost"
