"""The protocol under a random schedule: what may happen, in any order.

A step is one thing that a caller, a node, an operator or another application may do, or that may
befall one of them: a lost reply, a late packet, a pause, a crash. After each step the server's keys
are held against what is expected. At the end all nodes leave, one serves what is left, and every
request must have come to its one end.
"""

from __future__ import annotations

from boxes import Boxes
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from outside import coin, id_picks, limits, names, picks
from simnode import SimNode, zombie
from stage import IDS, LEASE_MS
from world import NODE_NAMES

from rqproc.cluster import Beaten, Finish, LeaseLost, SessionSuperseded, Tally
from rqproc.placement import address, parse_address


class Protocol(Boxes):
    """What may happen to nodes, and with them all that may happen."""

    @initialize(count=st.integers(1, 4), limit=limits)
    def nodes_join(self, count: int, limit: int) -> None:
        for name in NODE_NAMES[:count]:
            self.join(name, limit)

    def node(self, pick: int) -> SimNode:
        """A node that believes to be alive."""
        stage = self.stage
        if not stage.nodes:
            if len(stage.roll.leases) == len(NODE_NAMES):
                stage.let_leases_pass()
            stage.open_session(stage.start_any_node())
        return stage.nodes[pick % len(stage.nodes)]

    def busy_node(self, pick: int) -> SimNode:
        """A node that believes to hold something."""
        if busy := [node for node in self.stage.nodes if node.known]:
            return busy[pick % len(busy)]
        node = self.node(pick)
        self.take(pick, 128, False)
        return node if node in self.stage.nodes else self.node(pick)

    def feed(self, node: SimNode) -> None:
        """Let there be something for it to take."""
        mine = [i for i in IDS if self.stage.view.target(address("r", i)) == node.name]
        if mine and not self.stage.view.queues[node.name]:
            self.call([IDS.index(mine[0])], 5.0, shared=False, twice=False)

    # --- nodes ---

    @rule(name=names, limit=limits)
    def join(self, name: str, limit: int) -> None:
        if node := self.stage.start_node(name, limit):
            self.stage.open_session(node)

    @rule(first=picks, second=picks)
    def two_nodes_take_and_another_joins(self, first: int, second: int) -> None:
        """What many schedules need, and chance alone would seldom bring about."""
        self.take(first, 2, False)
        self.take(second, 2, False)
        self._join_any(first)

    @rule(pick=picks, ids=id_picks)
    def requests_wait_while_a_node_joins(self, pick: int, ids: list[int]) -> None:
        self.call(ids, 5.0, shared=True, twice=False)
        self._join_any(pick)
        self.take(pick, 128, False)

    @rule(pick=picks)
    def what_is_held_is_asked_for(self, pick: int) -> None:
        for claim in list(self.busy_node(pick).known.values())[:1]:
            id = parse_address(claim.address)[2]
            self.call([IDS.index(id)], 5.0, shared=False, twice=False)

    def _join_any(self, pick: int) -> None:
        if free := [name for name in NODE_NAMES[:4] if name not in self.stage.view.nodes]:
            self.join(free[pick % len(free)], 1000)

    @rule(pick=picks)
    def join_again_after_a_lost_reply(self, pick: int) -> None:
        node = self.node(pick)
        if self.stage.roll.leases.get(node.inc, 0) > self.stage.now:
            before = node.inc
            epoch = self.stage.join(node, node.name)
            self.stage.roll.beat(node.inc, self.stage.now)
            assert (node.inc, epoch) == (before, self.stage.roll.epoch), "it is told so again"

    @rule(pick=picks, ms=st.sampled_from((0, 1, 100, 300)))
    def time_passes_and_a_node_beats(self, pick: int, ms: int) -> None:
        self.stage.world.advance(ms)
        self._beat(self.node(pick))

    def _beat(self, node: SimNode) -> None:
        stage = self.stage
        reply = stage.script(
            stage.cluster.beat(node.inc, lease_s=LEASE_MS / 1000, tally=Tally(hits=1))
        )
        try:
            beaten = stage.cluster.read_beat(reply)
        except LeaseLost:
            stage.lose(node)
            return
        state = "member" if node.name in stage.roll.members else "draining"
        assert beaten == Beaten(stage.roll.epoch, state)
        stage.roll.beat(node.inc, stage.now)
        if state == "draining" and not node.drained:
            stage.drain(node.name, node.inc)
            node.drained = True

    @rule(pick=picks, most=st.sampled_from((1, 2, 128)), lost=st.sampled_from((False, False, True)))
    def take(self, pick: int, most: int, lost: bool) -> None:
        node = self.node(pick)
        if node.blind:
            self.stage.open_session(node)
        self.feed(node)
        if node in self.stage.nodes:
            self.stage.take(node, most, lost=lost)

    @rule(pick=picks)
    def reconnect(self, pick: int) -> None:
        self.stage.open_session(self.busy_node(pick))

    @rule(pick=picks)
    def a_take_of_an_older_session_arrives(self, pick: int) -> None:
        node, stage = self.node(pick), self.stage
        stage.open_session(node)
        if node not in stage.nodes:
            return
        self.feed(node)
        before = stage.world.dump()
        reaped = any(expiry <= stage.now for expiry in stage.roll.leases.values())
        taken = stage.ask_to_take(node, 9, session=node.session - 1)
        assert taken is (SessionSuperseded if stage.live(node) else LeaseLost)
        assert reaped or stage.world.dump() == before, "it changes nothing"

    @rule(pick=picks, mask=st.integers(1, 15), ok=coin, lost=st.sampled_from((False, False, True)))
    def finish(self, pick: int, mask: int, ok: bool, lost: bool) -> None:
        node = self.busy_node(pick)
        claims = [c for place, c in enumerate(node.known.values()) if mask >> place % 4 & 1]
        if mask % 2:
            claims.reverse()
        finishes = [node.outcome(claim, self.stage.now, ok=ok) for claim in claims]
        if not finishes:
            return
        self.stage.finish(node, finishes)
        for claim in claims:
            if lost:
                node.unsure.add(claim.id)
            else:
                del node.known[claim.id]
        node.done += [] if lost else finishes

    @precondition(lambda self: any(node.done for node in self.stage.nodes))
    @rule(pick=picks)
    def finishes_arrive_again(self, pick: int) -> None:
        node = self.node(pick)
        self.stage.finish(node, node.done[-3:])

    @rule(pick=picks, how=st.sampled_from(("unseen", "reported", "leaves")))
    def a_node_ends(self, pick: int, how: str) -> None:
        node, stage = self.busy_node(pick), self.stage
        stage.nodes.remove(node)
        if how == "leaves":
            stage.leave(node.inc)
        elif how == "reported":
            stage.report_death(node)

    @rule(pick=picks, operator=coin)
    def a_busy_node_drains(self, pick: int, operator: bool) -> None:
        """By an operator's word it will know with its next beat."""
        node = self.busy_node(pick)
        self.what_is_held_is_asked_for(pick)
        if self.stage.live(node):
            self.stage.drain(node.name, "" if operator else node.inc)
            node.drained = not operator and self.stage.live(node)

    @rule()
    def the_server_is_replaced(self) -> None:
        """By a process that has lost nothing, which nobody knows at first."""
        self.stage.world.server = f"server-{self.stage.number()}"
        for node in self.stage.nodes:
            node.blind = True

    @rule(pick=picks)
    def a_node_comes_back_with_what_it_still_runs(self, pick: int) -> None:
        """Its lease has run out, and more: nobody is answered for what it runs."""
        paused, stage = self.busy_node(pick), self.stage
        for _ in range(3):
            stage.world.advance(LEASE_MS * 4 // 10)
            for node in [n for n in stage.nodes if n is not paused]:
                self._beat(node)
        for node in [n for n in stage.nodes if n is not paused]:
            self.take(stage.nodes.index(node), 128, False)
        if not stage.live(paused) and (back := stage.start_node(paused.name)):
            if paused in stage.nodes:
                stage.nodes.remove(paused)
            back.zombies = {f"~{c.token}": zombie(c) for c in paused.known.values()}
            stage.open_session(back)

    @precondition(lambda self: any(node.zombies for node in self.stage.nodes))
    @rule(pick=picks)
    def what_still_ran_ends(self, pick: int) -> None:
        back = [node for node in self.stage.nodes if node.zombies]
        node = back[pick % len(back)]
        _, claim = node.zombies.popitem()
        self.stage.finish(node, [Finish(claim, "released")])

    # --- time ---

    @rule(
        survivors=st.sampled_from((15, 14, 13, 11, 7, 6, 0)),
        successor=coin,
        late=st.sampled_from(("nothing", "call", "take", "beat", "leave", "drain")),
        ids=id_picks,
    )
    def leases_run_out(self, survivors: int, successor: bool, late: str, ids: list[int]) -> None:
        """Nodes that do not beat are paused: they may come back late, and meet a successor."""
        paused = self.busy_node(ids[0])
        self.stage.world.advance(LEASE_MS * 6 // 10)
        for place, node in enumerate(list(self.stage.nodes)):
            if survivors >> place % 4 & 1 and node is not paused:
                self._beat(node)
        self.stage.world.advance(LEASE_MS * 4 // 10)
        if successor:
            self.join(paused.name, 1000)
        self._come_late(paused, late, ids)

    def _come_late(self, paused: SimNode, late: str, ids: list[int]) -> None:
        if late == "call":
            self.call(ids, 5.0, shared=False, twice=False)
        elif late == "take":
            self.stage.ask_to_take(paused, 2, session=paused.session)
        elif late == "beat" and paused in self.stage.nodes:
            self._beat(paused)
        elif late == "leave":
            self.stage.leave(paused.inc)
        elif late == "drain":
            self.stage.drain(paused.name, paused.inc)
