"""What ought to be: who is a member, and what has become of each request.

Pure. ``Roll`` repeats the rules of membership in Python; ``Ledger`` keeps for each request what may
still happen to it. Both are held against what the server says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from world import View

from rqproc.cluster import Claim, Job
from rqproc.wire import Answer

MAX_ATTEMPTS = 3
LEASE_MS = 1000
LANES = 2
REFUSED_MS = 60_000


def name_of(inc: str) -> str:
    return inc.partition("@")[0]


@dataclass
class Roll:
    """Members, leases and the epoch, by the rules of the design.

    Attributes:
        pulse: when any node last beat.
        graced: those that have had half a lease more since their last beat.
        server: the run id that nodes have last told of.
        told: those that have said to this server process what they run.
        settles_at: until then nothing is given out.
    """

    leases: dict[str, int] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    epoch: int = 0
    pulse: int = 0
    graced: set[str] = field(default_factory=set)
    server: str = ""
    told: set[str] = field(default_factory=set)
    settles_at: int = 0

    def doomed(self, now: int) -> list[str]:
        """Whoever the next script will drop."""
        late = [inc for inc, expiry in self.leases.items() if expiry <= now]
        quiet = now - self.pulse > LEASE_MS // 2
        return [inc for inc in late if inc in self.graced or not quiet]

    def reap(self, now: int) -> list[str]:
        """Drop whoever's lease has run out; return the incarnations."""
        dead = self.doomed(now)
        for inc in dead:
            self.drop(inc)
        for inc, expiry in self.leases.items():
            if expiry <= now:
                self.graced.add(inc)
                self.leases[inc] = now + LEASE_MS // 2
        return dead

    def drop(self, inc: str) -> None:
        del self.leases[inc]
        self.graced.discard(inc)
        self.retire(name_of(inc))

    def beat(self, inc: str, now: int) -> None:
        self.leases[inc] = now + LEASE_MS
        self.pulse = now
        self.graced.discard(inc)

    def reconcile(self, inc: str, server: str, now: int) -> None:
        """A node has said to a server process what it runs."""
        if self.server not in ("", server):
            self.epoch += 1000
            self.told.clear()
            self.settles_at = now + LEASE_MS
        self.server = server
        self.told.add(inc)
        if self.leases.keys() <= self.told:
            self.settles_at = 0

    def retire(self, name: str) -> None:
        if name in self.members:
            self.members.remove(name)
            self.epoch += 1

    def join(self, inc: str, now: int) -> None:
        self.beat(inc, now)
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
        withdrawn: by its caller; its node may still have it.
        junk: what is wrong with it, where it never was a request: nodes must get rid of it.
        foreign: another application enqueued it; ``copies`` times, with ``ttl_s``.
        expect: the one value or report that its stream may show; None while there is none.
    """

    job: Job
    kind: Literal["call", "job", "part"]
    reply: str
    deadline_ms: int = 0
    lost: int = 0
    over: bool = False
    refused: bool = False
    gone: bool = False
    withdrawn: bool = False
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
        self.deaths: dict[str, tuple[int, int]] = {}
        self.early: list[Answer] = []  # to what has just been sent

    def __getitem__(self, id: str) -> Wanted:
        return self.by_id[id]

    def add(self, wanted: Wanted) -> Wanted:
        self.by_id[wanted.job.id] = wanted
        early, self.early = self.early, []
        self.hear(early)
        return wanted

    @property
    def streams(self) -> set[str]:
        return {wanted.reply for wanted in self.by_id.values()}

    def died(self, taken: Mapping[str, str], now: int) -> None:
        """A node died that had taken these, oldest first: it may have run the first of some ids."""
        ran: dict[str, str] = {}
        for id, address in taken.items():
            if len(ran) < LANES:
                ran.setdefault(address, id)
        for address in ran:
            self.deaths[address] = (self.deaths.get(address, (0, 0))[0] + 1, now)
        for id in ran.values():
            wanted = self.by_id.get(id)
            if not wanted or wanted.gone or (wanted.over and wanted.kind == "job"):
                continue
            if wanted.withdrawn:
                continue
            wanted.lost += 1
            if wanted.lost >= MAX_ATTEMPTS:
                wanted.expect = "NodeLost"

    def ended(self, address: str) -> None:
        """A run of this address has ended: it does not kill every node."""
        self.deaths.pop(address, None)

    def kills(self, address: str, now: int) -> bool:
        """Whether requests of this address are refused for now."""
        deaths, last = self.deaths.get(address, (0, 0))
        return deaths >= MAX_ATTEMPTS and now - last < REFUSED_MS

    def given_up(self, answers: Iterable[Answer], now: int) -> None:
        """A take has answered these rather than given them out."""
        for answer in answers:
            wanted = self.by_id.get(answer.job_id)
            if wanted and answer_of(answer) == "NodeLost" and not wanted.expect:
                assert self.kills(wanted.job.address, now), "nobody is given up without a reason"
                wanted.expect = "NodeLost"

    def claimed(self, claim: Claim, now: int) -> None:
        """A node was given this claim."""
        wanted = self.by_id[claim.id]
        assert not self.kills(claim.address, now), "what kills nodes is not given out"
        assert claim.token > self.top_token, "tokens only rise"
        self.top_token = claim.token
        told = (claim.address, claim.data, claim.kind, claim.reply, claim.deadline_ms)
        job = wanted.job
        known = (job.address, job.data, wanted.kind, wanted.reply, wanted.deadline_ms)
        assert told == known, "a claim is the request as it was routed"
        assert claim.lost == wanted.lost or claim.kind == "part", "attempts"
        assert wanted.lost < MAX_ATTEMPTS, "a request is not tried again for ever"
        assert wanted.open_at(now), "what nobody waits for is not given out"

    def told_again(self, claim: Claim, now: int) -> None:
        """A node was told of a claim whose take it has not seen."""
        wanted = self.by_id[claim.id]
        if wanted.open_at(now):
            told = (claim.address, claim.kind, claim.reply, claim.deadline_ms)
            known = (wanted.job.address, wanted.kind, wanted.reply, wanted.deadline_ms)
            assert told == known, "a session tells what the take did"

    def hear(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            if answer.job_id in self.by_id:
                self.by_id[answer.job_id].answers.append(answer)
            else:
                self.early.append(answer)

    def check(self, view: View, now: int) -> None:
        places = view.places()
        for ids in view.taken.values():
            for id in ids:
                at = view.parts.get(id.rpartition(":")[0], {}).get(id, ("*", ""))[0]
                assert at == "*" or self.by_id[id].copies > 1, "what is taken is marked so"
        assert places.keys() <= self.by_id.keys(), "only known requests are anywhere"
        assert not self.early, "only known requests are answered"
        for id, wanted in self.by_id.items():
            self._check_places(wanted, places[id], now)
            self._check_answers(wanted)
            if wanted.open_at(now) and wanted.kind == "job":
                self._check_status(wanted, view)

    def _check_places(self, wanted: Wanted, places: int, now: int) -> None:
        if wanted.open_at(now):
            assert 1 <= places <= wanted.copies, f"{wanted.job.id} is in {places} places"
        elif wanted.expect and not wanted.withdrawn:
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
