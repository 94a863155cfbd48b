"""A world, what is expected of it, and who lives in it. It plays by no schedule.

Knows how nodes keep their membership. What they serve: see ``serving``. Must not decide when: see
``machine``.
"""

from __future__ import annotations

from typing import Any

from ledger import LANES, LEASE_MS, Ledger, Reaped, Roll, check_holds, check_order, name_of
from simnode import SimNode
from world import MARK, NODE_NAMES, Mutation, View, World

from rqproc.errors import NameTaken
from rqproc.ids import Id, address
from rqproc.model import Request
from rqproc.placement import packed
from rqproc.protocol import codec, stats_codec
from rqproc.protocol.messages import Beaten, LeaseLost, Limits, Tally
from rqproc.stats import NodeStats
from rqproc.transport.connection import Command

IDS: tuple[Id, ...] = (1, 2, 5, 2**53 - 1, "é:| x" + "€" * 60)
PLACES = [address("r", id) for id in IDS]
HOST = "host"
PLAIN = codec.encode_request(Request("r", 1))


class Stage:
    """A world, the expectation of it, and the steps that move both."""

    def __init__(self, url: str, mutation: Mutation | None = None) -> None:
        self.world = World(url, mutation)
        self.commands = self.world.commands
        self.roll = Roll()
        self.ledger = Ledger()
        self.nodes: list[SimNode] = []
        self.limits: dict[str, int] = {}
        self.deaf: set[str] = set()
        self.published: set[NodeStats] = set()
        self.sound = True
        self._serial = 0
        self.view: View
        self.look()
        self.before = self.view

    @property
    def now(self) -> int:
        return self.world.now

    def number(self) -> int:
        self._serial += 1
        return self._serial

    def look(self, *first: Command) -> list[Any]:
        """Run commands, and look at what is there then."""
        by_id = self.ledger.by_id
        replies, self.view = self.world.look(
            *first,
            incs=list(self.limits),
            ids=[id for id, wanted in by_id.items() if wanted.junk != "text"],
            groups=self.ledger.groups,
            jobs=[id for id, wanted in by_id.items() if wanted.kind == "job"],
            places=PLACES,
        )
        self.ledger.hear(self.view, deaf=self.deaf)
        return replies

    def function(self, command: Command, *, reaps: bool = True, changes: bool = False) -> Any:
        """Run one function; what it does to expired leases is expected here.

        ``changes``: it may change the members by itself; whoever knows how calls ``Roll.note``.
        """
        self.sound = False
        self.before = self.view
        reaped = self.roll.reap(self.now) if reaps else Reaped()
        for inc in reaped.dead:
            self.ledger.died(self.before, inc, self.now)
            if reaped.since:
                self.ledger.refuse(self.before, inc, reaped.since)
        (reply,) = self.look(command)
        check_order(reaped.dead, self.before, self.view)
        if reaped.dead or not changes:  # what was the dead's was sent on before any other change
            self.roll.note(self.view)
        return reply

    def set_clock(self, by_ms: int) -> None:
        """Set the server's clock forward or back, between two functions."""
        self.function(self.commands.survey())
        if by_ms > 0:
            self.world.advance(by_ms)
        else:
            self.world.set_back(-by_ms)
        self.function(self.commands.survey())

    def be_another_process(self) -> None:
        """The server's process is replaced by one with the same data."""
        self.world.be_another_process()
        self.roll.be_another_process()
        self.function(self.commands.survey())

    def let_leases_pass(self) -> None:
        """Nobody beats until all are dropped, grace and all."""
        for _ in range(2):
            self.world.advance(LEASE_MS)
            self.function(self.commands.survey())

    def live(self, node: SimNode) -> bool:
        return node.inc in self.roll.leases

    def check(self) -> None:
        """Hold the server's keys against what is expected."""
        self.sound = False
        view = self.view
        self.roll.check(view)
        check_holds(view)
        self.ledger.check(view, self.now)
        at: dict[str, str] = {}
        for node in filter(self.live, self.nodes):
            held = view.claims[node.inc]
            for id, place in node.running.items():
                if id in held:  # what a server has forgotten may be given to another
                    assert at.setdefault(place, node.inc) == node.inc, f"two live nodes run {place}"
            if not node.blind:
                self._check_known(node, view)
        self.sound = True

    def _check_known(self, node: SimNode, view: View) -> None:
        """Nothing is open at a node, or held there, without its knowing, or being told."""
        held, runs = view.claims[node.inc], node.runs
        assert held.keys() <= runs.keys(), "what is held runs"
        mine = node.known.keys() | node.stuck.keys()
        assert mine - node.unsure.keys() <= held.keys(), "what runs is held"
        found = {*view.queue_of(node.inc), *node.taken, *node.waiting, *runs, *node.swallowed}
        assert view.open[node.inc].keys() <= found, "what is open is queued, or known to its node"

    # --- nodes ---

    def start_node(self, name: str, limit: int = 1000) -> SimNode | None:
        """Join; None where a node of the name is alive."""
        node = SimNode("", self.number(), limit)
        joined = self.join(node, name)
        if alive := self.roll.incarnation(name):
            assert isinstance(joined, NameTaken), "a live node's name is refused"
            assert joined.lease_left_s == (self.roll.leases[alive] - self.now) / 1000
            return None
        assert not isinstance(joined, NameTaken), "only a live node's name is refused"
        assert node.inc not in self.limits, "an incarnation is new"
        self.roll.join(node.inc, self.now)
        self.limits[node.inc] = limit
        self.nodes.append(node)
        self.look()
        self.roll.note(self.view)
        return node

    def start_any_node(self) -> SimNode:
        started = map(self.start_node, NODE_NAMES)
        return next(node for node in started if node)

    def join(self, node: SimNode, name: str) -> int | NameTaken:
        """Send a node's join, and return the epoch; sent again it changes nothing."""
        command = self.commands.join(
            name,
            lease_s=LEASE_MS / 1000,
            nonce=node.nonce,
            limits=Limits(node.limit, 1000, LANES),
            pid=node.pid,
            host=HOST,
            versions=("3", "3"),
            placement=self.roll.placement,
        )
        reply = self.function(command, changes=True)
        try:
            joined = self.commands.read_join(name, reply)
        except NameTaken as error:
            return error
        node.inc = joined.incarnation
        return joined.epoch

    def beat(self, node: SimNode) -> Beaten | None:
        """Send a node's heartbeat; None where it is told that it has lost its lease."""
        told = stats_codec.encode(NodeStats(0.0, beats=self.number()))
        lease_s = LEASE_MS / 1000
        beat = self.commands.beat(node.inc, lease_s=lease_s, tally=Tally(hits=1), stats=told)
        reply = self.function(beat)
        try:
            beaten = self.commands.read_beat(reply)
        except LeaseLost:
            self.lose(node)
            return None
        state = "member" if node.inc in self.roll.members else "draining"
        taken = len(self.view.open[node.inc]) - len(self.view.queue_of(node.inc))
        assert beaten == Beaten(self.roll.epoch, state, taken)  # type: ignore[arg-type]
        self.roll.beat(node.inc, self.now)
        self.published.add(stats_codec.decode(node.inc, self.now / 1000, told))
        return beaten

    def lose(self, node: SimNode) -> None:
        """It was told that its lease is gone: it forgets everything."""
        assert not self.live(node), "only the dead are told so"
        self.nodes.remove(node)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(name_of, self.view.members))

    def slots_of(self, node: SimNode) -> bytes:
        """Return the hash slots of a node as it is told them; empty where there are none."""
        return packed(self.view.slots, node.inc) if self.view.slots else b""

    # --- the end of a membership ---

    def drain(self, name: str, inc: str = "") -> None:
        """By an operator who names a node, or by an incarnation for itself alone."""
        reply = self.function(self.commands.drain(name, inc), changes=True)
        present = self.roll.incarnation(name)
        acts = present is not None and inc in ("", present)
        assert reply == int(acts), "only who is alive drains"
        if acts and present:
            self.roll.retire(present)
            self.roll.note(self.view)
            self._check_emptied(present)

    def check_drained(self, node: SimNode) -> None:
        if node.inc not in self.view.members:
            self._check_emptied(node.inc)

    def _check_emptied(self, inc: str) -> None:
        """Its queue has only what goes with its holds."""
        held = {address for _, address in self.view.claims[inc].values()}
        left = [id for id in self.view.queue_of(inc) if id != MARK]
        for id in left:
            ids = self.view.groups[id].get(inc, []) if id in self.view.groups else [id]
            for one in ids:
                wanted = self.ledger.by_id.get(one)
                assert wanted, "nothing else is left"
                assert wanted.address in held, "what a drained node has is held or sent on"

    def leave(self, inc: str) -> None:
        reply = self.function(self.commands.leave(name_of(inc), inc), changes=True)
        assert reply == int(inc in self.roll.leases), "a node may leave once"
        if reply:
            check_order([inc], self.before, self.view)
            self.roll.drop(inc)
            self.roll.note(self.view)

    def report_death(self, node: SimNode) -> None:
        """Its supervisor says so: like a lease that has run out."""
        command = self.commands.report_death(node.name, pid=node.pid, host=HOST)
        reply = self.function(command, changes=True)
        assert reply == int(self.live(node)), "a successor is left alone"
        if reply:
            check_order([node.inc], self.before, self.view)
            self.ledger.died(self.before, node.inc, self.now)
            self.roll.drop(node.inc)
            self.roll.note(self.view)

    # --- what is asked for ---

    def new_call(self, pick: int) -> tuple[str, bytes]:
        """Return the address and the data of one of the ids."""
        id = IDS[pick % len(IDS)]
        return address("r", id), codec.encode_request(Request("r", id))
