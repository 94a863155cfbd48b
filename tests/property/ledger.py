"""What ought to be: who is a member, and what has become of each request.

Pure. ``Roll`` repeats the rules of membership in Python; ``Ledger`` keeps for each request what may
still happen to it. Both are held against what the server says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from world import View

from rqproc.cluster import Claim, Job, Kind
from rqproc.wire import Answer

MAX_ATTEMPTS = 3


def name_of(inc: str) -> str:
    return inc.partition("@")[0]


@dataclass
class Roll:
    """Members, leases and the epoch, by the rules of the design."""

    leases: dict[str, int] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    epoch: int = 0

    def reap(self, now: int) -> list[str]:
        """Drop whoever's lease has run out; return the incarnations."""
        dead = [inc for inc, expiry in self.leases.items() if expiry <= now]
        for inc in dead:
            self.drop(inc)
        return dead

    def drop(self, inc: str) -> None:
        del self.leases[inc]
        self.retire(name_of(inc))

    def retire(self, name: str) -> None:
        if name in self.members:
            self.members.remove(name)
            self.epoch += 1

    def join(self, inc: str, expiry: int) -> None:
        self.leases[inc] = expiry
        self.members.add(name_of(inc))
        self.epoch += 1

    def incarnation(self, name: str) -> str | None:
        return next((inc for inc in self.leases if name_of(inc) == name), None)

    def check(self, view: View) -> None:
        assert view.members == tuple(sorted(self.members)), "the members are the live names, sorted"
        assert view.leases == self.leases, "leases"
        assert view.epoch == self.epoch, "the epoch rises at every change of the members alone"
        assert view.nodes == {name_of(inc): inc for inc in self.leases}, "nodes"


@dataclass
class Wanted:
    """One request, and what may become of it.

    Attributes:
        over: nobody is owed an answer any more (cancelled, deleted, expired, refused).
        refused: by route.
        gone: its job hash was deleted.
        junk: what is wrong with it, where it never was a request: nodes must get rid of it.
        foreign: another application enqueued it; ``copies`` times, with ``ttl_s``.
        expect: the one value or report that its stream may show; None while there is none.
    """

    job: Job
    kind: Kind
    reply: str
    deadline_ms: int = 0
    lost: int = 0
    over: bool = False
    refused: bool = False
    gone: bool = False
    junk: str = ""
    foreign: bool = False
    copies: int = 1
    ttl_s: int = 0
    expect: str | None = None
    answers: list[Answer] = field(default_factory=list)

    def open_at(self, now: int) -> bool:
        """Whether an answer is still owed."""
        expired = 0 < self.deadline_ms <= now
        return not (self.expect or self.over or self.junk or expired)


class Ledger:
    """Every request of one example."""

    def __init__(self) -> None:
        self.by_id: dict[str, Wanted] = {}
        self.top_token = 0

    def __getitem__(self, id: str) -> Wanted:
        return self.by_id[id]

    def add(self, wanted: Wanted) -> Wanted:
        self.by_id[wanted.job.id] = wanted
        return wanted

    @property
    def streams(self) -> set[str]:
        return {wanted.reply for wanted in self.by_id.values()}

    def died(self, ids: Iterable[str]) -> None:
        """A node died that had taken these."""
        for wanted in map(self.by_id.__getitem__, ids):
            if wanted.gone or (wanted.over and wanted.kind == "job"):
                continue
            wanted.lost += 1
            if wanted.lost >= MAX_ATTEMPTS:
                wanted.expect = "NodeLost"

    def claimed(self, claim: Claim, now: int) -> None:
        """A node was given this claim."""
        wanted = self.by_id[claim.id]
        assert claim.token > self.top_token, "tokens only rise"
        self.top_token = claim.token
        told = (claim.address, claim.data, claim.kind, claim.reply, claim.deadline_ms, claim.lost)
        job = wanted.job
        known = (job.address, job.data, wanted.kind, wanted.reply, wanted.deadline_ms, wanted.lost)
        assert told == known, "a claim is the request as it was routed"
        assert wanted.lost < MAX_ATTEMPTS, "a request is not tried again for ever"
        assert wanted.open_at(now), "what nobody waits for is not given out"

    def hear(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self.by_id[answer.job_id].answers.append(answer)

    def check(self, view: View, now: int) -> None:
        places = view.places()
        assert places.keys() <= self.by_id.keys(), "only known requests are anywhere"
        for id, wanted in self.by_id.items():
            self._check_places(wanted, places[id], now)
            self._check_answers(wanted)
            if wanted.open_at(now) and wanted.kind == "job":
                self._check_status(wanted, view)

    def _check_places(self, wanted: Wanted, places: int, now: int) -> None:
        if wanted.open_at(now):
            assert 1 <= places <= wanted.copies, f"{wanted.job.id} is in {places} places"
        elif wanted.expect:
            assert places < wanted.copies, "it is answered"
        else:
            assert places <= wanted.copies, "nobody waits for it"

    def _check_answers(self, wanted: Wanted) -> None:
        shown = [answer_of(answer) for answer in wanted.answers]
        if wanted.expect and not wanted.gone:
            assert shown == [wanted.expect], f"{wanted.job.id}: exactly one answer, the right one"
        else:
            assert not shown, f"{wanted.job.id}: an answer that nobody gave"

    def _check_status(self, wanted: Wanted, view: View) -> None:
        taken = any(wanted.job.id in ids for ids in view.taken.values())
        status, lost = view.about[wanted.job.id]
        assert status == ("started" if taken else "queued"), "RQ's status"
        assert lost == wanted.lost, "attempts"


def answer_of(answer: Answer) -> str:
    """Return what an answer says, in a word that ``Wanted.expect`` may have."""
    if answer.report is None:
        return str(answer.value)
    return str(answer.report.get("message", answer.report["type"]))


def check_holds(view: View) -> None:
    """One incarnation at most has taken an address, and ``holders`` says so."""
    taken = Counter((a, inc) for inc, ids in view.taken.items() for a in ids.values())
    assert len({address for address, _ in taken}) == len(taken), "one place for each address"
    implied = {address: f"{inc} {count}" for (address, inc), count in taken.items()}
    assert view.holders == implied, "holders are what is taken"
    live = set(view.leases)
    assert all(inc in live for inc, ids in view.taken.items() if ids), "the dead hold nothing"
    names = {name_of(inc) for inc in live}
    assert all(name in names for name, ids in view.queues.items() if ids), "nor have they queues"
