"""Facts about states of stateful ids, on a real server: who is given one, who may keep one."""

from __future__ import annotations

import pytest
from callers import Callers
from ledger import LEASE_MS
from objects import SimObject, close, keep, take
from serving import started
from simnode import SimNode
from steps import called, taken

from rqproc.errors import StateSuperseded
from rqproc.protocol.messages import Claim


def running(stage: Callers, name: str = "a") -> tuple[SimNode, Claim]:
    """A node that runs a call of the only id."""
    node = started(stage, name)
    called(stage)
    return node, taken(stage, node)[0]


def made(stage: Callers, node: SimNode, claim: Claim) -> SimObject:
    found = take(stage, node, claim)
    assert found
    stage.check()
    return found


def refused(stage: Callers, node: SimNode, claim: Claim, *, token: int) -> bool:
    command = stage.commands.take_state(node.inc, claim.address, token=token, made=token)
    try:
        stage.commands.read_state(stage.function(command))
    except StateSuperseded:
        return True
    return False


def test_an_object_keeps_its_id_at_its_node_until_it_is_closed(stage: Callers) -> None:
    node, claim = running(stage)
    first = made(stage, node, claim)
    stage.answer(node, [node.ending(claim)])
    node.known.clear()
    others = [started(stage, name) for name in ("B", "z")]
    assert stage.view.holder(claim.address) == node.inc
    close(stage, node, first, "[1]")
    stage.check()
    assert stage.view.holder(claim.address) is None
    called(stage)
    (owner,) = [one for one in (node, *others) if one.inc == stage.view.owner(claim.address)]
    made(stage, owner, taken(stage, owner)[0])
    assert stage.ledger.kept[claim.address] == "[1]"


def test_what_a_later_run_has_taken_is_not_taken_by_an_older_one(stage: Callers) -> None:
    node, claim = running(stage)
    made(stage, node, claim)
    assert refused(stage, node, claim, token=claim.token - 1)


def test_the_dead_are_given_no_state(stage: Callers) -> None:
    node, claim = running(stage)
    stage.let_leases_pass()
    assert refused(stage, node, claim, token=claim.token + 1)


def test_a_state_is_not_taken_while_another_holds_its_id(stage: Callers) -> None:
    _, claim = running(stage)
    other = started(stage, "B")
    assert refused(stage, other, claim, token=claim.token + 1)


def test_a_paused_node_keeps_its_state_if_nobody_has_taken_it_meanwhile(stage: Callers) -> None:
    node, claim = running(stage)
    late = made(stage, node, claim)
    stage.let_leases_pass()
    assert keep(stage, late, "[7]")


def test_a_paused_node_keeps_no_state_over_that_of_the_next_owner(stage: Callers) -> None:
    node, claim = running(stage)
    late = made(stage, node, claim)
    stage.world.advance(LEASE_MS // 2)
    other = started(stage, "B")
    stage.world.advance(LEASE_MS // 2)
    stage.beat(other)
    stage.pop(other, 9)
    made(stage, other, next(c for c in taken(stage, other) if c.address == claim.address))
    assert not keep(stage, late, "[7]")


def test_where_the_fence_is_forgotten_the_dead_keep_nothing(stage: Callers) -> None:
    node, claim = running(stage)
    late = made(stage, node, claim)
    stage.let_leases_pass()
    stage.look(("DEL", stage.world.keys.kept_state(claim.address)))
    command = stage.commands.keep_state(late.inc, late.address, "[7]", token=late.token)
    assert stage.function(command) == 0


def test_a_fence_alone_has_its_time_and_a_state_has_none(stage: Callers) -> None:
    node, claim = running(stage)
    key = stage.world.keys.kept_state(claim.address)
    found = made(stage, node, claim)
    assert stage.world.run(("PTTL", key)) > 0
    keep(stage, found, "[1]")
    assert stage.world.run(("PTTL", key)) == -1
    keep(stage, found, "")
    assert stage.world.run(("PTTL", key)) > 0


@pytest.mark.parametrize("deaths", range(1, 4))
def test_an_object_that_did_nothing_is_not_blamed_for_a_death(stage: Callers, deaths: int) -> None:
    for _ in range(deaths):
        node, claim = running(stage)
        made(stage, node, claim)
        stage.answer(node, [node.ending(claim)])
        node.known.clear()
        stage.nodes.remove(node)
        stage.report_death(node)
    assert not stage.ledger.kills(claim.address, stage.now)
    stage.check()
