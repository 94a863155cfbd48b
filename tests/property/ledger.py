"""What ought to be: who is a member, and what has become of each request.

Pure. ``Roll`` repeats the rules of membership in Python; ``Ledger`` keeps for each request what may
still happen to it. Both are held against what the server says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from world import MARK, View

from rqproc.placement import Deal, Placement, deal
from rqproc.protocol.messages import Claim

MAX_ATTEMPTS = 3
LEASE_MS = 1000
HALF_MS = LEASE_MS // 2
LONG_MS = 30_000
LANES = 2
REFUSED_MS = 60_000
SUSPECTED_MS = 600_000


def is_of_object(id: str) -> bool:
    """Whether the id of a claim is that of an object, which is no run."""
    return id.startswith("~") and "-" in id


def name_of(inc: str) -> str:
    return inc.partition("#")[0]


@dataclass(frozen=True)
class Reaped:
    """Who was dropped.

    Attributes:
        since: what has come to these since then is refused, for nobody is left; 0 for nothing.
    """

    dead: Sequence[str] = ()
    since: int = 0


@dataclass
class Roll:
    """Members, leases and the epoch, by the rules of the design.

    Attributes:
        pulse: when any node last beat; ``beaten``: when each did.
        graced: those that have had half a lease more since their last beat: 1, or since when they
            are on trial.
        seen: the last moment that a function of this process has told; None before the first.
        serves: whether a node has beaten to this process.
        server: the run id that nodes have last told of.
        told: those that have said to this server process what they run.
        settles_at: until then nothing is given out.
        flushed: for resources, '' for all, the last token of what is no entry any more.
        marks: for each member, how many epoch marks its queue has had.
        popped: how many of them it has taken from there.
        needs: how many stand before a request in its queue.
        placement: of all members; ``slots``: who has which, where they have any.
    """

    leases: dict[str, int] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    epoch: int = 0
    pulse: int = 0
    beaten: dict[str, int] = field(default_factory=dict)
    graced: dict[str, int] = field(default_factory=dict)
    seen: int | None = None
    serves: bool = False
    server: str = ""
    told: set[str] = field(default_factory=set)
    settles_at: int = 0
    flushed: dict[str, int] = field(default_factory=dict)
    marks: Counter[str] = field(default_factory=Counter)
    popped: Counter[str] = field(default_factory=Counter)
    needs: dict[tuple[str, str], int] = field(default_factory=dict)
    placement: Placement = "modulo"
    slots: Deal = ()

    def be_another_process(self) -> None:
        """Forget what is in no key."""
        self.seen, self.serves = None, False

    def reap(self, now: int) -> Reaped:
        """Drop whoever's lease has run out."""
        gap = None if self.seen is None else now - self.seen
        self.seen = now
        after_gap = self.serves and gap is not None and gap > HALF_MS
        if not after_gap and all(expiry > now for expiry in self.leases.values()):
            return Reaped()
        quiet, dead, since = now - self.pulse > HALF_MS, [], 0
        for inc, expiry in self.leases.items():
            long = expiry - now <= -LONG_MS
            may_wait = quiet and inc not in self.graced and (gap is not None or not long)
            if (expiry <= now or after_gap) and expiry - now < HALF_MS and may_wait:
                self.graced[inc] = now if long else 1
                self.leases[inc] = now + HALF_MS
            elif expiry <= now:
                dead.append(inc)
                since = max(since, self.graced.get(inc, 0))
        self.drop(*dead)
        return Reaped(dead, since if since > 1 and not self.members else 0)

    def drop(self, *incs: str) -> None:
        for inc in incs:
            del self.leases[inc]
            self.graced.pop(inc, None)
        self.retire(*incs)

    def beat(self, inc: str, now: int) -> None:
        self.leases[inc] = now + LEASE_MS
        self.pulse = self.beaten[inc] = now
        self.graced.pop(inc, None)
        self.serves = True

    def reconcile(self, inc: str, server: str, now: int) -> None:
        """A node has said to a server process what it runs."""
        if self.server not in ("", server):
            self._changed(1000)
            self.told.clear()
            self.settles_at = now + LEASE_MS
        self.server = server
        self.told.add(inc)
        if self.leases.keys() <= self.told:
            self.settles_at = 0

    def retire(self, *incs: str) -> None:
        if gone := self.members.intersection(incs):
            self.members -= gone
            self._changed(len(gone))
            self._deal()

    def _deal(self) -> None:
        if self.placement == "slots":
            self.slots = deal(self.slots, sorted(self.members))

    def join(self, inc: str, now: int) -> None:
        self.beat(inc, now)
        self._changed(1)
        self.members.add(inc)  # it has no mark: it is told
        self._deal()

    def flush(self, resource: str, token: int) -> None:
        """Nothing that was claimed by then is an entry any more; '' for whichever resource."""
        if not resource:
            self.flushed.clear()
        self.flushed[resource] = token
        self.epoch += 1
        self.marks.update(self.members)

    def _changed(self, by: int) -> None:
        self.epoch += by
        self.marks.update(self.members)

    def incarnation(self, name: str) -> str | None:
        return next((inc for inc in self.leases if name_of(inc) == name), None)

    def check(self, view: View) -> None:
        assert view.members == tuple(sorted(self.members)), "the members are the live, sorted"
        assert list(view.slots) == list(self.slots), "slots are dealt among the members"
        assert view.leases == self.leases, "leases"
        assert view.epoch == self.epoch, (
            "the epoch rises at every change of the members, and at every flush"
        )
        assert view.flushed == self.flushed, "what was flushed, and up to which token"
        assert view.nodes == {name_of(inc): inc for inc in self.leases}, "nodes"
        for inc in self.members:
            self._check_marks(inc, view)

    def note(self, view: View) -> None:
        """What has been routed by now lies behind the marks that there are by now."""
        for inc in self.members:
            for id in view.open.get(inc, ()):
                group = id.partition("_")[0].replace("-c", "-g")  # a call's that was routed so
                need = self.needs.get((inc, group), self.marks[inc])
                self.needs.setdefault((inc, id), need)

    def _check_marks(self, inc: str, view: View) -> None:
        """What was routed after a change lies behind its mark, in every member's queue."""
        passed, queue = self.popped[inc], view.queue_of(inc)
        for place, id in enumerate(queue):
            if id == MARK:
                passed += 1
            elif id in queue[place + 1 :]:
                continue  # anyone may have pushed a job here before it was routed
            elif (inc, id) in self.needs and id in view.open[inc]:
                assert passed >= self.needs[inc, id], "what is routed after a change is behind it"
        assert passed == self.marks[inc], "each change leaves one mark"


State = Literal["unsent", "open", "answered", "hit", "refused", "withdrawn", "over"]
"""What is known of a request: ``unsent``: nothing, or the server has forgotten it; ``open``: an
answer is owed; ``answered``: by a run; ``over``: nobody is owed an answer any more (cancelled,
deleted, expired, given up)."""


@dataclass
class Wanted:
    """One request, and what may become of it.

    Attributes:
        group, place: what a call was sent with; '' and 0 where it was sent alone.
        got: its caller has had an answer.
        asked: how often its caller has asked.
        acked: the caller has removed the answer that was kept.
        gone: its hash was deleted.
        junk: what is wrong with it, where it never was a request: nodes must get rid of it.
        foreign: another application enqueued it, with ``ttl_s``.
        adrift: it lay in a node's queue but was never routed there: nothing brings it back.
        due: what its caller is told, in turn, and what it has heard.
    """

    id: str
    address: str
    kind: Literal["call", "job", "part"]
    data: bytes
    caller: str = ""
    group: str = ""
    place: int = 0
    deadline_ms: int = 0
    lost: int = 0
    state: State = "unsent"
    got: bool = False
    asked: int = 0
    acked: bool = False
    gone: bool = False
    junk: str = ""
    foreign: bool = False
    adrift: bool = False
    ttl_s: int = 0
    due: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    def open_at(self, now: int) -> bool:
        """Whether an answer is still owed."""
        return self.state == "open" and not self.late_at(now) and not self.junk

    def late_at(self, now: int) -> bool:
        return 0 < self.deadline_ms <= now

    def tell(self, word: str, state: State) -> None:
        """Its caller is told so."""
        self.due.append(word)
        self.state = state


class Ledger:
    """Every request of one example, and the states of stateful ids.

    Attributes:
        takers: by address, the token of the latest run which took or kept its
            state.
        kept: by address, the state that was kept last.
        tokens: by address, the highest token that was seen with its state.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Wanted] = {}
        self.by_part: dict[str, str] = {}
        self.top_token = 0
        self.deaths: dict[str, tuple[int, int, int]] = {}
        self.takers: dict[str, int] = {}
        self.kept: dict[str, str] = {}
        self.tokens: dict[str, int] = {}

    def __getitem__(self, id: str) -> Wanted:
        return self.by_id[id]

    def add(self, wanted: Wanted) -> Wanted:
        self.by_id[wanted.id] = wanted
        if wanted.group:
            self.by_part[wanted.id.rpartition(f"-{wanted.address}")[0]] = wanted.id
        return wanted

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(w.group for w in self.by_id.values() if w.group))

    def find(self, id: str) -> Wanted:
        """Find by an id, or by what one in a group's answer begins with."""
        return self.by_id[self.by_part.get(id, id)]

    def hear(self, view: View, *, deaf: Iterable[str]) -> None:
        """``deaf``: callers that have lost their connection."""
        for id, word in view.heard:
            wanted = self.find(id)
            wanted.heard.append(word)
            wanted.got = wanted.got or wanted.caller not in deaf
        for id, words in view.results.items():
            self.by_id[id].heard = words

    # --- deaths ---

    def died(self, view: View, inc: str, now: int) -> None:
        """A node died that ran these, oldest first: it may have been the first of some ids.

        It counts for what is owed, wherever that is open: what a server has forgotten, and is asked
        for again, comes to its owner, while who runs it still does.
        """
        ran: dict[str, str] = {}
        for id, (_, address) in view.claims[inc].items():
            if len(ran) < LANES and not is_of_object(id):
                ran.setdefault(address, id)
        for address, id in ran.items():
            deaths, first, _ = self.deaths.get(address, (0, now, now))
            if now - first > SUSPECTED_MS:
                deaths, first = 0, now
            self.deaths[address] = (deaths + 1, first, now)
            wanted = self.by_id.get(id)
            if wanted and view.about[id].status in ("queued", "started"):
                wanted.lost += 1

    def refuse(self, view: View, inc: str, since: int) -> None:
        """Calls that came to a node on trial since then are told that nobody lives."""
        for id, moment in view.open[inc].items():
            if moment >= since * 1000:
                for call in view.groups[id].get(inc, []) if id in view.groups else [id]:
                    wanted = self.by_id[call]
                    if wanted.kind != "job":
                        wanted.tell("NoLiveNode", "withdrawn")
                        wanted.heard.append("NoLiveNode")  # when it asks

    def ended(self, address: str) -> None:
        """A run of this address has ended: it does not kill every node."""
        self.deaths.pop(address, None)

    def kills(self, address: str, now: int) -> int:
        """How many nodes have died on an address, where that is so many that it is refused."""
        deaths, _, last = self.deaths.get(address, (0, 0, 0))
        return deaths if deaths >= MAX_ATTEMPTS and now - last < REFUSED_MS else 0

    # --- claims ---

    def claimed(self, claim: Claim, now: int) -> None:
        """A node was given the right to run this."""
        wanted = self.by_id[claim.id]
        assert wanted.open_at(now), f"{claim.id} is {wanted.state}: it is not run (again)"
        told = (claim.what == "job", claim.address, claim.data, claim.deadline_ms)
        known = (wanted.kind == "job", wanted.address, wanted.data, wanted.deadline_ms)
        assert told == known, "a claim is the request as it was routed"
        assert claim.token > self.top_token, "tokens only rise"
        assert wanted.lost < MAX_ATTEMPTS, "a request is not tried again for ever"
        assert not self.kills(claim.address, now), "what kills nodes is not given out"
        self.top_token = claim.token

    # --- checks ---

    def check(self, view: View, now: int) -> None:
        self._check_states(view)
        places = view.places()
        strangers = places.keys() - self.by_id.keys() - set(self.groups)
        assert not strangers, "only known requests are anywhere"
        for wanted in self.by_id.values():
            self._check_places(wanted, places.get(wanted.id, []), view, now)
            assert wanted.heard == wanted.due, f"{wanted.id}: what is due is told, and no more"
            self._check_kept(wanted, view)
            self._check_job(wanted, places.get(wanted.id, []), view, now)

    def _check_states(self, view: View) -> None:
        for address, (token, text) in view.states.items():
            assert token >= self.tokens.get(address, 0), "the token of a state only grows"
            self.tokens[address] = token
            assert text == self.kept.get(address, ""), "a state is what was kept last"

    def _check_places(self, wanted: Wanted, places: list[str], view: View, now: int) -> None:
        if wanted.junk or wanted.adrift:
            return
        if wanted.gone:  # what was open when its hash was deleted stays so until a node looks
            assert places or not wanted.open_at(now), f"{wanted.id} is lost"
            return
        if wanted.open_at(now):
            assert places or wanted.id in view.ingress, f"{wanted.id} is lost"
            assert len(places) <= 1, f"{wanted.id} is in {len(places)} places"
        elif wanted.state in ("answered", "hit", "refused") and wanted.kind != "job":
            assert not places, f"{wanted.id} is {wanted.state}"
        else:
            assert len(places) <= 1, f"{wanted.id}: nobody waits for it"

    @staticmethod
    def _check_kept(wanted: Wanted, view: View) -> None:
        left_ms = view.about[wanted.id].kept_ms if wanted.junk != "text" else -2
        if wanted.kind != "job" and wanted.state in ("answered", "withdrawn") and not wanted.acked:
            assert left_ms > 0, f"{wanted.id}: its answer is kept, for some time: {wanted}"
        else:
            assert left_ms == -2, f"{wanted.id}: an answer that nobody asks for is not kept"

    @staticmethod
    def _check_job(wanted: Wanted, places: list[str], view: View, now: int) -> None:
        """Its hash, as RQ's tools see it."""
        if not wanted.open_at(now) or wanted.junk or wanted.id not in view.about:
            return
        about = view.about[wanted.id]
        alone = any(wanted.id in ids for ids in view.open.values()) or wanted.id in view.waiting
        if wanted.kind != "job":
            assert not alone or about.left_ms > 0, "the hash of a call will expire"
        elif not wanted.adrift:
            tokens = [ids[wanted.id][0] for ids in view.claims.values() if wanted.id in ids]
            shown = [run for run in view.wip if run.partition(":")[0] == wanted.id]
            assert about.status == ("started" if tokens else "queued"), "RQ's status"
            assert shown == [f"{wanted.id}:{token}" for token in tokens], "RQ's executions"
            if tokens:
                assert wanted.id not in view.ingress or wanted.foreign, "what runs does not wait"
            else:
                assert wanted.id in view.ingress, "what waits lies in RQ's list"
        if alone:
            assert about.lost == wanted.lost, "attempts"


def check_holds(view: View) -> None:
    """One incarnation at most runs an address, it lives, and ``holders`` says so."""
    runs = Counter((a, inc) for inc, ids in view.claims.items() for _, a in ids.values())
    assert len({address for address, _ in runs}) == len(runs), "one place for each address"
    implied = {address: f"{inc} {count}" for (address, inc), count in runs.items()}
    assert view.holders == implied, "holders are what is claimed"
    live = set(view.leases)
    assert all(inc in live for inc, ids in view.claims.items() if ids), "the dead hold nothing"
    assert all(inc in live for inc, ids in view.open.items() if ids), "nor is anything open there"
    names = {name_of(inc) for inc in live}
    assert all(name in names for name, ids in view.queues.items() if ids), "nor have they queues"


def check_order(dead: Iterable[str], before: View, after: View) -> None:
    """What is recovered keeps the order in which it was routed."""
    moments: Mapping[str, int] = {
        id: moment for inc in dead for id, moment in before.open[inc].items()
        if id not in before.waiting  # of a group other calls may wait for a node since before
    }  # fmt: skip
    for name, queue in after.queues.items():
        new = [id for id in queue if id in moments and id not in before.queues[name]]
        assert new == sorted(new, key=moments.__getitem__), "recovered in order"
