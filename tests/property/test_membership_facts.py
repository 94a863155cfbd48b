"""Facts about membership and fences, on a real server: what comes late, and what is repeated."""

from __future__ import annotations

import pytest
from callers import Callers
from ledger import LEASE_MS
from serving import started
from simnode import SimNode
from steps import called, lying, taken

from rqproc.errors import PlacementMismatch
from rqproc.placement import SLOTS, Placement
from rqproc.protocol import stats_codec
from rqproc.protocol.messages import LeaseLost, Limits, Tally
from rqproc.stats import NodeStats
from rqproc.transport.connection import Command


def followed(stage: Callers) -> tuple[SimNode, SimNode]:
    """A node that has lost its lease without knowing, and another of its name."""
    late = started(stage)
    stage.let_leases_pass()
    return late, started(stage)


def test_a_join_sent_again_renews_the_lease_and_changes_nothing_else(stage: Callers) -> None:
    node = started(stage)
    stage.world.advance(500)
    before = node.inc
    assert stage.join(node, "a") == stage.roll.epoch
    assert node.inc == before
    assert stage.view.leases == {before: stage.now + LEASE_MS}


def test_a_beat_of_a_node_that_was_dropped_revives_nothing(stage: Callers) -> None:
    late, successor = followed(stage)
    beat = stage.commands.beat(late.inc, lease_s=1.0, tally=Tally())
    with pytest.raises(LeaseLost):
        stage.commands.read_beat(stage.function(beat))
    assert stage.view.leases.keys() == {successor.inc}


def test_a_late_drain_leaves_the_successor_alone(stage: Callers) -> None:
    late, successor = followed(stage)
    stage.drain("a", late.inc)
    assert stage.view.members == (successor.inc,)


def test_a_late_leave_leaves_the_successor_alone(stage: Callers) -> None:
    late, successor = followed(stage)
    stage.leave(late.inc)
    assert stage.view.members == (successor.inc,)


def test_a_death_that_is_reported_late_leaves_the_successor_alone(stage: Callers) -> None:
    late, successor = followed(stage)
    stage.report_death(late)
    assert stage.view.members == (successor.inc,)


def test_an_incarnation_is_new_though_the_server_has_forgotten_some(stage: Callers) -> None:
    started(stage, "B")
    before = stage.world.snapshot()
    first = stage.commands.read_join("a", stage.world.run(joining(stage, "one")))
    stage.world.restore(before)
    stage.world.advance(100)
    second = stage.commands.read_join("a", stage.world.run(joining(stage, "two")))
    assert second.incarnation != first.incarnation


def joining(stage: Callers, nonce: str) -> Command:
    return stage.commands.join(
        "a", lease_s=1, nonce=nonce, limits=Limits(9, 9, 9), pid=1, host="h", versions=("3", "3")
    )


def published(stage: Callers) -> dict[str, int]:
    """Names of nodes, and how many beats each has published."""
    found = stage.commands.read_stats(stage.function(stage.commands.stats()))
    return {node.node: node.beats for node in found.nodes}


def publish(stage: Callers, inc: str, beats: int) -> None:
    told = stats_codec.encode(NodeStats(0.0, beats=beats))
    beat = stage.commands.beat(inc, lease_s=LEASE_MS / 1000, tally=Tally(), stats=told)
    stage.commands.read_beat(stage.world.run(beat))


def test_stats_are_those_of_each_nodes_last_beat(stage: Callers) -> None:
    a, b = started(stage, "a"), started(stage, "b")
    publish(stage, a.inc, 1)
    publish(stage, b.inc, 5)
    publish(stage, a.inc, 2)
    assert published(stage) == {"a": 2, "b": 5}


def test_stats_are_gone_with_their_node(stage: Callers) -> None:
    a, b = started(stage, "a"), started(stage, "b")
    publish(stage, a.inc, 1)
    publish(stage, b.inc, 5)
    stage.leave(a.inc)
    assert published(stage) == {"b": 5}
    stage.let_leases_pass()
    stats = (stage.world.keys.stats("a"), stage.world.keys.stats("b"))
    assert not stage.world.key_names().intersection(stats)


def test_stats_of_a_predecessor_are_not_those_of_a_node(stage: Callers) -> None:
    a = started(stage, "a")
    publish(stage, a.inc, 1)
    key = stage.world.keys.stats("a")
    before = stage.world.run(("GET", key))
    stage.leave(a.inc)
    started(stage, "a")
    stage.world.run(("SET", key, before))  # as after a server's failover
    assert published(stage) == {}


def test_stats_that_nobody_renews_go_by_themselves(stage: Callers) -> None:
    publish(stage, started(stage, "a").inc, 1)
    left_ms = stage.world.run(("PTTL", stage.world.keys.stats("a")))
    assert LEASE_MS < left_ms <= LEASE_MS + 60_000


def test_a_claim_says_how_long_a_call_was_queued(stage: Callers) -> None:
    node = started(stage)
    stage.open_session(node)
    called(stage)
    stage.world.advance(300)
    (claim,) = taken(stage, node)
    assert 0.25 < claim.waited_s <= 0.3  # a moment is some milliseconds ahead of the clock here


def test_a_node_that_is_silent_while_others_beat_has_no_grace(stage: Callers) -> None:
    silent, other = started(stage, "B"), started(stage, "a")
    for ms in (450, 450, 100):
        stage.world.advance(ms)
        stage.beat(other)
    assert silent.inc not in stage.view.leases
    stage.check()


def test_after_an_outage_of_the_server_each_node_has_half_a_lease_once(stage: Callers) -> None:
    node = started(stage)
    stage.world.advance(20_000)
    stage.function(stage.commands.survey())
    assert stage.view.leases == {node.inc: stage.now + LEASE_MS // 2}
    stage.world.advance(LEASE_MS // 2)
    stage.function(stage.commands.survey())
    assert not stage.view.leases


@pytest.mark.parametrize("group", [False, True])
def test_what_comes_late_over_a_connection_that_was_given_up_changes_nothing(
    stage: Callers, group: bool
) -> None:
    """
    1. a connection breaks; its last packet is still on its way
    2. its caller's name is fenced, and it asks again   3. it is answered
    4. the packet arrives: what it says is new is dropped.
    """
    node = started(stage)
    order = stage.new_group([0, 1]) if group else stage.new_order([0])
    order.caller.late.append(order)
    stage.lose_connection()
    for claim in taken(stage, node):
        stage.answer(node, [node.ending(claim)])
    node.known.clear()
    stage.arrive_late(order.caller)
    assert not lying(stage, "a")
    assert all(len(wanted.heard) == 1 for wanted in order.wanted)


def test_a_fence_keeps_nobody_else_out_and_no_longer_than_it_is_set_for(stage: Callers) -> None:
    started(stage)
    stage.lose_connection()
    called(stage)
    left_ms = stage.world.run(("PTTL", f"{stage.world.keys.state}fence:{stage.callers[0].name}"))
    assert 120_000 < left_ms <= 130_000
    assert 120_000 < stage.world.run(("PTTL", f"{stage.world.keys.state}fences")) <= 130_000
    stage.world.run(("DEL", f"{stage.world.keys.state}fences"))
    called(stage)
    assert stage.world.run(("ZSCORE", f"{stage.world.keys.state}leases", "!")) is None


def test_what_is_withdrawn_of_a_silent_node_is_open_there_no_more(stage: Callers) -> None:
    node = started(stage)
    order = stage.new_order([0])
    stage.send(order)
    stage.world.advance(LEASE_MS * 6 // 10)
    stage.withdraw(order)
    assert order.wanted[0].heard == ["OwnerLost"]
    stage.look()
    assert not stage.view.open[node.inc]
    assert taken(stage, node) == []


def test_nothing_is_withdrawn_of_a_node_that_was_silent_for_less_than_half_its_lease(
    stage: Callers,
) -> None:
    node = started(stage)
    order = stage.new_order([0])
    stage.send(order)
    stage.world.advance(LEASE_MS * 4 // 10)
    stage.withdraw(order)
    assert order.wanted[0].heard == []
    stage.look()
    assert list(stage.view.open[node.inc]) == [order.wanted[0].id]


def test_a_withdrawal_of_what_is_answered_is_told_the_answer(stage: Callers) -> None:
    """The answer was lost on its way; its caller has given up, and withdraws."""
    node = started(stage)
    order = stage.new_order([0])
    stage.send(order)
    (claim,) = taken(stage, node)
    stage.deaf.add(stage.caller.name)
    stage.answer(node, [node.ending(claim)])
    stage.world.advance(LEASE_MS * 6 // 10)
    stage.withdraw(order)
    assert order.wanted[0].due == [node.word(claim)]
    assert order.wanted[0].got


# --- placement ---


def refused(stage: Callers, name: str, placement: Placement) -> PlacementMismatch | None:
    """How a node of that placement is refused, if it is; then it changes nothing."""
    stage.roll.placement = placement
    before = stage.world.dump()
    try:
        stage.join(SimNode("", stage.number(), 9), name)
    except PlacementMismatch as error:
        assert stage.world.dump() == before
        return error
    return None


@pytest.mark.parametrize(("theirs", "mine"), [("modulo", "slots"), ("slots", "modulo")])
def test_a_node_of_another_placement_is_refused_as_long_as_there_are_members(
    stage: Callers, theirs: Placement, mine: Placement
) -> None:
    stage.roll.placement = theirs
    node = started(stage, "B")
    error = refused(stage, "a", mine)
    assert error
    assert (error.mine, error.others) == (mine, theirs)
    assert refused(stage, "B", mine), "whoever has that name"
    stage.leave(node.inc)
    assert refused(stage, "a", mine) is None
    assert refused(stage, "B", theirs)


def test_one_that_drains_owns_nothing_so_that_others_may_have_another_placement(
    stage: Callers,
) -> None:
    """
    1. a drains, and runs 1 still   2. b joins, by slots
    3. 1 is b's, but what comes there is sent to a until that has ended.
    """
    node = started(stage)
    called(stage)
    (claim,) = taken(stage, node)
    stage.drain("a")
    stage.roll.placement = "slots"
    try:
        other = started(stage, "B")
    except PlacementMismatch as error:
        pytest.fail(str(error))
    order = stage.new_order([0])
    stage.send(order)
    assert taken(stage, other) == []
    assert order.wanted[0].id in lying(stage, "a")
    stage.answer(node, [node.ending(claim)])
    stage.look()
    assert stage.view.target(claim.address) == other.inc
    assert set(stage.view.slots) == {other.inc}


def test_slots_move_no_more_than_they_must_and_with_the_epoch(stage: Callers) -> None:
    stage.roll.placement = "slots"
    first = started(stage, "B")
    before = list(stage.view.slots)
    assert set(before) == {first.inc}
    nodes = [first, *(started(stage, name) for name in ("a", "n9"))]
    moved = 0
    for node in nodes:
        moved += list(stage.view.slots).count(node.inc)
    assert moved == SLOTS
    was = list(stage.view.slots)
    stage.report_death(nodes[1])
    stage.check()
    now = list(stage.view.slots)
    assert {a for a, b in zip(was, now, strict=True) if a != b} == {nodes[1].inc}


def test_nothing_is_left_of_slots_when_the_last_member_has_gone(stage: Callers) -> None:
    stage.roll.placement = "slots"
    node = started(stage)
    assert stage.view.slots
    stage.drain("a", node.inc)
    assert not stage.view.slots
    stage.leave(node.inc)
    assert f"{stage.world.keys.state}slots" not in stage.world.key_names()
