"""Facts about entries that are handed over, on a real server: who is given them, and who is not.
Random schedules of several nodes with their caches: see ``test_handoff_order``.
"""

from __future__ import annotations

import pytest
from callers import Callers
from serving import started
from simnode import SimNode
from stage import IDS
from steps import called, taken
from world import MARK

from rqproc.ids import address
from rqproc.placement import PLACEMENTS, Placement
from rqproc.protocol.messages import LeaseLost, SessionSuperseded

LINES = [(address("r", id).encode(), b"1 1 1 0 value 7") for id in IDS]


def give(stage: Callers, node: SimNode, *, epoch: int | None = None, session: int | None = None):  # type: ignore[no-untyped-def]
    command = stage.commands.hand_over(
        node.inc, LINES, session=node.session if session is None else session,
        epoch=stage.view.epoch if epoch is None else epoch,
    )  # fmt: skip
    return stage.commands.read_hand_over(stage.function(command))


def lying(stage: Callers, node: SimNode) -> list[bytes]:
    """What lies ready for a node."""
    found = []
    while packet := stage.commands.read_take_over(
        stage.world.run(stage.commands.take_over(node.inc))
    ):
        assert packet.epoch == stage.view.epoch
        assert packet.now_ms == stage.now
        found += [line.partition(b" ")[0] for line in packet.lines]
    return found


def owned(stage: Callers, node: SimNode) -> list[bytes]:
    return [place for place, _ in LINES if stage.view.owner(place.decode()) == node.inc]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_entries_go_to_the_owners_of_their_ids_with_a_mark(
    stage: Callers, placement: Placement
) -> None:
    stage.roll.placement = placement
    nodes = [started(stage, name) for name in ("a", "B", "z")]
    marks = {node.inc: stage.view.queue_of(node.inc).count(MARK) for node in nodes}
    assert give(stage, nodes[0]) == []
    stage.look()
    assert [lying(stage, node) for node in nodes] == [
        [],
        owned(stage, nodes[1]),
        owned(stage, nodes[2]),
    ]
    for node in nodes[1:]:
        more = stage.view.queue_of(node.inc).count(MARK) - marks[node.inc]
        assert more == bool(owned(stage, node))


def test_the_owner_finds_a_mark_in_its_queue(stage: Callers) -> None:
    a, b = started(stage, "a"), started(stage, "z")
    stage.pop(b, 99)
    give(stage, a)
    stage.look()
    assert MARK in stage.view.queue_of(b.inc)


def test_what_is_given_in_another_epoch_is_given_to_nobody(stage: Callers) -> None:
    a, b = started(stage, "a"), started(stage, "z")
    assert give(stage, a, epoch=stage.view.epoch - 1) is None
    assert lying(stage, b) == []


def test_what_an_older_session_gives_is_given_to_nobody(stage: Callers) -> None:
    a, b = started(stage, "a"), started(stage, "z")
    stage.open_session(a)
    with pytest.raises(SessionSuperseded):
        give(stage, a, session=a.session - 1)
    assert lying(stage, b) == []


def test_the_dead_give_nothing(stage: Callers) -> None:
    a = started(stage, "a")
    stage.let_leases_pass()
    with pytest.raises(LeaseLost):
        give(stage, a)


def test_a_node_that_drains_gives_its_own(stage: Callers) -> None:
    a, b = started(stage, "a"), started(stage, "z")
    stage.drain("a", a.inc)
    assert give(stage, a) == []
    assert lying(stage, b) == [place for place, _ in LINES]


def test_nothing_of_an_id_is_given_that_anyone_runs(stage: Callers) -> None:
    a = started(stage, "a")
    called(stage)
    (claim,) = taken(stage, a)
    b = started(stage, "z")
    give(stage, a)
    assert claim.address.encode() not in lying(stage, b)
    stage.answer(a, [a.ending(claim)])
    give(stage, a)
    assert (claim.address.encode() in lying(stage, b)) == (stage.view.owner(claim.address) == b.inc)


def test_what_lies_ready_goes_after_ten_seconds(stage: Callers) -> None:
    a, b = started(stage, "a"), started(stage, "z")
    give(stage, a)
    key = stage.world.keys.entries(b.inc)
    assert 0 < stage.world.run(("PTTL", key)) <= 10_000


def test_no_more_than_sixty_four_packets_lie_ready_for_a_node(stage: Callers) -> None:
    a, b = started(stage, "a"), started(stage, "z")
    told = [give(stage, a) for _ in range(65)]
    places = [place for place, (at, _) in enumerate(LINES) if at in owned(stage, b)]
    assert told == [[]] * 64 + [places]
    lying(stage, b)
    assert give(stage, a) == []
