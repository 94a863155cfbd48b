"""Facts about what a server has forgotten: the claims that nodes tell another server of."""

from __future__ import annotations

import pytest
from callers import Callers
from ledger import LEASE_MS, Wanted
from serving import started
from simnode import SimNode
from steps import called, ended, enqueued, taken

from rqproc.protocol.keys import RQ_PREFIX
from rqproc.protocol.messages import Claim


def two_nodes(stage: Callers, place: str) -> tuple[SimNode, SimNode]:
    """The owner of an address, and another node."""
    nodes = [started(stage, name) for name in ("B", "a")]
    nodes.sort(key=lambda node: node.inc != stage.view.owner(place))
    for node in nodes:
        stage.open_session(node)
    return nodes[0], nodes[1]


def forget(stage: Callers) -> None:
    """Another server takes over, with the copy that was written last."""
    assert stage.memory
    stage.forget(stage.memory)


def drained(stage: Callers, node: SimNode) -> None:
    """By an operator, in a time that is forgotten: the node does not know of it."""
    stage.drain(node.name)
    stage.check()


def moved(stage: Callers, kind: str) -> tuple[SimNode, SimNode, Claim, Wanted]:
    """What another server's copy has at one node, and what runs at the other since.

    Returns the two nodes, the claim, and what was asked for.
    """
    place, _ = stage.new_call(0)
    had, runs = two_nodes(stage, place)
    wanted = called(stage) if kind == "call" else enqueued(stage)
    stage.remember()
    drained(stage, had)
    (claim,) = taken(stage, runs)
    stage.check()
    forget(stage)
    for node in (had, runs):
        stage.open_session(node)
    stage.check()
    return had, runs, claim, stage.ledger[wanted.id]


@pytest.mark.parametrize("what", ["ends", "dies", "the other dies", "the other claims"])
@pytest.mark.parametrize("kind", ["call", "job"])
def test_what_has_moved_since_is_ended_or_sent_on_by_who_runs_it(
    stage: Callers, kind: str, what: str
) -> None:
    had, runs, claim, wanted = moved(stage, kind)
    assert wanted.id in stage.view.open[runs.inc]
    assert wanted.id not in stage.view.queue_of(had.inc)
    if what == "dies":
        stage.report_death(runs)
        stage.check()
        assert wanted.lost == 1
        ended(stage, had)
    elif what == "the other dies":
        stage.report_death(had)
        assert wanted.lost == 0
    elif what == "the other claims":
        assert taken(stage, had) == []
    stage.check()
    if what != "dies":
        stage.answer(runs, [runs.ending(claim)])
        runs.known.clear()
    stage.check()
    assert wanted.state == "answered"


@pytest.mark.parametrize("together", [False, True])
def test_a_death_counts_though_what_it_ran_is_open_elsewhere(
    stage: Callers, together: bool
) -> None:
    """
    1. a runs a call   2. another server takes over, which knows nothing of it; a holds its id
    3. its caller asks again: it is open at b, the owner   4. a dies, alone or together with b.
    """
    place, _ = stage.new_call(0)
    had, runs = two_nodes(stage, place)
    stage.remember()
    drained(stage, had)
    order = stage.new_order([0])
    stage.send(order)
    taken(stage, runs)
    forget(stage)
    for node in (had, runs):
        stage.open_session(node)
    stage.ask_again(order)
    (wanted,) = order.wanted
    assert wanted.id in stage.view.open[had.inc]
    if together:
        last = started(stage, "z")
        for _ in range(3):
            stage.world.advance(LEASE_MS * 4 // 10)
            stage.beat(last)
    else:
        stage.report_death(runs)
    assert wanted.lost == 1
    stage.check()


def test_a_job_that_lay_in_the_list_is_ended_by_who_runs_it(stage: Callers) -> None:
    """
    1. jobs are suspended, and one lies in RQ's list   2. a copy is written   3. a runs the job
    4. another server takes over, to which no node has it.
    """
    node = started(stage)
    stage.look(("SET", f"{RQ_PREFIX}:suspended", "1"))
    job = enqueued(stage, placed=False)
    stage.remember()
    stage.look(("DEL", f"{RQ_PREFIX}:suspended"))
    stage.carry()
    (claim,) = taken(stage, node)
    forget(stage)
    stage.open_session(node)
    stage.check()
    assert stage.view.ingress == []
    stage.answer(node, [node.ending(claim)])
    node.known.clear()
    stage.check()
    assert stage.ledger[job.id].heard == [node.word(claim)]


def test_a_job_whose_end_is_forgotten_waits_when_another_runs_its_id(stage: Callers) -> None:
    """
    1. b runs a job, and ends   2. a runs another of the same id
    3. another server takes over, to which b still runs the first   4. a speaks before b.
    """
    place, _ = stage.new_call(0)
    first, second = two_nodes(stage, place)
    job = enqueued(stage)
    (claim,) = taken(stage, first)
    stage.remember()
    stage.answer(first, [first.ending(claim)])
    first.known.clear()
    drained(stage, first)
    enqueued(stage)
    (other,) = taken(stage, second)
    forget(stage)
    stage.open_session(second)
    assert stage.view.holder(place) == second.inc
    stage.open_session(first)
    stage.check()
    assert stage.view.ingress == [job.id]
    stage.answer(second, [second.ending(other)])
    second.known.clear()
    ended(stage, first)
    assert stage.ledger[job.id].state == "answered"
