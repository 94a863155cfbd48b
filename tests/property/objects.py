"""Objects of stateful ids in a schedule: what is taken and kept, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass

from callers import Callers
from simnode import SimNode

from rqproc.errors import StateSuperseded
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Claim
from rqproc.protocol.node_commands import object_hold


@dataclass(eq=False)
class SimObject:
    """What a process has of an id. The process may be paused, or lose its lease, and not know it.

    Attributes:
        inc: the incarnation under which it was made.
        made, token: of the run that made it, and of the latest that used it.
    """

    inc: str
    address: str
    made: int
    token: int

    @property
    def hold(self) -> Claim:
        return Claim(object_hold(self.made, self.address), "call", self.address, self.made, 0, b"")


def take(stage: Callers, node: SimNode, claim: Claim) -> SimObject | None:
    """What a run of a stateful id begins with: it uses the object, or takes the state for one."""
    for made in node.objects.values():
        if made.address == claim.address:
            made.token = max(made.token, claim.token)
            return made
    ledger, made = stage.ledger, SimObject(node.inc, claim.address, claim.token, claim.token)
    command = stage.commands.take_state(
        node.inc, claim.address, token=claim.token, made=claim.token
    )
    reply = stage.function(command)
    free = stage.before.holder(claim.address) in (None, node.inc)
    newest = claim.token >= ledger.takers.get(claim.address, 0)
    try:
        text = stage.commands.read_state(reply)
    except StateSuperseded:
        assert not (stage.live(node) and free and newest), "who has the id is given its state"
        return None
    assert stage.live(node), "the dead are given nothing"
    assert newest, "what a later run has taken is not taken again"
    assert stage.view.holder(claim.address) == node.inc, "an object holds its id"
    assert made.hold.id in stage.view.claims[node.inc], "as long as it lives"
    assert text == ledger.kept.get(claim.address, ""), "the state is what was kept last"
    ledger.takers[claim.address] = made.made
    node.objects[made.hold.id] = made
    stage.objects.append(made)
    return made


def keep(stage: Callers, made: SimObject, text: str) -> bool:
    """A process keeps the state of an object, as soon or as late as it may; whether it could."""
    ledger, address = stage.ledger, made.address
    command = stage.commands.keep_state(made.inc, address, text, token=made.token)
    kept = bool(stage.function(command))
    taker = ledger.takers.get(address)
    if taker is None:  # a server that has forgotten
        assert kept <= (made.inc in stage.view.leases), "then only who lives may keep it"
    else:
        assert kept == (made.token >= taker), "a state is kept unless a later run has taken it"
    if kept:
        ledger.takers[address], ledger.kept[address] = made.token, text
    return kept


def close(stage: Callers, node: SimNode, made: SimObject, text: str) -> None:
    """A node closes an object: the state is kept before the id is let go."""
    keep(stage, made, text)
    stage.objects.remove(made)
    stage.answer(node, [Commands.call(":ended", made.hold.id, made.address, "", 0.0)])
    del node.objects[made.hold.id]
