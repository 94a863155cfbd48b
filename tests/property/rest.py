"""The end of an example: everything comes to rest, and nothing is left that should not be."""

from __future__ import annotations

from callers import Callers
from simnode import SimNode, is_group
from world import MARK

from rqproc.protocol.keys import RQ_PREFIX, job_key, results_key


def come_to_rest(stage: Callers) -> None:
    """All leave by their own word, which costs no attempt; one node serves what is left."""
    for inc in list(stage.roll.leases):
        stage.leave(inc)
    stage.nodes.clear()
    stage.look(("DEL", f"{RQ_PREFIX}:suspended"))
    stage.check()
    last = stage.start_node("z")
    assert last
    stage.open_session(last)
    for _ in range(100):
        busy = stage.carry() + serve(stage, last)
        stage.check()
        if not busy and is_idle(stage):
            break
    assert is_idle(stage), "every queue is empty"
    assert not stage.view.places(), "everything comes to rest"
    for id, wanted in stage.ledger.by_id.items():
        assert not wanted.open_at(stage.now) or wanted.adrift, f"{id} is never answered"
    stage.leave(last.inc)
    stage.check()


def is_idle(stage: Callers) -> bool:
    view = stage.view
    return not (view.waiting or view.ingress or view.wip or any(view.queues.values()))


def serve(stage: Callers, node: SimNode) -> int:
    """Take three, run them, and answer."""
    count = stage.pop(node, 3)
    ids = [id for id in node.taken if not is_group(id)]
    groups = [id for id in node.taken if is_group(id)]
    stage.claim(node, ids, turns=list(node.waiting))
    for group in groups:
        if stage.read_group(node, group):
            stage.settle(node, group, 1)
        node.taken.pop(group, None)
    endings = [node.ending(claim) for claim in node.known.values()]
    if endings:
        stage.answer(node, endings)
        node.known.clear()
    node.taken.clear()
    assert MARK not in node.taken
    return count


def check_leftovers(stage: Callers) -> None:
    """What is still there belongs to jobs and answers, and will not stay for ever."""
    keys = stage.world.keys
    wanted = stage.ledger.by_id.values()
    jobs = {job_key(one.id): one for one in wanted}
    answers = {keys.answer(one.id) for one in wanted if one.kind != "job"}
    answers |= {f"{keys.state}withdrawn:{one.id}" for one in wanted if one.state == "withdrawn"}
    results = {results_key(one.id) for one in wanted if one.kind == "job"}
    fences = {f"{keys.state}fence:{caller.name}" for caller in stage.callers if caller.fenced}
    states = {keys.kept_state(place) for place in stage.ledger.takers}
    left = stage.world.key_names() - stage.world.lasting_names() - states
    for place in stage.ledger.takers:
        left_ms = stage.world.run(("PTTL", keys.kept_state(place)))
        assert (left_ms == -1) == bool(stage.ledger.kept.get(place)), "a fence alone has its time"
    known = jobs.keys() | answers | results | fences
    assert left <= known, f"left over: {left - known}"
    for name in sorted(left):
        one = jobs.get(name)
        lasts = one and (one.state in ("over", "open", "unsent") or one.junk)
        if one and one.kind != "job" and not one.late_at(stage.now):
            assert lasts, f"{name} has done its work"
        gone = lasts and one and one.kind == "job"  # whoever cancelled it may delete it
        assert gone or stage.world.run(("PTTL", name)) > 0, f"{name} would stay for ever"
