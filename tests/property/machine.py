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
from outside import coin, group_picks, id_picks, limits, names, picks
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
            picked = [IDS.index(id) for id in mine]
            if node.pid % 2:
                self.call(picked[:1], 5.0, shared=False, twice=False)
            else:
                self.ask_for_many(picked, 5.0, only=None, twice=False)

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

    @rule(pick=picks, ids=group_picks)
    def many_wait_while_a_node_joins(self, pick: int, ids: list[int]) -> None:
        self.ask_for_many(ids, 5.0, only=None, twice=False)
        self._join_any(pick)
        self.take(pick, 128, False)

    @rule(ids=group_picks)
    def many_are_asked_for_again_where_nobody_lived(self, ids: list[int]) -> None:
        stage = self.stage
        for inc in list(stage.roll.leases):
            stage.leave(inc)
        stage.nodes.clear()
        order = stage.new_group(ids, timeout_s=5.0)
        stage.orders.append(order)
        stage.scatter(order, quiet=True)
        stage.open_session(stage.start_any_node())
        stage.scatter(order)

    @rule(pick=picks, together=coin)
    def what_is_held_is_asked_for(self, pick: int, together: bool) -> None:
        for claim in list(self.busy_node(pick).known.values())[:1]:
            id = IDS.index(parse_address(claim.address)[2])
            if together:
                self.ask_for_many([id, id + 1], 5.0, only=None, twice=False)
            else:
                self.call([id], 5.0, shared=False, twice=False)

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

    @rule(
        pick=picks,
        mask=st.integers(1, 15),
        ok=st.sampled_from((True, True, False)),
        together=coin,
        lost=st.sampled_from((False, False, True)),
    )
    def finish(self, pick: int, mask: int, ok: bool, together: bool, lost: bool) -> None:
        node = self.busy_node(pick)
        claims = [c for place, c in enumerate(node.known.values()) if mask >> place % 4 & 1]
        if mask % 2:
            claims.reverse()
        finishes = node.outcomes(claims, self.stage.now, ok=ok, together=together)
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
        self.what_is_held_is_asked_for(pick, not operator)
        if self.stage.live(node):
            self.stage.drain(node.name, "" if operator else node.inc)
            node.drained = not operator and self.stage.live(node)

    @rule(pick=picks, only=st.sampled_from((None, 1)), ends=coin)
    def callers_do_without_a_silent_node(self, pick: int, only: int | None, ends: bool) -> None:
        silent = self.busy_node(pick)
        self.stage.world.advance(LEASE_MS * 6 // 10)
        for node in [n for n in self.stage.nodes if n is not silent]:
            self._beat(node)
        for order in [o for o in self.stage.orders if any(j.id in silent.known for j in o.jobs)]:
            self.withdraw(order, only)
        if ends and silent in self.stage.nodes:
            self.finish(self.stage.nodes.index(silent), 15, True, True, False)

    @rule()
    def the_server_is_replaced(self) -> None:
        """By a process that has lost nothing, which nobody knows at first."""
        self.stage.world.server = f"server-{self.stage.number()}"
        for node in self.stage.nodes:
            node.blind = True

    @rule(pick=picks, ids=group_picks)
    def the_reply_that_gives_many_is_lost(self, pick: int, ids: list[int]) -> None:
        if node := self._node_that_may_take(pick):
            self.ask_for_many(ids, 5.0, only=None, twice=False)
            self.take(self.stage.nodes.index(node), 128, True)
            self.stage.open_session(node)

    @rule(pick=picks)
    def the_server_is_replaced_by_one_that_lacks_a_take(self, pick: int) -> None:
        if node := self._node_that_may_take(pick):
            before, known = self.stage.world.snapshot(), set(node.known)
            self.stage.take(node, 128)
            self.stage.forget(before, node, known)

    @rule(pick=picks, ids=group_picks)
    def the_server_is_replaced_by_one_that_lacks_an_order(self, pick: int, ids: list[int]) -> None:
        """And the take of it. The caller says again what it wants."""
        if not (node := self._node_that_may_take(pick)):
            return
        self.stage.take(node, 128)
        order = self.stage.new_group(ids, timeout_s=5.0)
        before, known = self.stage.world.snapshot(), set(node.known)
        self.stage.orders.append(order)
        self.stage.scatter(order, fenced=False)
        self.stage.take(node, 128)
        wanted = [self.stage.ledger[job.id] for job in order.jobs]
        if not any(w.refused for w in wanted):
            self.stage.forget(before, node, known)
            for w in wanted:
                w.copies = 2
            self.stage.scatter(order)

    def _node_that_may_take(self, pick: int) -> SimNode | None:
        node, stage = self.node(pick), self.stage
        if node.blind:
            stage.open_session(node)
        self.feed(node)
        stage.script(stage.cluster.survey())
        calm = not stage.ledger.deaths and stage.now >= stage.roll.settles_at
        return node if calm and node in stage.nodes and stage.live(node) else None

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
