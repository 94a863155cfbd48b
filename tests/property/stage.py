"""Simulated nodes on a world, and what each of their steps must lead to. It plays by no schedule.

Knows what a node, a caller and a porter do with the scripts. Must not decide when: see ``machine``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ledger import LANES, LEASE_MS, MAX_ATTEMPTS, Ledger, Roll, Wanted, check_holds, name_of
from simnode import SimNode, answered
from world import NODE_NAMES, Mutation, View, World

from rqproc import wire
from rqproc.cluster import (
    Claim,
    Finish,
    FinishMany,
    Job,
    LeaseLost,
    Limits,
    Order,
    SessionSuperseded,
    Settling,
    Taken,
)
from rqproc.errors import NameTaken
from rqproc.keys import job_key
from rqproc.link import Command
from rqproc.model import Request
from rqproc.placement import address

IDS = (1, 2, 5, 2**53 - 1, "é:| x" + "€" * 100)
HOST = "host"
AT = "2026-01-01T00:00:00.000000Z"


class Stage:
    """A world, the expectation of it, and the steps that move both."""

    def __init__(self, url: str, mutation: Mutation | None = None) -> None:
        self.world = World(url, mutation)
        self.cluster = self.world.cluster
        self.roll = Roll()
        self.ledger = Ledger()
        self.nodes: list[SimNode] = []
        self.limits: dict[str, int] = {}
        self.orders: list[Order] = []
        self.groups: list[str] = []
        self.sound = True
        self._serial = 0
        self.view: View
        self.look()

    @property
    def now(self) -> int:
        return self.world.now

    def number(self) -> int:
        self._serial += 1
        return self._serial

    def look(self, *first: Command) -> list[Any]:
        """Run commands, and look at what is there then."""
        readable = [id for id, wanted in self.ledger.by_id.items() if wanted.junk != "text"]
        replies, self.view = self.world.look(
            *first,
            incs=list(self.limits),
            ids=readable,
            groups=self.groups,
            streams=self.ledger.streams,
        )
        self.ledger.hear(self.view.answers)
        return replies

    def script(self, command: Command, *, reaps: bool = True) -> Any:
        """Run one script; what it does to expired leases is expected here."""
        self.sound = False
        if reaps:
            for inc in self.roll.reap(self.now):
                self.ledger.died(self.view.taken[inc], self.now)
        self._taken_before = self.view.taken
        return self.look(command)[0]

    def let_leases_pass(self) -> None:
        """Nobody beats until all are dropped, grace and all."""
        for _ in range(2):
            self.world.advance(LEASE_MS)
            self.script(self.cluster.survey())

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
            assert node.running.keys() <= view.taken[node.inc].keys(), "what runs is taken"
            still = [z.address for id, z in node.zombies.items() if id in view.taken[node.inc]]
            for place in [*node.running.values(), *still]:
                assert at.setdefault(place, node.inc) == node.inc, f"two live nodes run {place}"
            if node.drained:
                self._check_drained(node, view)
        self.sound = True

    def _check_drained(self, node: SimNode, view: View) -> None:
        """It takes nothing any more: its queue may only hold what goes with its holds."""
        held = set(view.taken[node.inc].values())
        for wanted in (self.ledger[id] for id in view.queued_calls(node.name)):
            stuck = wanted.open_at(self.now) and wanted.job.address not in held
            assert not stuck or wanted.foreign, "what a drained node has is held or sent on"

    # --- callers ---

    def new_job(self, pick: int) -> Job:
        id = IDS[pick % len(IDS)]
        data = wire.encode_request(Request("r", id))
        return Job(f"{self.world.keys.namespace}-{self.number()}", address("r", id), data)

    def send(self, order: Order, command: Command | None = None) -> None:
        """Route an order, for the first time or again; ``command``: how, if not by itself."""
        before = {job.id: self.ledger.by_id.get(job.id) for job in order.jobs}
        reports = self.script(command or self.cluster.route(order))
        for job, report in zip(order.jobs, reports, strict=True):
            known = before[job.id]
            if known is None or (known.refused and order.kind == "job"):
                self.expect_routed(order, job, report)
            else:
                assert report == b"", "a known id is left alone"
        self.look()

    def expect_routed(self, order: Order, job: Job, report: bytes) -> None:
        deadline = self.now + round(order.timeout_s * 1000) if order.timeout_s else 0
        kind = "part" if order.together else order.kind
        wanted = self.ledger.add(Wanted(job, kind, order.reply or job.id, deadline))
        target = self.view.target(job.address)
        if report:
            self._expect_refused(wanted, json.loads(report), target)
        elif target is None:
            assert order.kind == "job", "a call does not wait for a node"
            assert job.id in self.view.waiting
        else:
            queue = self.view.queues[target]
            queued = self.view.queued_calls(target)
            assert not self.ledger.kills(job.address, self.now), "what kills nodes is refused"
            assert job.id in queued, "it is queued at its one target"
            assert len(queue) <= max(1, self._limit(target)), "the queue is bounded"

    def _expect_refused(self, wanted: Wanted, report: dict[str, Any], target: str | None) -> None:
        wanted.over = wanted.refused = True
        if wanted.kind != "job":
            wanted.expect = report["type"]
        if target is None and wanted.kind != "job":
            assert report["type"] == "NoLiveNode"
            return
        if report["type"] == "NodeLost":
            assert self.ledger.kills(wanted.job.address, self.now)
            return
        assert target
        assert (report["type"], report.get("node")) == ("Overloaded", target)
        queued = len(self.view.queues[target])
        assert queued == report["queued"] >= report["limit"] == self._limit(target)
        assert wanted.job.id not in self.view.queued_calls(target)

    def _limit(self, name: str) -> int:
        return self.limits[self.view.nodes[name]]

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
        return node

    def start_any_node(self) -> SimNode:
        started = map(self.start_node, NODE_NAMES)
        return next(node for node in started if node)

    def join(self, node: SimNode, name: str) -> int | NameTaken:
        """Send a node's join, and return the epoch; sent again it changes nothing."""
        command = self.cluster.join(
            name,
            lease_s=LEASE_MS / 1000,
            nonce=node.nonce,
            limits=Limits(node.limit, 1000, LANES),
            pid=node.pid,
            host=HOST,
            versions=("3", "3"),
        )
        reply = self.script(command)
        try:
            joined = self.cluster.read_join(name, reply)
        except NameTaken as error:
            return error
        node.inc = joined.incarnation
        return joined.epoch

    def lose(self, node: SimNode) -> None:
        """It was told that its lease is gone: it forgets everything."""
        assert not self.live(node), "only the dead are told so"
        self.nodes.remove(node)

    def open_session(self, node: SimNode) -> None:
        """What a node does on a new connection: it is told all that it has taken."""
        node.session += 1
        command = self.cluster.reconcile(
            node.inc,
            session=node.session,
            server=self.world.server,
            rejoined=bool(node.zombies),
            held=[*node.open_claims, *node.zombies.values()],
        )
        before = self.view.holders
        reply = self.script(command)
        if self.live(node):
            self.roll.reconcile(node.inc, self.world.server, self.now)
        try:
            told = self.cluster.read_take(reply)
        except LeaseLost:
            self.lose(node)
            return
        assert self.live(node), "the dead are told so"
        for id, zombie in node.zombies.items():
            free = before.get(zombie.address, node.inc).startswith(node.inc)
            assert not free or id in self.view.taken[node.inc], "what still runs is held again"
        assert (told.epoch, told.members or ()) == (self.view.epoch, self.view.members)
        ids = {claim.id for claim in told.claims}
        taken = self.view.taken[node.inc].keys() - node.zombies.keys()
        assert ids == taken, "it is told all that it has taken"
        news = {claim.id: claim for claim in told.claims if claim.id not in node.known}
        for claim in news.values():
            self.ledger.told_again(claim, self.now)
        node.known |= news
        node.epoch, node.blind = told.epoch, False

    def take(self, node: SimNode, most: int, *, lost: bool = False) -> int:
        """Take up to ``most``; with ``lost`` the node does not see the reply."""
        taken = self.ask_to_take(node, most, session=node.session)
        if taken is LeaseLost:
            self.lose(node)
            return 0
        self.ledger.given_up(self.view.answers, self.now)
        assert (taken is Settling) == (self.now < self.roll.settles_at), "first all have to speak"
        if taken is Settling:
            return 0
        assert isinstance(taken, Taken), "its session is the latest"
        assert self.live(node), "the dead take nothing"
        news = None if node.epoch == self.view.epoch else self.view.members or None
        assert (taken.epoch, taken.members) == (self.view.epoch, news), "a new epoch is told"
        claims = claimed(taken)
        assert len(claims) <= most, "no more than it has room for"
        for claim in claims:
            self.ledger.claimed(claim, self.now)
            assert self.view.target(claim.address) == node.name, "it takes what is its own"
            assert node.name in self.view.members, "a draining node takes nothing"
        node.blind = lost
        if not lost:
            node.epoch = taken.epoch
            node.known |= {claim.id: claim for claim in claims}
        return len(claims)

    def ask_to_take(self, node: SimNode, most: int, *, session: int) -> Taken | type[Exception]:
        """Return what a take gives, or the error that it is refused with."""
        reply = self.script(
            self.cluster.take(node.inc, session=session, epoch=node.epoch, most=most, at=AT)
        )
        try:
            return self.cluster.read_take(reply)
        except (LeaseLost, SessionSuperseded, Settling) as error:
            return type(error)

    def finish(self, node: SimNode, finishes: Sequence[Finish | FinishMany]) -> None:
        """Send finishes; only those of what this very incarnation has still taken may count."""
        mine = self.view.taken[node.inc]
        counting = [f for f in finishes if any(claim.id in mine for claim in answered(f))]
        sends_on = node.drained and self.live(node)
        before = None if counting or sends_on else self.world.dump()
        command = self.cluster.finish(node.inc, finishes, draining=node.drained)
        self.script(command, reaps=False)
        if before is not None:
            assert self.world.dump() == before, "a finish of what is not held changes nothing"
        for finish in counting:
            outcome = "ok" if isinstance(finish, FinishMany) else finish.outcome
            for claim in answered(finish):
                if claim.id in mine and outcome != "released":
                    self._expect_answered(claim, outcome, node.word(claim))

    def _expect_answered(self, claim: Claim, outcome: str, word: str) -> None:
        wanted = self.ledger[claim.id]
        if outcome != "expired":
            self.ledger.ended(claim.address)
        if wanted.gone or outcome == "expired":
            wanted.over = True
        elif not wanted.withdrawn:
            wanted.expect = word

    def drain(self, name: str, inc: str = "") -> None:
        """By an operator who names a node, or by an incarnation for itself alone."""
        reply = self.script(self.cluster.drain(name, inc))
        present = self.roll.incarnation(name)
        acts = present is not None and inc in ("", present)
        assert reply == int(acts), "only who is alive drains"
        if acts:
            self.roll.retire(name)

    def leave(self, inc: str) -> None:
        reply = self.script(self.cluster.leave(name_of(inc), inc))
        assert reply == int(inc in self.roll.leases), "a node may leave once"
        if reply:
            self.roll.drop(inc)

    def report_death(self, node: SimNode) -> None:
        """Its supervisor says so: like a lease that has run out."""
        command = self.cluster.report_death(node.name, pid=node.pid, host=HOST)
        reply = self.script(command)
        assert reply == int(self.live(node)), "a successor is left alone"
        if reply:
            self.ledger.died(self._taken_before[node.inc], self.now)
            self.roll.drop(node.inc)

    # --- the ingress queue ---

    def put(self, wanted: Wanted, queue: str, fields: dict[str, str | bytes]) -> None:
        """Another application writes a job hash and queues it."""
        id = self.ledger.add(wanted).job.id
        if fields:
            flat = [item for pair in fields.items() for item in pair]
            self.look(("HSET", job_key(id), *flat))
        self.look(("RPUSH", queue, id))

    def carry(self, *, refuse: bool = False) -> bool:
        """What two porters do with one job of the ingress queue; False where there is none."""
        keys = self.world.keys
        lists = (keys.ingress_queue, keys.ingress_intermediate)
        self.look(("LMOVE", *lists, "LEFT", "RIGHT"))
        if not (left := self.view.intermediate):
            return False
        self.adopt(left[-1], refuse=refuse)
        self.adopt(left[-1], refuse=refuse)
        return True

    def _queued_by_now(self, wanted: Wanted) -> bool:
        """Whether RQ's status is that, once the dead have been dropped."""
        id = wanted.job.id
        orphan = any(id in self.view.taken[inc] for inc in self.roll.doomed(self.now))
        status = self.view.about.get(id, ("", 0))[0]
        recovered = status == "started" and orphan and wanted.lost + 1 < MAX_ATTEMPTS
        return status == "queued" or recovered

    def adopt(self, id: str, *, refuse: bool) -> None:
        wanted = self.ledger[id]
        acts = id in self.view.intermediate and self._queued_by_now(wanted)
        refuse = refuse or bool(wanted.junk)
        adopt = self.cluster.adopt(id, wanted.job.address)
        reply = self.script(self.cluster.refuse(id, "no") if refuse else adopt)
        assert reply == int(acts), "the first to take it off the list acts"
        if acts and refuse:
            wanted.expect, wanted.over = "no", True
        elif acts:
            if wanted.lost > self.view.about[id][1]:
                self.ledger.ended(wanted.job.address)
            wanted.lost = min(wanted.lost, self.view.about[id][1])
            wanted.deadline_ms = int(self.world.run(("HGET", job_key(id), "rqproc_deadline")))
            assert 0 <= wanted.deadline_ms <= self.now + wanted.ttl_s * 1000, "its ttl"


def claimed(taken: Taken) -> list[Claim]:
    """What a take gave, call by call, in the order of their tokens."""
    claims = list(taken.claims)
    for many in taken.together:
        addresses = [raw.decode(errors="surrogateescape") for raw in many.calls[1::2]]
        claims += [many.claim(place, address) for place, address in enumerate(addresses)]
    return sorted(claims, key=lambda claim: claim.token)


def started(stage: Stage, name: str = "a", *, limit: int = 1000) -> SimNode:
    """Return a node that has just joined and opened its session."""
    node = stage.start_node(name, limit)
    assert node
    stage.open_session(node)
    return node
