"""Entries that are handed over, under random schedules: the real functions, and the real caches and
hand-offs of three nodes, which join, drain, lose connections, and send packets late.

What is held against them: a call is answered from an entry only if that was made after every change
of its id that was over when the call was asked, and only within its ttl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from serving import AT
from stage import PLAIN
from world import MARK, START_MS, Mutation, World

from rqproc.ids import address
from rqproc.node.cache import Cache
from rqproc.node.entries import Entry
from rqproc.node.handoff import Handoff
from rqproc.placement import PLACEMENTS, Placement
from rqproc.protocol import answer_codec
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import (
    Claim,
    Known,
    LeaseLost,
    Limits,
    SessionSuperseded,
    Settling,
    Tally,
)
from rqproc.resource import ResourceSpec
from rqproc.transport.connection import Command

TTL_S = 60.0
LEASE_S = 3000.0
NAMES = ("a", "b", "c")
coin = st.booleans()
PLACES = [address("r", id) for id in range(4)]
RESOURCES = {"r": ResourceSpec(lambda id: id, name="r", ttl_s=TTL_S)}


@dataclass
class Run:
    """A call that a node runs; ``keeps``: nothing has changed its id since."""

    claim: Claim
    keeps: bool = True


@dataclass
class Kept:
    """A node, as far as entries go. Its clock is ``ahead`` of the others'."""

    name: str
    inc: str
    ahead: float
    cache: Cache
    handoff: Handoff
    session: int = 0
    drained: bool = False
    had_mark: bool = False
    runs: dict[str, Run] = field(default_factory=dict)
    packed: list[tuple[Command, Sequence[Any], int]] = field(default_factory=list)

    @property
    def busy(self) -> set[bytes]:
        return {run.claim.address.encode() for run in self.runs.values()}


class Order(RuleBasedStateMachine):
    """Any order of what may happen."""

    url = ""
    mutation: Mutation | None = None
    taken = 0

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.url, self.mutation)
        self.commands = self.world.commands
        self.nodes: dict[str, Kept] = {}
        self.strays: list[tuple[Command, Sequence[Any], int]] = []
        self.numbers = iter(range(1, 10**6))
        self.floors = dict.fromkeys(PLACES, 0)
        self.made_ms: dict[int, int] = {}
        self.asked: dict[str, int] = {}

    def teardown(self) -> None:
        self.world.close()

    # --- what nodes are ---

    @initialize(placement=st.sampled_from(PLACEMENTS), count=st.integers(1, 3))
    def begin(self, placement: Placement, count: int) -> None:
        self.placement = placement
        for number in range(count):
            self.join(number)

    def clock(self) -> float:
        return (self.world.now - START_MS) / 1000

    def pick(self, number: int) -> Kept | None:
        nodes = list(self.nodes.values())
        return nodes[number % len(nodes)] if nodes else None

    def learn(self, node: Kept, reply: Any) -> Sequence[Claim]:
        """As ``Dispatcher`` and ``Session`` do."""
        claimed = self.commands.read_claim(reply)
        for resource, token in claimed.flushed.items():
            node.cache.flush(resource, token)
            for run in node.runs.values():
                run.keeps = run.keeps and run.claim.token > token
        if claimed.members is not None:
            is_new = claimed.epoch != node.cache.epoch
            node.cache.learn(claimed.epoch, claimed.members, claimed.slots, busy=node.busy)
            if is_new:
                node.handoff.learned(claimed.epoch, claimed.now_ms)
        for claim in claimed.claims:
            if claim.what != "gone":
                node.handoff.claimed(claim.address.encode())
        return claimed.claims

    def claim(self, node: Kept, *ids: str) -> Sequence[Claim]:
        command = self.commands.claim(
            node.inc, ids, session=node.session, epoch=node.cache.epoch, at=AT, room=9
        )
        return self.learn(node, self.world.run(command))

    def open_session(self, node: Kept) -> None:
        node.session += 1
        known = [Known(id, run.claim.token, run.claim.address) for id, run in node.runs.items()]
        command = self.commands.reconcile(node.inc, session=node.session, server="s", known=known)
        self.learn(node, self.world.run(command))

    # --- what may happen to them ---

    @rule(number=st.integers(0, 2))
    def join(self, number: int) -> None:
        name = NAMES[number]
        if name in self.nodes:
            return
        command = self.commands.join(
            name, lease_s=LEASE_S, nonce=f"n{next(self.numbers)}", limits=Limits(999, 99, 9),
            pid=1, host="h", versions=("3", "3"), placement=self.placement,
        )  # fmt: skip
        joined = self.commands.read_join(name, self.world.run(command))
        ahead = 1000.0 * number
        cache = Cache(name, 1000, holds_moved=True)
        handoff = Handoff(name, cache, RESOURCES, lambda: self.clock() + ahead)
        node = self.nodes[name] = Kept(name, joined.incarnation, ahead, cache, handoff)
        self.open_session(node)

    @rule(number=st.integers(0, 2))
    def drain(self, number: int) -> None:
        if (node := self.pick(number)) and len(self.nodes) > 1 and not node.drained:
            node.drained = True
            self.world.run(self.commands.drain(node.name, node.inc))
            self.claim(node)

    @rule(number=st.integers(0, 2))
    def end(self, number: int) -> None:
        """It leaves; packets of it may still be on their way."""
        if (node := self.pick(number)) and node.drained and not node.runs:
            self.world.run(self.commands.leave(node.name, node.inc))
            self.strays += node.packed
            del self.nodes[node.name]

    @rule(number=st.integers(0, 2))
    def reconnect(self, number: int) -> None:
        if node := self.pick(number):
            self.open_session(node)

    @rule(ms=st.sampled_from((1, 500, 3000, 15_000)))
    def time_passes(self, ms: int) -> None:
        self.world.advance(ms)
        for node in self.nodes.values():
            self.world.run(self.commands.beat(node.inc, lease_s=LEASE_S, tally=Tally()))

    # --- calls ---

    @rule(place=st.sampled_from(PLACES), kind=st.sampled_from("cci"))
    def ask(self, place: str, kind: str) -> None:
        number = next(self.numbers)
        id = f"rab-{kind}{number:x}-{place}"
        self.asked[id] = self.floors[place]
        self.world.run(self.commands.route_one(id, place, PLAIN, timeout_s=LEASE_S, parent=""))

    @rule(number=st.integers(0, 2), most=st.integers(1, 9))
    def pop(self, number: int, most: int) -> None:
        node = self.pick(number)
        if node is None or node.drained:
            return
        queue = self.commands.keys.queue(node.name)
        for raw in self.world.run(("LPOP", queue, str(most))) or ():
            id = raw.decode()
            if id == MARK:
                self.claim(node)
                node.had_mark = True
            elif "-c" in id and (entry := node.cache.get(place_of(id).encode(), self.now(node))):
                self.check(id, entry)
                payload = answer_codec.encode_answer(id, "hit", "1", node=node.name)
                self.answer(node, Commands.hit(id, payload))
            else:
                self.take_up(node, id)

    def now(self, node: Kept) -> float:
        return self.clock() + node.ahead

    def check(self, id: str, entry: Entry) -> None:
        assert entry.token >= self.asked[id], "nothing older is answered than what was told"
        assert self.world.now - self.made_ms[entry.token] < TTL_S * 1000, "nor what has expired"

    def take_up(self, node: Kept, id: str) -> None:
        for claim in self.claim(node, id):
            if claim.what == "gone":
                continue
            if "-c" in id:
                node.runs[claim.id] = Run(claim)
                continue
            node.cache.drop(claim.address.encode(), self.now(node))
            for run in node.runs.values():
                run.keeps = run.keeps and run.claim.address != claim.address
            self.end_claim(node, claim, ":dropped")

    @rule(number=st.integers(0, 2))
    def a_run_ends(self, number: int) -> None:
        if not (node := self.pick(number)) or not node.runs:
            return
        run = node.runs.pop(next(iter(node.runs)))
        claim, now = run.claim, self.now(node)
        self.made_ms[claim.token] = self.world.now
        if run.keeps:
            entry = Entry(now, now + TTL_S, claim.token, b"1")
            node.cache.keep(claim.address.encode(), entry, now)
        self.end_claim(node, claim, "")

    def end_claim(self, node: Kept, claim: Claim, outcome: str) -> None:
        payload = answer_codec.encode_answer(claim.id, "miss", "1", node=node.name)
        self.answer(node, Commands.call(outcome, claim.id, claim.address, payload, 60.0))  # type: ignore[arg-type]
        self.floors[claim.address] = max(self.floors[claim.address], claim.token)

    def answer(self, node: Kept, ending: Any) -> None:
        self.world.run(self.commands.answer(node.inc, [ending], draining=node.drained))

    @rule(number=st.integers(0, 2))
    def all_is_flushed(self, number: int) -> None:
        """By a call of any id, which its owner answers."""
        node = self.pick(number)
        if node is None or node.drained:
            return
        mine = [place for place in PLACES if node.cache.owns(place.encode())]
        if not mine:
            return
        self.ask(mine[0], "i")
        queue = self.commands.keys.queue(node.name)
        if (raw := self.world.run(("RPOP", queue))) is None:
            return
        if "-i" not in raw.decode():
            self.world.run(("RPUSH", queue, raw))
            return
        for claim in self.claim(node, raw.decode()):
            if claim.what != "gone":
                self.flush(node, claim)

    def flush(self, node: Kept, claim: Claim) -> None:
        node.cache.flush(b"", claim.token)
        for run in node.runs.values():
            run.keeps = run.keeps and run.claim.token > claim.token
        self.end_claim(node, claim, ":flushed-all")
        for place in PLACES:
            self.floors[place] = max(self.floors[place], claim.token)

    # --- entries ---

    @rule(number=st.integers(0, 2))
    def pack(self, number: int) -> None:
        if (node := self.pick(number)) and (lines := node.handoff.packet()):
            command = self.commands.hand_over(
                node.inc, lines, session=node.session, epoch=node.handoff.epoch
            )
            node.packed.append((command, lines, node.handoff.epoch))

    @rule(number=st.integers(0, 2), last=st.booleans())
    def a_packet_arrives(self, number: int, last: bool) -> None:
        """Now, or late, or after its node has left."""
        node = self.pick(number)
        packets = node.packed if node and node.packed else self.strays
        if not packets:
            return
        command, lines, epoch = packets.pop(-1 if last else 0)
        reply = self.world.run(command)
        if packets is self.strays or node is None or node.handoff.epoch != epoch:
            return
        try:
            node.handoff.gave(lines, self.commands.read_hand_over(reply))
        except (LeaseLost, SessionSuperseded, Settling):
            return

    @rule(number=st.integers(0, 2), anyway=st.booleans())
    def take(self, number: int, anyway: bool) -> None:
        node = self.pick(number)
        if node is None or not (node.had_mark or anyway):
            return
        node.had_mark, before = False, node.handoff.taken
        asked_at = self.now(node)
        reply = self.world.run(self.commands.take_over(node.inc))
        node.handoff.take(self.commands.read_take_over(reply), asked_at)
        type(self).taken += node.handoff.taken - before

    # --- what chance alone would seldom bring about ---

    @rule(then=st.data())
    def entries_move(self, then: st.DataObject) -> None:
        """All ids are kept; then nodes come and go, and their packets are on their way."""
        self.all_are_asked()
        self.end_runs()
        if then.draw(coin):  # of one something is under way
            self.ask(PLACES[0], "c")
            self.ask(PLACES[0], "i")
        for _ in range(then.draw(st.integers(1, 3))):
            self.change(then.draw(st.integers(0, 2)))
            self.pop_some(then)
            self._pack_all(then)
            if then.draw(coin):
                self.change_all()
            self.pop_some(then)
        for each in range(3):
            self.a_packet_arrives(each, then.draw(coin))
            self.pop_some(then)
            self.take(each, True)
        self.all_are_asked()

    def _pack_all(self, then: st.DataObject) -> None:
        for each in range(3):
            self.pack(each)
            if then.draw(coin):
                self.a_packet_arrives(each, then.draw(coin))

    def change_all(self) -> None:
        for place in PLACES:
            self.ask(place, "i")
        self.pop_all()

    def change(self, number: int) -> None:
        if NAMES[number] in self.nodes and len(self.nodes) > 1:
            place = list(self.nodes).index(NAMES[number])
            if self.nodes[NAMES[number]].drained:
                self.end(place)
            else:
                self.drain(place)
        else:
            self.join(number)

    def end_runs(self) -> None:
        for place, node in enumerate(self.nodes.values()):
            while node.runs:
                self.a_run_ends(place)

    def pop_some(self, then: st.DataObject) -> None:
        for each in range(3):
            if then.draw(coin):
                self.pop(each, 9)

    def pop_all(self) -> None:
        for _ in range(2):
            for each in range(3):
                self.pop(each, 99)

    @rule()
    def all_are_asked(self) -> None:
        self.pop_all()
        for place in PLACES:
            self.ask(place, "c")
        self.pop_all()


def place_of(id: str) -> str:
    return id.split("-", 2)[2]


def play(url: str, *, examples: int = 60) -> int:
    """Play random schedules; return how many entries were taken over."""
    machine = type("Play", (Order,), {"url": url, "taken": 0})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=6,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return int(machine.taken)  # type: ignore[attr-defined]


@pytest.mark.timeout(240)
def test_no_entry_that_is_handed_over_is_older_than_what_was_told(url: str) -> None:
    assert play(url) > 0, "some were taken over"


# --- three changes of members, and a packet that is late ---

CHANGES = [(0, 2, 0), (2, 0, 2), (2, 2, 2), (0, 0, 0), (2, 1, 0), (1, 2, 1), (1, 1, 1), (2, 2, 0)]


def play_late_packet(
    url: str, changes: Sequence[int], arrives: int, told: int, mutation: Mutation | None = None
) -> int:
    """What moves by the first change is given after the one of number ``arrives``; after that of
    number ``told`` all ids are invalidated. Return how many entries were taken over.
    """
    machine = type("Late", (Order,), {"url": url, "mutation": mutation})()
    try:
        machine.placement = "modulo"
        machine.join(0)
        machine.join(1)
        machine.all_are_asked()
        machine.end_runs()
        for number, change in enumerate(changes):
            machine.change(change)
            machine.pop_all()
            if number == 0:
                for each in range(3):
                    machine.pack(each)
            if number == arrives:
                for each in range(3):
                    machine.a_packet_arrives(each, False)
            if number == told:
                machine.change_all()
        for each in range(3):
            machine.pop(each, 99)
            machine.take(each, True)
        machine.all_are_asked()
        return int(type(machine).taken)
    finally:
        machine.teardown()


LATE = [(changes, arrives, told) for changes in CHANGES for arrives in (0, 1) for told in (0, 1, 2)]


def play_all_late(url: str, mutation: Mutation | None = None) -> int:
    return sum(play_late_packet(url, *late, mutation) for late in LATE)


@pytest.mark.timeout(240)
def test_a_late_packet_brings_nothing_back(url: str) -> None:
    play_all_late(url)


@pytest.mark.timeout(240)
def test_a_server_that_passes_on_what_has_moved_before_is_found_out(url: str) -> None:
    broken = Mutation("handoff", "if epoch() ~= tonumber(at) then return { -3 } end", "")
    with pytest.raises(AssertionError, match="nothing older"):
        play_all_late(url, broken)


def play_both(url: str) -> None:
    play(url)
    play_all_late(url)


def _claimed(self: Handoff, address: bytes) -> None:
    """Remembers nothing."""


def _owned(self: Cache, epoch: int, address: bytes) -> bool:
    return True


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [(Handoff, "claimed", _claimed), (Cache, "has_owned_since", _owned)],
)
def test_a_node_that_forgets_is_found_out(
    url: str, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, broken: object
) -> None:
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError, match="nothing older"):
        play_both(url)
