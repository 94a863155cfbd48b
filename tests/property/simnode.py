"""A node in a schedule: no process, only what a worker would know and believe."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger import name_of

from rqproc.protocol import answer_codec, codec
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Claim, Known
from rqproc.protocol.node_commands import Ending

if TYPE_CHECKING:
    from objects import SimObject

KEEP_S = 60.0


def is_group(id: str) -> bool:
    return "-g" in id and id.rpartition("-g")[2].isalnum() and id.startswith("r")


@dataclass(eq=False)
class SimNode:
    """A node as it sees itself: what it has taken and has not seen the end of.

    Attributes:
        taken: what it has taken from its queue and not claimed.
        texts: what it has read of the groups among them.
        sent_texts: what it had read of groups that it has answered as a whole.
        waiting: jobs that it has looked into and not claimed.
        known: what it runs.
        unsure: what it has said of some of these, without an answer: it will say so again.
        stuck: answered, but their runs go on; and with what they were answered.
        swallowed: what a pop took whose reply was lost, while the node went on.
        done: endings that were acknowledged.
        blind: a reply was lost: it must open a new session before it goes on.
        drained: it knows that it is no member any more, and has said so.
        zombies: runs that go on since before it lost its lease; nobody is answered for them.
        objects: of stateful ids, by the ids of their holds.
    """

    inc: str
    pid: int
    limit: int
    session: int = 0
    epoch: int = -1
    taken: dict[str, None] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    sent_texts: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, Claim] = field(default_factory=dict)
    known: dict[str, Claim] = field(default_factory=dict)
    unsure: dict[str, Ending] = field(default_factory=dict)
    stuck: dict[str, tuple[Claim, Ending]] = field(default_factory=dict)
    swallowed: set[str] = field(default_factory=set)
    done: list[Ending] = field(default_factory=list)
    blind: bool = True
    drained: bool = False
    zombies: dict[str, Claim] = field(default_factory=dict)
    objects: dict[str, SimObject] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return name_of(self.inc)

    @property
    def nonce(self) -> str:
        return f"nonce{self.pid}"

    @property
    def busy(self) -> bool:
        return bool(self.taken or self.waiting or self.known or self.stuck or self.zombies)

    @property
    def runs(self) -> dict[str, Claim]:
        """What it runs, and what else keeps an address from others."""
        stuck = {id: claim for id, (claim, _) in self.stuck.items()}
        objects = {id: made.hold for id, made in self.objects.items()}
        return {**self.known, **stuck, **self.zombies, **objects}

    @property
    def running(self) -> dict[str, str]:
        """Those whose hold cannot have ended: of the others it has said so."""
        return {id: claim.address for id, claim in self.runs.items() if id not in self.unsure}

    def to_name(self) -> list[Known]:
        """What it tells a server."""
        waiting = [Known(id, 0, "") for id in (*self.taken, *self.waiting)]
        return waiting + [Known(id, claim.token, claim.address) for id, claim in self.runs.items()]

    def word(self, claim: Claim, how: str = "") -> str:
        """What it answers to a claim."""
        return f"{self.inc} {claim.token}{how}"

    # --- endings ---

    def hit(self, id: str) -> Ending:
        text = json.dumps(f"{self.inc} hit")
        return Commands.hit(id, answer_codec.encode_answer(id, "hit", text, node=self.name))

    def joined(self, id: str, address: str) -> Ending:
        """A call that it has not claimed is answered by a run of the same id."""
        text = json.dumps(f"{self.inc} joined")
        payload = answer_codec.encode_answer(id, "joined", text, node=self.name)
        return Commands.call("", id, address, payload, KEEP_S)

    def lost(self, claim: Claim) -> Ending:
        """Too many nodes have died on it."""
        report = json.dumps({"type": "NodeLost", "attempts": claim.deaths})
        if claim.id.startswith("r"):
            payload = answer_codec.encode_answer(claim.id, "error", report, node=self.name)
            return Commands.call("", claim.id, claim.address, payload, KEEP_S)
        return Commands.job("", claim.id, claim.address, codec.exc_string("lost"), report)

    def ending(self, claim: Claim, outcome: str = "", *, ok: bool = True) -> Ending:
        """A value, or an error; or what else comes of a run."""
        how = " late" if outcome in (":stuck", ":ended") else ""
        text = json.dumps(self.word(claim, how))
        report = "" if ok else answer_codec.failure_report("ValueError", self.word(claim, how))
        if outcome == ":expired":
            text = report = ""
        if not claim.id.startswith(("r", "~")):
            body = text and (codec.return_value(text, "json") if ok else codec.exc_string("no"))
            return Commands.job(outcome, claim.id, claim.address, body, report)  # type: ignore[arg-type]
        source, body = ("miss", text) if ok else ("error", report)
        payload = body and answer_codec.encode_answer(
            claim.id, source, body, node=self.name, token=claim.token
        )
        return Commands.call(outcome, claim.id, claim.address, payload, KEEP_S)  # type: ignore[arg-type]

    def group_answer(self, group: str, places: Iterable[str]) -> str:
        """The answers to calls of a group, from entries; '' for none."""
        text = json.dumps(f"{self.inc} hit")
        parts = [
            answer_codec.encode_part(place, "hit", text, age_s=0.0, expires_in_s=1.0, token=1)
            for place in places
        ]
        return answer_codec.encode_group(group, self.name, parts) if parts else ""

    def zombie(self, claim: Claim) -> Claim:
        """A run that goes on though nobody is answered for it: no job, but a hold."""
        return claim._replace(id=f"~{claim.token}")
