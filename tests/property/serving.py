"""What simulated nodes do with what is asked of them, and what each step must lead to.

Knows sessions, claims, answers and the ingress queue. Callers: see ``callers``. Must not decide
when: see ``machine``.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any

from ledger import Wanted
from simnode import SimNode
from stage import PLAIN, Stage
from world import MARK, View, part_id, parts

from rqproc.protocol import answer_codec
from rqproc.protocol.keys import job_key
from rqproc.protocol.messages import Claim, Claimed, LeaseLost, Sent, SessionSuperseded, Settling
from rqproc.protocol.node_commands import Ending

AT = "2026-01-01T00:00:00.000000Z"

Refusal = type[Exception]


class Serving(Stage):
    """A stage on which nodes serve."""

    def open_session(self, node: SimNode, *, forgets: bool = False) -> None:
        """What a node does on a new connection: it says what it knows, and is told the members.

        ``forgets``: what it has taken and not claimed, so that it is queued anew.
        """
        node.session += 1
        if forgets:
            node.taken.clear()
            node.texts.clear()
        command = self.commands.reconcile(
            node.inc,
            session=node.session,
            server=self.world.server,
            rejoined=bool(node.zombies),
            known=node.to_name(),
        )
        reply = self.function(command, changes=True)
        if self.live(node):
            self.roll.reconcile(node.inc, self.world.server, self.now)
        self.roll.note(self.view)
        try:
            told = self.commands.read_claim(reply)
        except LeaseLost:
            self.lose(node)
            return
        assert self.live(node), "the dead are told so"
        for id, claim in node.zombies.items():
            free = (self.before.holder(claim.address) or node.inc) == node.inc
            assert not free or id in self.view.claims[node.inc], "what still runs is held again"
        self._expect_held_again(node)
        assert (told.epoch, told.members) == (self.view.epoch, self.names or None), "members"
        assert told.slots == self.slots_of(node), "and its own slots"
        assert not told.claims
        node.epoch, node.blind = told.epoch, False
        node.swallowed.clear()
        for id in self.view.claims[node.inc]:
            assert id in node.runs, "what is held without its knowing is released"
        if node.drained:  # which a server may have forgotten
            self.drain(node.name, node.inc)
        self._say_again(node)

    def _expect_held_again(self, node: SimNode) -> None:
        """What it runs and is owed is open at it, wherever a server's copy had it."""
        for id in self.view.claims[node.inc].keys() - self.before.claims[node.inc].keys():
            wanted = self.ledger.by_id.get(id)
            if not wanted or not self.view.about[id].status:
                continue
            assert id in self.view.open[node.inc], "who runs it may end it"
            if wanted.foreign:
                wanted.adrift = False
                self._expect_ttl(wanted)

    def _expect_ttl(self, wanted: Wanted) -> None:
        """A job of another application has its ttl from when it was routed."""
        key = job_key(wanted.id)
        wanted.deadline_ms = int(self.world.run(("HGET", key, "rqproc_deadline")))
        assert 0 <= wanted.deadline_ms <= self.now + wanted.ttl_s * 1000, "its ttl"

    def _say_again(self, node: SimNode) -> None:
        """What the server may not have had is sent once more."""
        if node.unsure:
            self.answer(node, list(node.unsure.values()))
            for id in node.unsure:
                node.known.pop(id, None)
                node.stuck.pop(id, None)
            node.unsure.clear()

    def pop(self, node: SimNode, most: int, *, lost: bool = False, notices: bool = True) -> int:
        """Take up to ``most`` from its queue; ``lost``: on their way, which it notices or not."""
        queue = self.view.queues[node.name]
        command = ("LMPOP", "1", self.world.keys.queue(node.name), "LEFT", "COUNT", str(most))
        (reply,) = self.look(command)
        ids = [raw.decode(errors="surrogateescape") for raw in reply[1]] if reply else []
        assert ids == queue[:most]
        if present := self.roll.incarnation(node.name):
            self.roll.popped[present] += ids.count(MARK)
        ids = [id for id in ids if id != MARK]
        for other in self.nodes:  # a node that has lost its lease may pop what is its successor's
            if other.inc == present and other is not node:
                other.swallowed |= self.view.open[other.inc].keys() & ids
        if lost:
            node.blind = node.blind or notices
            node.swallowed |= {id for id in ids if id in self.view.open.get(node.inc, ())}
            self._drop_strays(node, ids)
            return len(ids)
        for id in ids:
            if id not in node.runs and id not in node.waiting:
                node.taken[id] = None
                node.texts.pop(id, None)
        return len(ids)

    def _drop_strays(self, node: SimNode, ids: Iterable[str]) -> None:
        """What lay in a queue without being open there is lost for good."""
        for id in ids:
            if id not in self.view.open.get(node.inc, ()) and id in self.ledger.by_id:
                self.ledger[id].adrift = True

    # --- claims ---

    def claim(
        self, node: SimNode, ids: Sequence[str], *, turns: Sequence[str] = (), room: int = 1000,
        lost: bool = False,
    ) -> Claimed | Refusal:  # fmt: skip
        """Claim what has been taken, and jobs whose turn has come.

        Args:
            room: how many jobs may be started whose turn has not.
            lost: the node does not see the reply.
        """
        both = [*turns, *ids]
        told = self.ask_to_claim(node, both, session=node.session, turns=len(turns), room=room)
        if not self._is_given(node, told):
            return told
        assert isinstance(told, Claimed)
        self._expect_claims(node, told.claims)
        self._expect_waiting(node, told.claims, turns, room)
        assert [claim.id for claim in told.claims] == both
        if lost:
            node.blind = True
        else:
            self._learn(node, told)
        return told

    def ask_to_claim(
        self, node: SimNode, ids: Sequence[str], *, session: int, turns: int = 0, room: int = 1000
    ) -> Claimed | Refusal:
        raw = [id.encode(errors="surrogateescape") for id in ids]
        command = self.commands.claim(
            node.inc, raw, session=session, epoch=node.epoch, at=AT, turns=turns, room=room
        )
        return self._read(self.function(command))

    def _read(self, reply: Any) -> Claimed | Refusal:
        try:
            return self.commands.read_claim(reply)
        except (LeaseLost, SessionSuperseded, Settling) as error:
            return type(error)

    def _is_given(self, node: SimNode, told: Claimed | Refusal) -> bool:
        if told is LeaseLost:
            self.lose(node)
            return False
        assert self.live(node), "the dead claim nothing"
        assert (told is Settling) == (self.now < self.roll.settles_at), "first all have to speak"
        if told is Settling:
            return False
        assert isinstance(told, Claimed), "its session is the latest"
        news = None if node.epoch == self.view.epoch else self.names or None
        assert (told.epoch, told.members) == (self.view.epoch, news), "a new epoch is told"
        assert told.slots == (self.slots_of(node) if news else b""), "and what of it is its own"
        flushed = {name.encode(): token for name, token in self.roll.flushed.items()}
        is_new = node.epoch != self.view.epoch
        assert told.flushed == (flushed if is_new else {}), "and what is no entry any more"
        return True

    def _expect_claims(self, node: SimNode, claims: Iterable[Claim]) -> None:
        """What a claim gave, and what it did not."""
        for claim in claims:
            wanted = self.ledger.by_id.get(claim.id)
            if wanted is None:
                assert claim.what == "gone", "nothing unknown is given out"
            elif claim.id in self.before.claims[node.inc]:
                was_given = self.before.claims[node.inc][claim.id]
                assert (claim.token, claim.address) == was_given, "it is answered as the first time"
            elif claim.what in ("waits", "first"):
                continue  # see _expect_waiting
            elif claim.what in ("call", "job"):
                self.ledger.claimed(claim, self.now)
                assert node.inc in self.view.members, "a draining node is given nothing new"
                assert self.view.holder(claim.address) == node.inc, "it is held"
                was = self.before.holder(claim.address)
                assert was in (None, node.inc) or was not in self.roll.leases, "it was no other's"
                if was != node.inc:
                    assert self.view.owner(claim.address) == node.inc, "it is its own"
            elif claim.what == "lost":
                deaths = self.ledger.kills(claim.address, self.now)
                assert claim.deaths in (deaths, wanted.lost)
                assert claim.deaths >= 3, "nobody is given up without a reason"
            else:
                self._expect_gone(node, wanted)

    def _expect_waiting(
        self, node: SimNode, claims: Iterable[Claim], turns: Sequence[str], room: int
    ) -> None:
        """A job waits for its turn, or for room."""
        started = 0
        for claim in claims:
            new = claim.id not in self.before.claims[node.inc] and claim.id not in turns
            started += claim.what == "job" and new
            assert claim.what != "job" or not new or started <= room, "there is room for it"
            if claim.what in ("waits", "first"):
                assert self.ledger[claim.id].open_at(self.now)
                assert not claim.token, "it is not claimed"
                assert claim.id not in turns, "its turn has come"
                assert claim.id in self.view.open[node.inc], "it waits here"
                busy = self.view.holder(claim.address) == node.inc
                assert busy or started >= room, "nothing keeps it from being started"

    def _expect_gone(self, node: SimNode, wanted: Wanted) -> None:
        if wanted.id in self.view.open[node.inc]:
            assert node.inc not in self.view.members, "what is its own is given"
            assert self.view.holder(wanted.address) == node.inc, "it waits for that run to end"
            assert wanted.id in self.view.queue_of(node.inc)
            return
        if not wanted.open_at(self.now):
            if wanted.state == "open":
                wanted.state = "over"
            return
        target = self.view.target(wanted.address)
        if wanted.kind == "job" and (self.view.suspended or target is None):
            assert wanted.id in self.view.ingress, "it waits where all jobs do"
        elif wanted.id in self.before.open[node.inc]:
            assert target != node.inc, "what is its own is given"
            assert target is None or wanted.id in self.view.open[target], "it is sent on"
        wanted.adrift = wanted.adrift and wanted.id not in self.view.ingress

    def _learn(self, node: SimNode, told: Claimed) -> None:
        node.epoch = told.epoch
        lost = []
        for claim in told.claims:
            node.taken.pop(claim.id, None)
            node.waiting.pop(claim.id, None)
            if claim.what in ("waits", "first"):
                node.waiting[claim.id] = claim
            elif claim.what in ("call", "job") and claim.id not in node.stuck:
                node.known[claim.id] = claim
                node.done = [ending for ending in node.done if ending[1] != claim.id]
            elif claim.what == "lost":
                lost.append(node.lost(claim))
        if lost:
            self.answer(node, lost)

    # --- groups ---

    def read_group(self, node: SimNode, group: str) -> str:
        """Read which of its calls are at a node."""
        (raw,) = self.look(self.commands.group(group, node.inc))
        node.texts[group] = text = (raw or b"").decode(errors="surrogateescape")
        return text

    def settle(
        self, node: SimNode, group: str, mask: int, *, session: int | None = None,
        lost: bool = False,
    ) -> Claimed | Refusal:  # fmt: skip
        """Answer those of a group's calls that the mask has, and claim the others."""
        text = node.texts[group]
        hits = [place for place, _ in parts(text) if mask >> int(place) % 4 & 1]
        runs = [(place, place_at) for place, place_at in parts(text) if place not in hits]
        ids = [part_id(group, *run) for run in runs]
        command = self.commands.settle(
            node.inc, group, len(text), node.group_answer(group, hits),
            [(id, PLAIN) for id in ids], session=node.session if session is None else session,
            epoch=node.epoch, at=AT,
        )  # fmt: skip
        told = self._read(self.function(command))
        if session is not None or not self._is_given(node, told):
            return told
        assert isinstance(told, Claimed)
        here = self._is_there(node, group, text)
        if here:
            self._expect_hits(node, group, hits)
            self._expect_claims(node, told.claims)
            given = {claim.id for claim in told.claims}
            for wanted in (self.ledger[id] for id in ids if id not in given):
                assert not wanted.open_at(self.now), "all that is owed is claimed"
                wanted.state = "over" if wanted.state == "open" else wanted.state
        else:
            assert not told.claims, "what it has settled before is not settled again"
        if lost:
            node.blind = True
        else:
            self._learn(node, told)
            node.taken.pop(group, None)  # if calls have come since, it lies in the queue
            del node.texts[group]
        return told

    def _is_there(self, node: SimNode, group: str, text: str) -> bool:
        """Whether what a node has read of a group was still so when it answered."""
        ids = [part_id(group, *part) for part in parts(text)]
        now = self.before.groups.get(group, {}).get(node.inc, [])
        return bool(ids) and now[: len(ids)] == ids and group in self.before.open[node.inc]

    def _expect_hits(self, node: SimNode, group: str, places: Iterable[str]) -> None:
        for place in places:
            wanted = self.ledger.find(part_id(group, place))
            wanted.tell(f"{node.inc} hit", "hit" if wanted.state == "open" else wanted.state)

    # --- endings ---

    def answer(self, node: SimNode, endings: Sequence[Ending]) -> None:
        """Send endings; only those of what is open at this very incarnation may count."""
        self.sound = False
        command = self.commands.answer(node.inc, endings, draining=node.drained)
        first = self.view
        changes = node.drained or any(self._counts(node, ending) for ending in endings)
        before = None if changes else self.world.dump()
        self.function(command, reaps=False)
        if before is not None:
            assert self.world.dump() == before, "what is not open here is left alone"
        done: set[str] = set()
        for ending in endings:
            if ending[1] not in done:
                self._expect_flush(node, first, ending)
                self._expect_ended(node, first, ending)
            done.add(str(ending[1]))
        if node.drained and self.live(node):
            self.check_drained(node)

    def _counts(self, node: SimNode, ending: Ending) -> bool:
        """Whether an ending may change anything: it is open here, or held."""
        id = str(ending[1])
        if ending[0] == "hit" or ending[0] == "many":
            return id in self.view.open[node.inc]
        return id in self.view.open[node.inc] or id in self.view.claims[node.inc]

    def _expect_ended(self, node: SimNode, first: View, ending: Ending) -> None:
        how, id = str(ending[0]), str(ending[1])
        was_open = id in first.open[node.inc]
        if how == "many":
            text = node.sent_texts[id]
            if self._is_there(node, id, text):
                self._expect_hits(node, id, [place for place, _ in parts(text)])
            return
        wanted = self.ledger.by_id.get(id)
        outcome = how.partition(":")[2]
        if id in first.claims[node.inc] and outcome in ("", "dropped"):
            self.ledger.ended(str(ending[2]))
        if wanted is None or not was_open:
            return
        if outcome == "expired":
            wanted.state = "over"
        elif how == "hit" or self._is_answered(wanted, ending, first):
            said = self._word(ending, how)
            if wanted.state != "over" or wanted.kind != "job":
                wanted.tell(said, "hit" if how == "hit" else "answered")

    def _expect_flush(self, node: SimNode, first: View, ending: Ending) -> None:
        if ":flushed" in str(ending[0]) and ending[1] in first.open[node.inc]:
            is_all = str(ending[0]).endswith("-all")
            self.roll.flush("" if is_all else str(ending[2]).split("-")[1], first.token)

    @staticmethod
    def _is_answered(wanted: Wanted, ending: Ending, first: View) -> bool:
        """Whether an answer finds its call or job: that of a call does without its hash."""
        if first.about[wanted.id].status:
            return bool(ending[3])
        return bool(ending[3]) and wanted.kind != "job" and wanted.state != "withdrawn"

    @staticmethod
    def _word(ending: Ending, how: str) -> str:
        if how.startswith("job"):
            if ending[4]:
                report = json.loads(ending[4])
                return str(report.get("message", report["type"]))
            return str(json.loads(b64decode(ending[3])))
        payload = str(ending[2 if how == "hit" else 3])
        rest = payload.partition(" ")[2].encode()
        answer = answer_codec.decode_answer(rest)
        if answer.report is None:
            return str(answer.value)
        return str(answer.report.get("message", answer.report["type"]))

    # --- the ingress queue ---

    def _placed_before(self) -> Iterable[str]:
        """What the nodes had that live now."""
        live = self.roll.leases.keys() & self.before.open.keys()
        return {id for inc in live for id in self.before.open[inc]}

    def put(self, wanted: Wanted, queue: str, fields: dict[str, str | bytes]) -> None:
        """Another application writes a job hash and queues it."""
        id = self.ledger.add(wanted).id
        wanted.state = "open"
        if fields:
            flat = [item for pair in fields.items() for item in pair]
            self.look(("HSET", job_key(id), *flat))
        self.look(("RPUSH", queue, id))

    def carry(self, *, refuse: bool = False) -> bool:
        """What two nodes do with what no node has; False where there is nothing."""
        reply = self.function(self.commands.arrivals("carrier", most=3))
        found = self.commands.read_arrivals(reply)
        placed, lying = self.view.places(), self.view.ingress
        ends = {*lying[:1], *lying[-1:]}
        due = not self.view.suspended and not ends <= placed.keys()
        assert bool(found) == due, "what lies at an end and has no node is found"
        for one in found:
            id = one.id.decode(errors="surrogateescape")
            assert id in lying, "it lies there"
            assert id not in placed, "no node has it"
            for _ in range(2):
                self.adopt(id, refuse=refuse, is_front=one.is_front)
        return bool(found)

    def adopt(self, id: str, *, refuse: bool, is_front: bool = False) -> None:
        wanted = self.ledger[id]
        refuse = refuse or bool(wanted.junk)
        adopt = self.commands.adopt(id.encode(), wanted.address, is_front=is_front)
        reply = self.function(self.commands.refuse(id.encode(), "no") if refuse else adopt)
        was = self.before.about.get(id)
        queued = was is not None and was.status == "queued"
        acts = queued and not self.view.suspended and id not in self._placed_before()
        acts = acts and (not refuse or id in self.before.ingress)
        assert reply == int(acts), "the first acts"
        copies = self.before.ingress.count(id) - self.view.ingress.count(id)
        assert queued or copies == min(1, self.before.ingress.count(id)), "it waits no more"
        if acts and refuse:
            wanted.tell("no", "answered")
        elif acts:
            wanted.adrift = False
            self._expect_ttl(wanted)


def sent(wanted: Wanted) -> Sent:
    return Sent(wanted.id, wanted.address, wanted.data, wanted.group)


def started(stage: Serving, name: str = "a", *, limit: int = 1000) -> SimNode:
    """Return a node that has just joined and opened its session."""
    node = stage.start_node(name, limit)
    assert node
    stage.open_session(node)
    return node
