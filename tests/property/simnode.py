"""A node in a schedule: no process, only what a worker would know and believe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger import name_of

from rqproc import wire
from rqproc.cluster import Claim, Finish, FinishMany


def zombie(claim: Claim) -> Claim:
    """A run that goes on though nobody is answered for it: no job, but a hold."""
    return claim._replace(id=f"~{claim.token}")


@dataclass(eq=False)
class SimNode:
    """A node as it sees itself: what it has been given and has not seen the end of.

    Attributes:
        known: claims that it must answer.
        unsure: ids among them whose finish was sent and not acknowledged.
        done: finishes that were acknowledged.
        blind: a reply was lost: it must open a new session before it takes again.
        drained: it knows that it is no member any more, and has said so.
        zombies: runs that go on since before it lost its lease; nobody is answered for them.
    """

    inc: str
    pid: int
    limit: int
    session: int = 0
    epoch: int = -1
    known: dict[str, Claim] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    done: list[Finish | FinishMany] = field(default_factory=list)
    blind: bool = True
    drained: bool = False
    zombies: dict[str, Claim] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return name_of(self.inc)

    @property
    def nonce(self) -> str:
        return f"nonce{self.pid}"

    @property
    def running(self) -> dict[str, str]:
        return {id: claim.address for id, claim in self.known.items() if id not in self.unsure}

    @property
    def open_claims(self) -> list[Claim]:
        return [claim for id, claim in self.known.items() if id not in self.unsure]

    def word(self, claim: Claim) -> str:
        """What it answers to a claim."""
        return f"{self.inc} {claim.token}"

    def outcome(self, claim: Claim, now: int, *, ok: bool = True) -> Finish:
        """A value, or an error; for a claim whose caller has given up, no answer at all."""
        if 0 < claim.deadline_ms <= now and not ok:
            return Finish(claim, "expired")
        note = wire.note(claim.id, "miss" if ok else "error", token=claim.token)
        word = self.word(claim)
        if ok:
            return Finish(claim, "ok", wire.return_value(json.dumps(word), "json"), note)
        report = wire.failure_report("ValueError", word)
        return Finish(claim, "error", wire.exc_string(word), note, report)

    def outcomes(
        self, claims: Sequence[Claim], now: int, *, ok: bool = True, together: bool = False
    ) -> list[Finish | FinishMany]:
        """The same for several; ``together``: values of one job's calls in one answer."""
        if not (ok and together):
            return [self.outcome(claim, now, ok=ok) for claim in claims]
        jobs: dict[str, list[Claim]] = {}
        for claim in claims:
            jobs.setdefault(claim.id.rpartition(":")[0] if claim.kind == "part" else "", []).append(
                claim
            )
        alone = [self.outcome(claim, now) for claim in jobs.pop("", [])]
        return [*alone, *(self._outcome_of_many(job, calls) for job, calls in jobs.items())]

    def _outcome_of_many(self, job: str, claims: Sequence[Claim]) -> FinishMany:
        calls = []
        for claim in claims:
            number = claim.id.rpartition(":")[2].encode()
            word = json.dumps(self.word(claim))
            text = wire.many_answer(number, "hit", word, age_s=0.0, expires_in_s=1.0, token=1)
            calls.append((claim, number, text))
        return FinishMany(job, claims[0].reply, 60.0, calls)


def answered(finish: Finish | FinishMany) -> list[Claim]:
    """The claims that a finish is about."""
    if isinstance(finish, FinishMany):
        return [claim for claim, _, _ in finish.calls]
    return [finish.claim]
