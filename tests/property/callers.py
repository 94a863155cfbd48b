"""Callers: what they ask for, what befalls their packets, and what they give up.

Knows the steps of a node, see ``stage``. Must not decide when: see ``machine``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ledger import LEASE_MS, Ledger, Roll, Wanted, name_of
from serving import Serving, sent
from stage import IDS, PLAIN
from world import Mutation, part_id

from rqproc.ids import address
from rqproc.protocol import codec
from rqproc.transport.connection import Command


@dataclass(eq=False)
class Caller:
    """A client's name, and what was asked under it.

    Attributes:
        orders: what was asked together.
        late: those whose packet still lies before the server.
        fenced: its connection was lost: what comes late under this name is dropped.
    """

    name: str
    orders: list[Order] = field(default_factory=list)
    late: list[Order] = field(default_factory=list)
    fenced: bool = False


@dataclass(eq=False)
class Order:
    """Calls that go out in one packet; ``group``: as a group, whose id this is."""

    caller: Caller
    wanted: list[Wanted]
    timeout_s: float
    deadline_ms: int
    group: str = ""


@dataclass(eq=False)
class Memory:
    """All that a server knew at one instant, and what was expected of it."""

    keys: list[Command]
    ledger: Ledger
    roll: Roll


class Callers(Serving):
    """A stage with callers, who listen on one connection each."""

    def __init__(self, url: str, mutation: Mutation | None = None) -> None:
        super().__init__(url, mutation)
        self.memory: Memory | None = None
        self.callers: list[Caller] = []
        self.objects: list[Any] = []
        self.new_caller()

    @property
    def caller(self) -> Caller:
        """The one that is not fenced."""
        return self.callers[-1]

    def new_caller(self) -> None:
        self.callers.append(Caller(f"r{self.number():x}"))

    @property
    def orders(self) -> list[Order]:
        return [order for caller in self.callers for order in caller.orders]

    # --- what is asked for ---

    def new_order(
        self,
        picks: Sequence[int],
        *,
        timeout_s: float = 5.0,
        kind: Literal["c", "a", "i", "e"] = "c",
    ) -> Order:
        """Calls that go out one by one."""
        wanted = []
        for pick in picks:
            place, data = self.new_call(pick)
            id = f"{self.caller.name}-{kind}{self.number():x}-{place}"
            wanted.append(Wanted(id, place, "call", data, self.caller.name))
        return self._order(wanted, timeout_s)

    def new_group(self, picks: Sequence[int], *, timeout_s: float = 5.0) -> Order:
        """Calls that go out together; of one id too, for more than one caller."""
        group = f"{self.caller.name}-g{self.number():x}"
        wanted = []
        for place, pick in enumerate(picks):
            at = address("r", IDS[pick % len(IDS)])
            id = part_id(group, place, at)
            wanted.append(Wanted(id, at, "part", PLAIN, self.caller.name, group, place))
        return self._order(wanted, timeout_s, group)

    def _order(self, wanted: list[Wanted], timeout_s: float, group: str = "") -> Order:
        deadline = self.now + round(timeout_s * 1000)
        order = Order(self.caller, wanted, timeout_s, deadline, group)
        self.caller.orders.append(order)
        for one in wanted:
            self.ledger.add(one)
        self.look()
        return order

    def send(self, order: Order) -> None:
        """A packet arrives with calls that it says are new."""
        if order.group:
            addresses = [wanted.address for wanted in order.wanted]
            command = self.commands.scatter(
                order.group, codec.encode_many("r"), addresses, timeout_s=order.timeout_s
            )
        else:
            calls = [sent(wanted) for wanted in order.wanted]
            command = self.commands.route(calls, timeout_s=order.timeout_s)
        reply = self.function(command)
        if order.caller.fenced:
            assert reply is None, "what is fenced is dropped"
            return
        told = {wanted.id: b"" for wanted in order.wanted}
        if order.group:
            for place, report in zip((reply or [])[::2], (reply or [])[1::2], strict=True):
                told[order.wanted[place].id] = report
        elif reply is not None:
            told = dict(zip(told, reply, strict=True))
        for wanted in order.wanted:
            self.expect_routed(wanted, self._now_plus(order.timeout_s), told[wanted.id])

    def _now_plus(self, seconds: float) -> int:
        return self.now + round(seconds * 1000)

    def expect_routed(self, wanted: Wanted, deadline_ms: int, report: bytes) -> None:
        """It is queued at the owner that it has at this instant, or refused for a reason; one that
        asks about its id, at the holder, if there is one.
        """
        wanted.deadline_ms, wanted.lost = deadline_ms, 0
        wanted.asked += 1
        asks = wanted.id.startswith(f"{wanted.caller}-e") and wanted.kind == "call"
        owner = (self.view.target if asks else self.view.owner)(wanted.address)
        if report:
            self._expect_refused(wanted, json.loads(report), owner)
            return
        assert owner, "a call does not wait for a node"
        wanted.state = "open"
        queue, queued = self.view.queue_of(owner), wanted.id
        if wanted.group and queued not in self.view.open[owner]:
            assert queued in self.view.groups[wanted.group].get(owner, []), "it is its owner's"
            queued = wanted.group
        assert queued in self.view.open[owner], "it is open at its owner"
        assert queued in queue, "it is queued at its owner"
        assert len(queue) <= max(1, self.limits[owner]), "the queue is bounded"

    def _expect_refused(self, wanted: Wanted, report: dict[str, Any], owner: str | None) -> None:
        wanted.state = "refused"
        if owner is None:
            assert report["type"] == "NoLiveNode"
            return
        assert (report["type"], report.get("node")) == ("Overloaded", name_of(owner))
        queued = len(self.view.queue_of(owner))
        assert queued <= report["queued"] >= report["limit"] == self.limits[owner]

    # --- asked again ---

    def missing(self, order: Order) -> list[Wanted]:
        """Those of an order's calls that its caller still waits for."""
        if order.deadline_ms <= self.now:
            return []
        return [wanted for wanted in order.wanted if not (wanted.got or wanted.state == "refused")]

    def ask_again(self, order: Order) -> None:
        """A packet arrives with calls that may have been sent before."""
        wanted = self.missing(order)
        if not wanted:
            return
        left_ms = order.deadline_ms - self.now
        calls = [sent(one) for one in wanted]
        reply = self.function(self.commands.route(calls, timeout_s=left_ms / 1000, again=True))
        told = reply or [b""] * len(wanted)
        for one, report in zip(wanted, told, strict=True):
            self._expect_told(one, report, order.deadline_ms)

    def _expect_told(self, wanted: Wanted, report: bytes, deadline_ms: int) -> None:
        if wanted.state in ("answered", "withdrawn"):
            kept = report.startswith(b"r")
            assert kept, f"{wanted.id}: an answer is kept for whoever asks again"
            id, said = self.world.answer(report)
            assert self.ledger.find(id) is wanted
            assert said == wanted.due[-1], "it is the one that was given"
            wanted.got = True
        elif wanted.state == "open":
            assert report == b"", f"{wanted.id}: what is under way is left alone"
            wanted.asked += 1
            self._expect_within_reach(wanted)
        else:
            self.expect_routed(wanted, deadline_ms, report)

    def _expect_within_reach(self, wanted: Wanted) -> None:
        """What may have been lost on its way to its node is queued there once more."""
        for inc, ids in self.view.open.items():
            group = self.view.groups.get(wanted.group, {}).get(inc, [])
            id = wanted.group if wanted.id in group else wanted.id
            if id in ids and id not in self.view.claims[inc]:
                count = self.view.queue_of(inc).count(id)
                assert count, "it may have been lost on its way"
                if self.before.leases.keys() == self.view.leases.keys():
                    before = self.before.queue_of(inc).count(id)
                    assert count == max(1, before), "what is queued is not queued again"

    # --- connections ---

    def lose_connection(self) -> None:
        """What was published meanwhile is lost. Then the name is fenced, and all asked again."""
        old = self.caller
        self.function(self.commands.fence(old.name, 130.0), reaps=False)
        old.fenced = True
        self.new_caller()
        for order in old.orders:
            self.ask_again(order)

    def arrive_late(self, caller: Caller) -> None:
        """The last packets of a connection that was given up."""
        while caller.late:
            order = caller.late.pop()
            if caller.fenced:
                before = {name: v for name, v in self.world.dump().items() if b":fence" not in name}
                alive = dict(self.roll.leases)
                self.send(order)
                after = {name: v for name, v in self.world.dump().items() if b":fence" not in name}
                assert alive != self.roll.leases or before == after, "it changes nothing"
            else:
                self.send(order)

    def acknowledge(self) -> None:
        """Answers that were read are removed, unless their calls were asked for more than once."""
        for wanted in self.ledger.by_id.values():
            if wanted.got and wanted.asked == 1 and wanted.kind != "job":
                wanted.acked = wanted.acked or wanted.state == "answered"
                self.world.run(("UNLINK", self.world.keys.answer(wanted.id)))
        self.look()

    # --- what is given up ---

    def withdraw(self, order: Order) -> None:
        """A caller wants no more to do with what is at a node that has fallen silent."""
        wanted = self.missing(order)
        if not wanted:
            return
        self.function(self.commands.survey())
        expected = [self._loss(one) for one in wanted]
        left_s = (order.deadline_ms - self.now) / 1000
        reply = self.function(self.commands.withdraw(map(sent, wanted), timeout_s=left_s))
        for one, told, loss in zip(wanted, reply, expected, strict=True):
            assert (told != b"") == (loss is not None), f"{one.id}: {loss}, not {told!r}"
            if loss is None:
                continue
            _, said = self.world.answer(told)
            if one.state in ("answered", "withdrawn"):
                assert said == one.due[-1]
            else:
                assert said == loss
                one.tell(said, "withdrawn")
                one.heard.append(said)
            one.got = True

    def _loss(self, wanted: Wanted) -> str | None:
        """What a withdrawal is told, None where the call is not lost."""
        if wanted.state in ("answered", "withdrawn"):
            return wanted.due[-1]
        places = self.view.places().get(wanted.id, [])
        if self.view.about[wanted.id].status == "":  # of a group's call alone that is no loss
            alone = [inc for inc in places if wanted.id in self.view.open.get(inc, ())]
            places = [] if wanted.kind == "call" else [inc for inc in places if inc not in alone]
        if not places:
            return "OwnerLost" if self.view.members else "NoLiveNode"
        (inc,) = places
        if not inc:
            return None if self.view.members else "NoLiveNode"
        return "OwnerLost" if self.now - self.roll.beaten[inc] > LEASE_MS / 2 else None

    # --- a server that forgets ---

    def remember(self) -> None:
        """A copy of the server's data is written."""
        self.check()
        ledger, roll = copy.deepcopy((self.ledger, self.roll))
        self.memory = Memory(self.world.snapshot(), ledger, roll)

    def forget(self, memory: Memory) -> None:
        """A server takes over that knows nothing of what has happened since the copy."""
        self.memory = None
        self.world.advance(100)
        self.world.restore(memory.keys)
        self.world.server = f"server-{self.number()}"
        now = self.ledger
        self.ledger, self.roll = memory.ledger, memory.roll
        self.roll.be_another_process()
        self.ledger.top_token = now.top_token
        for id, wanted in now.by_id.items():
            known = self.ledger.by_id.get(id)
            if known is None:
                known = self.ledger.add(copy.copy(wanted))
                known.state, known.due, known.heard, known.lost = "unsent", [], [], 0
                known.adrift = wanted.foreign or bool(wanted.junk)
            known.got, known.asked = wanted.got, wanted.asked + 1
        for caller in self.callers:
            caller.late.clear()  # no packet outlives the server that it was sent to
        for order in self.orders:
            order.wanted = [self.ledger[one.id] for one in order.wanted]
        for node in self.nodes:
            node.blind = True
        self.look()
        self.function(self.commands.survey())
