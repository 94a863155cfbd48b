"""Facts about groups, on a real server: repeats, limits, and what anyone may write."""

from __future__ import annotations

from typing import Any

import pytest
from callers import Callers, Order
from ledger import LEASE_MS
from serving import sent, started
from simnode import SimNode, is_group
from stage import HOST, IDS
from world import part_id

from rqproc.ids import address
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import job_key
from rqproc.protocol.messages import Claimed


def asked(stage: Callers, *picks: int, timeout_s: float = 5.0) -> Order:
    order = stage.new_group(picks or range(len(IDS)), timeout_s=timeout_s)
    stage.send(order)
    return order


def read(stage: Callers, node: SimNode) -> str:
    """Have the one group in its queue popped and read."""
    stage.pop(node, 9)
    (group,) = (id for id in node.taken if is_group(id))
    stage.read_group(node, group)
    return group


def many(stage: Callers, node: SimNode, group: str, text: str) -> None:
    """Answer all that was read of a group."""
    payload = node.group_answer(group, text.split()[::2])
    stage.look(stage.commands.answer(node.inc, [Commands.many(group, payload, len(text))]))


def lying(stage: Callers, name: str) -> list[str]:
    return [id for id in stage.view.queues[name] if id != "epoch"]


def test_a_group_lies_once_in_the_queue_of_each_of_its_owners(stage: Callers) -> None:
    nodes = [started(stage, name) for name in ("B", "a", "n9")]
    order = asked(stage, *range(5), *range(5))
    places = set()
    for node in nodes:
        assert lying(stage, node.name) in ([order.group], [])
        places |= set(stage.view.groups[order.group].get(node.inc, []))
    assert places == {wanted.id for wanted in order.wanted}


def test_a_group_and_its_calls_are_kept_a_minute_past_the_deadline(stage: Callers) -> None:
    node = started(stage)
    order = asked(stage, 0, 1, timeout_s=600.0)
    assert 600_000 < stage.world.run(("PTTL", job_key(order.group))) <= 660_000
    group = read(stage, node)
    stage.settle(node, group, 1)
    assert 600_000 < stage.world.run(("PTTL", job_key(order.wanted[1].id))) <= 660_000


def test_a_group_is_gone_when_its_last_node_has_answered(stage: Callers) -> None:
    nodes = [started(stage, name) for name in ("B", "a")]
    order = asked(stage)
    for node, left in zip(nodes, (1, 0), strict=True):
        group = read(stage, node)
        many(stage, node, group, node.texts[group])
        assert stage.world.run(("EXISTS", job_key(order.group))) == left
    assert all(len(wanted.heard) == 1 for wanted in order.wanted)


def sent_on(stage: Callers) -> tuple[SimNode, Order, str, str]:
    """What a node has read of a group, to which calls of one that has died were added since."""
    node, dying = started(stage, "a"), started(stage, "B")
    order = asked(stage)
    group = read(stage, node)
    before = node.texts[group]
    stage.nodes.remove(dying)
    stage.report_death(dying)
    (after,) = stage.look(stage.commands.group(group, node.inc))
    assert after.decode().startswith(before + " ")
    assert lying(stage, "a") == [], "it is known there"
    return node, order, before, after.decode()


def test_what_comes_to_a_group_while_it_is_answered_is_queued_and_answered_later(
    stage: Callers,
) -> None:
    node, order, before, _ = sent_on(stage)
    many(stage, node, order.group, before)
    assert lying(stage, "a") == [order.group]
    assert sum(len(wanted.heard) for wanted in order.wanted) == len(before.split()) // 2
    node.taken.clear()
    group = read(stage, node)
    many(stage, node, group, node.texts[group])
    assert [len(wanted.heard) for wanted in order.wanted] == [1] * len(order.wanted)
    assert not stage.world.run(("EXISTS", job_key(group)))


@pytest.mark.parametrize("how", ["many", "settle"])
def test_an_answer_to_a_group_that_arrives_twice_ends_nothing_that_came_since(
    stage: Callers, how: str
) -> None:
    """
    1. a answers what it has read; the reply is lost  2. what has come since is queued there
    3. a sends its answer again: what is there by now is not what it has answered.
    """
    node, order, before, _ = sent_on(stage)
    many(stage, node, order.group, before)
    known = dict(stage.view.groups[order.group])
    if how == "many":
        many(stage, node, order.group, before)
    else:
        payload = node.group_answer(order.group, before.split()[::2])
        told = stage.look(stage.commands.settle(
            node.inc, order.group, len(before), payload, [], session=node.session, epoch=-1, at="",
        ))  # fmt: skip
        assert told[0][4] == []
    assert stage.view.groups[order.group] == known
    assert all(len(wanted.heard) <= 1 for wanted in order.wanted)


def test_calls_of_a_group_past_their_deadline_are_not_run(stage: Callers) -> None:
    node = started(stage)
    asked(stage, 0, 1, timeout_s=0.3)
    group = read(stage, node)
    stage.world.advance(300)
    told = stage.settle(node, group, 0)
    assert isinstance(told, Claimed)
    assert not told.claims
    assert not stage.view.holders


def test_what_a_group_settles_and_what_has_come_since_are_kept_apart(stage: Callers) -> None:
    node, order, before, _ = sent_on(stage)
    told = stage.settle(node, order.group, 0)
    assert isinstance(told, Claimed)
    assert len(told.claims) == len(before.split()) // 2
    group = read(stage, node)
    stage.settle(node, group, 15)
    stage.answer(node, [node.ending(claim) for claim in node.known.values()])
    assert [len(wanted.heard) for wanted in order.wanted] == [1] * len(order.wanted)


def test_of_a_group_whose_node_dies_the_runs_and_the_rest_are_recovered(stage: Callers) -> None:
    dying, other = started(stage, "B"), started(stage, "a")
    order = asked(stage)
    group = read(stage, dying)
    stage.settle(dying, group, 5)
    stage.nodes.remove(dying)
    stage.report_death(dying)
    stage.check()
    for _ in range(3):
        stage.pop(other, 9)
        for id in list(other.taken):
            if not is_group(id):
                stage.claim(other, [id])
            elif stage.read_group(other, id):
                stage.settle(other, id, 0)
    stage.answer(other, [other.ending(claim) for claim in other.known.values()])
    assert [len(wanted.heard) for wanted in order.wanted] == [1] * len(order.wanted)


def test_a_full_queue_refuses_all_calls_of_one_owner_alone(stage: Callers) -> None:
    started(stage, "B", limit=1)
    node = started(stage, "a", limit=1)
    started(stage, "n9", limit=1)
    for each in stage.nodes:
        stage.pop(each, 9)
    mine = [i for i, id in enumerate(IDS) if _owner(stage, id) == node.inc]
    stage.send(stage.new_order(mine[:1]))
    order = asked(stage)
    refused = [wanted for wanted in order.wanted if wanted.state == "refused"]
    assert refused
    assert {stage.view.owner(wanted.address) for wanted in refused} == {node.inc}
    assert all(stage.view.owner(w.address) != node.inc for w in order.wanted if w not in refused)


def _owner(stage: Callers, id: Any) -> str | None:
    return stage.view.owner(address("r", id))


def test_a_withdrawn_call_of_a_group_is_not_run_and_its_reason_stays(stage: Callers) -> None:
    node = started(stage)
    order = asked(stage, 0, 1)
    stage.world.advance(LEASE_MS * 6 // 10)
    stage.withdraw(order)
    assert [wanted.state for wanted in order.wanted] == ["withdrawn"] * 2
    again = stage.commands.route(
        [sent(wanted) for wanted in order.wanted], timeout_s=1.0, again=True
    )
    assert all(b"OwnerLost" in told for told in stage.world.run(again))
    group = read(stage, node)
    told = stage.settle(node, group, 0)
    assert isinstance(told, Claimed)
    assert not told.claims


# --- what anyone may write ---

OURS = {"status": "queued", "rqproc_kind": "many", "rqproc_deadline": "900000000000000"}
HOSTILE: dict[str, dict[str, str]] = {
    "nothing": {},
    "no deadline": {"INC": "0 1-r-1"},
    "a deadline that is no number": {**OURS, "rqproc_deadline": "soon", "INC": "0 1-r-1"},
    "an endless deadline": {**OURS, "rqproc_deadline": "inf", "INC": "0 1-r-1"},
    "no places": {**OURS, "INC": "1-r-1 2-r-2"},
    "nothing at all": {**OURS, "INC": ""},
    "spaces": {**OURS, "INC": "   "},
    "half a call": {**OURS, "INC": "0 1-r-1 1"},
    "an address that is none": {**OURS, "INC": "0 nonsense 1 -r-1"},
    "a slot without end": {**OURS, "INC": "0 " + "9" * 400 + "-r-1"},
    "a deadline without end": {**OURS, "rqproc_deadline": "9" * 400, "INC": "0 1-r-1"},
    "one call twice": {**OURS, "INC": "0 1-r-1 0 1-r-1"},
    "a dead node's": {**OURS, "gone#1": "0 1-r-1", "": "1 2-r-2"},
    "very many": {**OURS, "INC": " ".join(f"{n} {n}-r-{n}" for n in range(3000))},
}


@pytest.mark.parametrize("how", HOSTILE)
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("end", ["settle", "many", "die", "drain"])
def test_a_group_that_anyone_wrote_ends_no_function_half_way(
    stage: Callers, how: str, opened: bool, end: str
) -> None:
    """It is not rolled back: what it has done would be half of it.

    ``opened``: it stands among what was routed to the node, as no caller may write it.
    """
    node = started(stage)
    fields = {name.replace("INC", node.inc): text for name, text in HOSTILE[how].items()}
    flat = [item for pair in fields.items() for item in pair]
    if flat:
        stage.world.run(("HSET", job_key("rff-g1"), *flat))
    if opened:
        stage.world.run(("ZADD", f"{stage.world.keys.state}open:{node.inc}", "1", "rff-g1"))
    stage.world.run(("RPUSH", stage.world.keys.queue("a"), "rff-g1"))
    good = asked(stage, 0, 1)
    text = fields.get(node.inc, "")
    runs = [(part_id("rff-g1", 0, "1-r-1"), b"[]")]
    commands = stage.commands
    settle = commands.settle(node.inc, "rff-g1", len(text), "", runs, session=node.session,
                             epoch=-1, at="")  # fmt: skip
    payload = node.group_answer("rff-g1", ["0"])
    many_ = commands.answer(node.inc, [Commands.many("rff-g1", payload, len(text))])
    death = commands.report_death("a", pid=node.pid, host=HOST)
    command = {"settle": settle, "many": many_, "die": death, "drain": commands.drain("a")}[end]
    stage.world.run(command)
    stage.world.published()
    if end in ("settle", "many"):
        stage.world.run(death)
    stage.world.run(commands.survey())
    other = stage.join(SimNode("", stage.number(), 9), "B")
    assert isinstance(other, int)
    queue = stage.world.run(("LRANGE", stage.world.keys.queue("B"), "0", "-1"))
    assert good.group.encode() in queue, "what others wait for goes on"


@pytest.mark.parametrize("how", ["die", "drain", "claim"])
def test_a_group_that_lies_in_a_queue_where_it_is_answered_is_nobodys_job(
    stage: Callers, how: str
) -> None:
    """It may lie there twice; while another node has calls of it, it is there."""
    first, _ = started(stage, "a"), started(stage, "B")
    order = asked(stage)
    group = read(stage, first)
    many(stage, first, group, first.texts[group])
    stage.look(("RPUSH", stage.world.keys.queue("a"), group))
    if how == "die":
        stage.report_death(first)
    elif how == "drain":
        stage.drain("a")
    else:
        stage.ask_to_claim(first, [group], session=first.session)
    assert not stage.view.ingress
    assert stage.world.run(("HGET", job_key(order.group), "status")) == b"queued"
