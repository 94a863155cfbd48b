"""What facts about single calls and jobs begin with: steps that many of them have."""

from __future__ import annotations

from typing import Any

from callers import Callers
from ledger import Wanted
from simnode import SimNode

from rqproc.protocol.messages import Claim, Claimed, Sent


def called(stage: Callers, pick: int = 0, *, timeout_s: float = 5.0) -> Wanted:
    order = stage.new_order([pick], timeout_s=timeout_s)
    stage.send(order)
    return order.wanted[0]


def enqueued(stage: Callers, *, result_ttl_s: int | None = None, placed: bool = True) -> Wanted:
    """``placed``: a node has it at once, if there is any."""
    place, data = stage.new_call(0)
    job = stage.ledger.add(Wanted(f"job{stage.number()}", place, "job", data))
    stage.look()
    jobs = [Sent(job.id, place, data)]
    (report,) = stage.function(stage.commands.enqueue(jobs, result_ttl_s=result_ttl_s))
    if stage.view.members and placed:
        stage.expect_routed(job, 0, report)
    else:
        job.state = "open"
    return job


def taken(stage: Callers, node: SimNode) -> list[Claim]:
    """What a node pops and claims."""
    stage.pop(node, 100)
    told = stage.claim(node, list(node.taken))
    assert isinstance(told, Claimed)
    return [claim for claim in told.claims if claim.what != "gone"]


def ended(stage: Callers, node: SimNode, *, ok: bool = True) -> None:
    taken(stage, node)
    stage.answer(node, [node.ending(claim, ok=ok) for claim in node.known.values()])
    node.known.clear()
    stage.check()


def state(stage: Callers, name: str) -> Any:
    return stage.world.run(("HGETALL", f"{stage.world.keys.state}{name}"))


def lying(stage: Callers, name: str) -> list[str]:
    return [id for id in stage.view.queues[name] if id != "epoch"]
