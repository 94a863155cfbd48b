"""The protocol under a random schedule: what may happen, in any order.

A step is one thing that a caller, a node, an operator or another application may do, or that may
befall one of them: a lost reply, a late packet, a pause, a crash. After each step the server's keys
are held against what is expected. At the end all nodes leave, one serves what is left, and every
request must have come to its one end.
"""

from __future__ import annotations

import objects
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from ledger import LEASE_MS, LONG_MS
from outside import Outside, coin, group_picks, id_picks, limits, names, picks, seldom
from simnode import SimNode, is_group
from stage import IDS
from world import NODE_NAMES

from rqproc.ids import address, parse_address
from rqproc.placement import PLACEMENTS, Placement
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import LeaseLost, SessionSuperseded

FLUSHES = (":flushed", ":flushed-all")


class Protocol(Outside):
    """What may happen to nodes, and with them all that may happen."""

    @initialize(count=st.integers(1, 4), limit=limits, placement=st.sampled_from(PLACEMENTS))
    def nodes_join(self, count: int, limit: int, placement: Placement) -> None:
        self.stage.roll.placement = placement
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

    def seeing_node(self, pick: int) -> SimNode:
        """One that has a session."""
        node = self.node(pick)
        if node.blind:
            self.stage.open_session(node)
        return node if node in self.stage.nodes else self.seeing_node(pick)

    def taking_node(self, pick: int) -> SimNode:
        """One that has taken something."""
        node = self.seeing_node(pick)
        if not node.taken:
            self.feed(node)
            self.stage.pop(node, 9)
        return node

    def busy_node(self, pick: int) -> SimNode:
        """One that runs something, if that may be."""
        if busy := [node for node in self.stage.nodes if node.known]:
            return busy[pick % len(busy)]
        node = self.taking_node(pick)
        self.claim_all(node)
        return node if node in self.stage.nodes else self.node(pick)

    def claim_all(self, node: SimNode) -> None:
        ids = [id for id in node.taken if not is_group(id)]
        self.stage.claim(node, ids, turns=list(node.waiting))
        for group in [id for id in node.taken if is_group(id)]:
            if node in self.stage.nodes:
                self.settle_one(node, group, 0)

    def settle_one(self, node: SimNode, group: str, mask: int, *, lost: bool = False) -> None:
        if group not in node.texts and not self.stage.read_group(node, group):
            del node.taken[group], node.texts[group]
            return
        self.stage.settle(node, group, mask, lost=lost)

    def feed(self, node: SimNode) -> None:
        """Let there be something for it to take."""
        owners = self.stage.view
        mine = [i for i in IDS if owners.owner(address("r", i)) == node.inc]
        if mine and not any(id != "epoch" for id in owners.queues[node.name]):
            picked = [IDS.index(id) for id in mine]
            if node.pid % 2:
                self.ask(picked[:2], 5.0, "c", late=False)
            else:
                self.ask_for_many(picked, 5.0, late=False)

    # --- nodes ---

    @rule(name=names, limit=limits)
    def join(self, name: str, limit: int) -> None:
        if node := self.stage.start_node(name, limit):
            self.stage.open_session(node)

    @rule(first=picks, second=picks)
    def two_nodes_run_and_another_joins(self, first: int, second: int) -> None:
        """What many schedules need, and chance alone would seldom bring about."""
        for pick in (first, second):
            node = self.taking_node(pick)
            self.claim_all(node)
        self._join_any(first)

    @rule(pick=picks, ids=group_picks, together=coin)
    def requests_wait_while_a_node_joins(self, pick: int, ids: list[int], together: bool) -> None:
        if together:
            self.ask_for_many(ids, 5.0, late=False)
        else:
            self.ask(ids, 5.0, "c", late=False)
        self._join_any(pick)
        self.stage.pop(self.seeing_node(pick), 9)

    @rule(pick=picks, together=coin)
    def what_is_run_is_asked_for(self, pick: int, together: bool) -> None:
        for claim in list(self.busy_node(pick).known.values())[:1]:
            id = IDS.index(parse_address(claim.address)[2])
            if together:
                self.ask_for_many([id, id + 1], 5.0, late=False)
            else:
                self.ask([id], 5.0, "c", late=False)

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
        beaten = stage.beat(node)
        if beaten is None:
            return
        if beaten.state == "draining" and not node.drained:
            stage.drain(node.name, node.inc)
            node.drained = True
        if beaten.taken > len(node.taken) + len(node.runs) and not node.blind:
            stage.open_session(node)  # it was sent more than it has got

    @rule(
        pick=picks,
        most=st.sampled_from((1, 2, 128)),
        lost=st.sampled_from(("no", "no", "no", "lost", "unnoticed")),
    )
    def pop(self, pick: int, most: int, lost: str) -> None:
        node = self.seeing_node(pick)
        self.feed(node)
        self.stage.pop(node, most, lost=lost != "no", notices=lost == "lost")

    @rule(
        pick=picks,
        mask=st.sampled_from((15, 15, 5, 10)),
        room=st.sampled_from((1000, 1000, 1, 0)),
        lost=seldom,
    )
    def claim(self, pick: int, mask: int, room: int, lost: bool) -> None:
        node = self.taking_node(pick)
        ids = [id for id in node.taken if not is_group(id)]
        ids = [id for place, id in enumerate(ids) if mask >> place % 4 & 1]
        turns = list(node.waiting)[: mask % 3]
        self.stage.claim(node, ids, turns=turns, room=room, lost=lost)

    @rule(pick=picks)
    def a_node_reads_a_group(self, pick: int) -> None:
        node = self.taking_node(pick)
        for group in [id for id in node.taken if is_group(id)][:1]:
            self.stage.read_group(node, group)

    @rule(pick=picks, mask=st.sampled_from((0, 15, 5, 10, 7)), lost=seldom)
    def settle(self, pick: int, mask: int, lost: bool) -> None:
        node = self.taking_node(pick)
        for group in [id for id in node.taken if is_group(id)][:1]:
            self.settle_one(node, group, mask, lost=lost)

    @rule(pick=picks, count=st.integers(1, 3), again=seldom)
    def calls_are_answered_from_entries(self, pick: int, count: int, again: bool) -> None:
        """Calls that were not claimed, and groups as a whole; ``again``: their reply was lost."""
        node, stage = self.taking_node(pick), self.stage
        plain = [id for id in node.taken if not is_group(id) and id.startswith("r")][:count]
        endings = [node.hit(id) for id in plain]
        for group in [id for id in node.taken if is_group(id)][:1]:
            text = node.texts.get(group) or stage.read_group(node, group)
            places = text.split()[::2]
            if places:
                node.sent_texts[group] = text
                payload = node.group_answer(group, places)
                endings.append(Commands.many(group, payload, len(text)))
            node.texts.pop(group, None)
            node.taken.pop(group)
        for _ in range(1 + again):
            if endings:
                stage.answer(node, endings)
        for id in plain:
            del node.taken[id]
        node.done += endings

    @rule(pick=picks)
    def calls_join_a_run(self, pick: int) -> None:
        node = self.busy_node(pick)
        places = {claim.address for claim in node.known.values()}
        wanted = [self.stage.ledger.by_id.get(id) for id in node.taken]
        joined = [w for w in wanted if w and w.kind != "job" and w.address in places]
        jobs = [claim for claim in node.waiting.values() if claim.address in places]
        if joined or jobs:
            endings = [node.joined(w.id, w.address) for w in joined]
            self.stage.answer(node, endings + [node.ending(claim) for claim in jobs])
            for w in joined:
                del node.taken[w.id]
            for claim in jobs:
                del node.waiting[claim.id]

    @rule(pick=picks, forgets=coin)
    def reconnect(self, pick: int, forgets: bool) -> None:
        self.stage.open_session(self.busy_node(pick), forgets=forgets)

    @rule(pick=picks)
    def packets_of_an_older_session_arrive(self, pick: int) -> None:
        node, stage = self.taking_node(pick), self.stage
        stage.open_session(node)
        if node not in stage.nodes:
            return
        self.feed(node)
        stage.pop(node, 9)
        for group in [id for id in node.taken if is_group(id)][:1]:
            stage.read_group(node, group)
        before = stage.world.dump()
        calm = all(expiry > stage.now for expiry in stage.roll.leases.values())
        late = SessionSuperseded if stage.live(node) else LeaseLost
        told = [stage.ask_to_claim(node, list(node.taken), session=node.session - 1)]
        for group in [id for id in node.taken if is_group(id)][:1]:
            told.append(stage.settle(node, group, 5, session=node.session - 1))
        for one in told:
            assert one is late or not stage.live(node)
        assert not calm or stage.world.dump() == before, "they change nothing"

    @rule(
        pick=picks,
        mask=st.integers(1, 15),
        ok=st.sampled_from((True, True, False)),
        outcome=st.sampled_from(("", "", ":stuck", ":stuck", ":dropped", ":expired", *FLUSHES)),
        lost=seldom,
    )
    def runs_end(self, pick: int, mask: int, ok: bool, outcome: str, lost: bool) -> None:
        node = self.busy_node(pick)
        claims = [c for place, c in enumerate(node.known.values()) if mask >> place % 4 & 1]
        claims = [claim for claim in claims if claim.id not in node.unsure]
        if outcome == ":stuck":
            claims = claims[:1]
        if mask % 2:
            claims.reverse()
        endings = [self._ending(node, claim, outcome, ok=ok) for claim in claims]
        if not endings:
            return
        self.stage.answer(node, endings)
        for claim, ending in zip(claims, endings, strict=True):
            if str(ending[0]).endswith(":stuck"):
                late = node.ending(claim, ":ended", ok=ok)
                node.stuck[claim.id] = claim, late
                del node.known[claim.id]
            elif lost:
                node.unsure[claim.id] = ending
            else:
                del node.known[claim.id]
                node.done.append(ending)
        node.blind = node.blind or lost

    def _ending(self, node: SimNode, claim, outcome: str, *, ok: bool):  # type: ignore[no-untyped-def]
        late = 0 < claim.deadline_ms <= self.stage.now
        if outcome == ":expired" and not late:
            outcome = ""
        if outcome in (":dropped", *FLUSHES) and (claim.what == "job" or not ok):
            outcome = ""
        return node.ending(claim, outcome, ok=ok)

    @rule(pick=picks, reconnects=coin)
    def an_answer_is_lost_on_its_way(self, pick: int, reconnects: bool) -> None:
        self.busy_node(pick)
        self.a_caller_hears_nothing()
        self.runs_end(pick, 15, True, "", False)
        self.stage.deaf.clear()
        if reconnects:
            self.stage.lose_connection()
        else:
            for order in [o for o in self.stage.orders if o not in o.caller.late]:
                self.stage.ask_again(order)

    @rule(pick=picks, twice=coin)
    def what_was_stuck_ends(self, pick: int, twice: bool) -> None:
        if not any(node.stuck for node in self.stage.nodes):
            self.runs_end(pick, 15, True, ":stuck", False)
            return
        nodes = [node for node in self.stage.nodes if node.stuck]
        node = nodes[pick % len(nodes)]
        claim, ending = next(iter(node.stuck.values()))
        for _ in range(1 + twice):
            self.stage.answer(node, [ending])
        del node.stuck[claim.id]
        node.done.append(ending)

    @rule(pick=picks)
    def endings_arrive_again(self, pick: int) -> None:
        nodes = [node for node in self.stage.nodes if node.done]
        if not nodes:
            self.runs_end(pick, 15, True, "", True)
            return
        node = nodes[pick % len(nodes)]
        self.stage.answer(node, node.done[-3:])

    @rule(pick=picks, how=st.sampled_from(("unseen", "reported", "leaves")))
    def a_node_ends(self, pick: int, how: str) -> None:
        node, stage = self.busy_node(pick), self.stage
        stage.nodes.remove(node)
        if how == "leaves":
            stage.leave(node.inc)
        elif how == "reported":
            stage.report_death(node)

    @rule(pick=picks)
    def nodes_die_on_an_id(self, pick: int) -> None:
        for _ in range(3):
            self.a_node_ends(pick, "reported")
        self.enqueue([0, 1, 2, 3, 4], 0.0, twice=False)

    @rule(pick=picks, operator=coin)
    def a_busy_node_drains(self, pick: int, operator: bool) -> None:
        """By an operator's word it will know with its next beat."""
        node = self.busy_node(pick)
        self.what_is_run_is_asked_for(pick, not operator)
        if self.stage.live(node):
            self.stage.drain(node.name, "" if operator else node.inc)
            node.drained = not operator and self.stage.live(node)

    @rule(pick=picks, ends=coin)
    def callers_do_without_a_silent_node(self, pick: int, ends: bool) -> None:
        silent = self.busy_node(pick)
        self.stage.world.advance(LEASE_MS * 6 // 10)
        for node in [n for n in self.stage.nodes if n is not silent]:
            self._beat(node)
        for order in self.stage.orders:
            if order not in order.caller.late and any(w.id in silent.known for w in order.wanted):
                self.stage.withdraw(order)
        if ends and silent in self.stage.nodes:
            self.runs_end(self.stage.nodes.index(silent), 15, True, "", False)

    # --- objects of stateful ids ---

    @rule(pick=picks, keeps=coin)
    def runs_use_objects(self, pick: int, keeps: bool) -> None:
        node = self.busy_node(pick)
        for claim in sorted(node.known.values(), key=lambda claim: claim.token):
            made = objects.take(self.stage, node, claim)
            if made and keeps:
                objects.keep(self.stage, made, self._text())

    @rule(pick=picks, empty=seldom)
    def a_state_is_kept_at_any_time(self, pick: int, empty: bool) -> None:
        """By a process that has its lease, or has lost it and does not know."""
        if not self.stage.objects:
            self.runs_use_objects(pick, keeps=False)
        if made := self.stage.objects:
            objects.keep(self.stage, made[pick % len(made)], "" if empty else self._text())

    @rule(pick=picks, ends=coin)
    def an_object_is_closed(self, pick: int, ends: bool) -> None:
        if not any(node.objects for node in self.stage.nodes):
            self.runs_use_objects(pick, keeps=False)
        if ends:
            self.runs_end(pick, 15, True, "", False)
        nodes = [node for node in self.stage.nodes if node.objects and not node.blind]
        for node in nodes[:1]:
            made = next(iter(node.objects.values()))
            objects.close(self.stage, node, made, self._text())

    @rule(pick=picks)
    def an_object_outlives_the_lease_of_its_node(self, pick: int) -> None:
        """The next owner takes the state, and may keep one; then the first one wakes up."""
        self.runs_use_objects(pick, keeps=True)
        paused, late = self.stage.nodes[:1], list(self.stage.objects)
        for _ in range(3):
            self.stage.world.advance(LEASE_MS * 4 // 10)
            for node in self.stage.nodes[1:]:
                self._beat(node)
        if len(self.stage.nodes) > len(paused):
            self.runs_use_objects(1, keeps=bool(pick % 2))
        for made in late:
            objects.keep(self.stage, made, self._text())

    def _text(self) -> str:
        return str(self.stage.number())

    # --- other servers ---

    @rule()
    def the_server_is_replaced(self) -> None:
        """By a process that has lost nothing, which nobody knows at first."""
        self.stage.world.server = f"server-{self.stage.number()}"
        self.stage.be_another_process()
        for node in self.stage.nodes:
            node.blind = True

    @rule()
    def the_server_writes_a_copy(self) -> None:
        self.stage.remember()

    @rule(pick=picks)
    def the_server_is_replaced_by_one_that_lacks_claims(self, pick: int) -> None:
        node = self.taking_node(pick)
        self.stage.remember()
        self.claim_all(node)
        self.the_server_forgets()

    @precondition(lambda self: self.stage.memory)
    @rule()
    def the_server_forgets(self) -> None:
        stage = self.stage
        if stage.memory:
            stage.forget(stage.memory)
            for node in list(stage.nodes):
                stage.open_session(node)

    @rule(pick=picks)
    def a_node_comes_back_with_what_it_still_runs(self, pick: int) -> None:
        """Its lease has run out, and more: nobody is answered for what it runs."""
        paused, stage = self.busy_node(pick), self.stage
        for _ in range(3):
            stage.world.advance(LEASE_MS * 4 // 10)
            for node in [n for n in stage.nodes if n is not paused]:
                self._beat(node)
        for node in [n for n in stage.nodes if n is not paused and not n.blind]:
            stage.pop(node, 128)
            self.claim_all(node)
        if not stage.live(paused) and (back := stage.start_node(paused.name)):
            if paused in stage.nodes:
                stage.nodes.remove(paused)
            zombies = map(paused.zombie, paused.known.values())
            back.zombies = {claim.id: claim for claim in zombies}
            stage.open_session(back)

    @precondition(lambda self: any(node.zombies for node in self.stage.nodes))
    @rule(pick=picks)
    def what_still_ran_ends(self, pick: int) -> None:
        back = [node for node in self.stage.nodes if node.zombies]
        node = back[pick % len(back)]
        _, claim = node.zombies.popitem()
        self.stage.answer(node, [Commands.call(":ended", claim.id, claim.address, "", 0.0)])

    # --- time ---

    @rule(by_ms=st.sampled_from((-3_600_000, -300, 700, 3_600_000)), pick=picks)
    def the_servers_clock_is_set(self, by_ms: int, pick: int) -> None:
        """Nodes that live say so in time: none is dropped for it."""
        self.busy_node(pick)
        for node in list(self.stage.nodes):
            self._beat(node)
        self.stage.set_clock(by_ms)
        alive = list(self.stage.nodes)
        self.stage.world.advance(LEASE_MS // 2 - 1)
        for node in alive:
            self._beat(node)
        assert self.stage.nodes == alive, "a step is nobody's death"

    @rule(ids=id_picks, together=coin, speaks=coin)
    def callers_come_after_a_long_silence(
        self, ids: list[int], together: bool, speaks: bool
    ) -> None:
        self.stage.world.advance(LEASE_MS + LONG_MS)
        if together:
            self.ask_for_many(ids, 5.0, late=False)
        else:
            self.ask(ids, 5.0, "c", late=False)
        if speaks and self.stage.nodes:
            self._beat(self.stage.nodes[-1])
        self.stage.world.advance(LEASE_MS // 2)
        self.stage.function(self.stage.commands.survey())

    @rule(
        survivors=st.sampled_from((15, 14, 13, 11, 7, 6, 0)),
        successor=coin,
        late=st.sampled_from(("nothing", "call", "claim", "beat", "leave", "drain")),
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
            self.ask(ids, 5.0, "c", late=False)
        elif late == "claim" and paused in self.stage.nodes and not paused.blind:
            self.claim_all(paused)
        elif late == "beat" and paused in self.stage.nodes:
            self._beat(paused)
        elif late == "leave":
            self.stage.leave(paused.inc)
        elif late == "drain":
            self.stage.drain(paused.name, paused.inc)
