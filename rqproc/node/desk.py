"""What becomes of a claim: an answer from the entry, a place in a running computation, or a run.

Pure: it starts nothing and sends nothing. It is told of claims and outcomes, and asked for runs to
start and finishes to send. All of it belongs to the worker's thread.

Groupcache's data path in one place: entry, else join whoever computes, else compute and keep.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from rqproc import wire
from rqproc.app import Resource
from rqproc.cluster import Claim, Finish, FinishMany, ManyClaims, Tally
from rqproc.model import DEFAULT_RESOURCE
from rqproc.node.entries import Entries, Entry
from rqproc.node.holds import Holds
from rqproc.node.lanes import Lanes
from rqproc.node.runs import Done, Failed, Outcome, Overdue, Run, Slot, Waiting
from rqproc.node.shelf import Shelf
from rqproc.placement import address, parse_address

log = logging.getLogger("rqproc.node")

KEEP_S = 60.0
KNOWN_CALLS = 4096

SHORT_CHARS = 4096
"""Values up to here are answered together with others: 256 of them make a megabyte."""

Ending = Literal["error", "stuck", "released"]

MOST_PAUSED = 1024
"""Handlers that wait for other ids and let others run meanwhile: each keeps a thread."""

STUCK_AFTER_S = 0.2
"""Past its timeout a coroutine has been cancelled: what still runs then is stuck."""


class Desk:
    """Sorts claims. ``resources`` are those that this node serves, by name."""

    def __init__(
        self,
        name: str,
        resources: Mapping[str, Resource[..., Any]],
        *,
        entries: Entries,
        lanes: Lanes[Run],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._resources = resources
        self._functions = functions(resources)
        self._lanes = lanes
        self._clock = clock
        self._joinable: dict[str, Run] = {}
        self._running: set[Run] = set()
        self._timed: set[Run] = set()
        self._stuck: dict[str, Overdue] = {}
        self._holds = Holds()
        self._shelf = Shelf(name, entries, self._holds.busy)
        self._calls: dict[bytes, tuple[str, wire.Call]] = {}
        self._out: list[Finish | FinishMany] = []
        self._hits = self._joined = self._misses = self._succeeded = self._failed = 0

    # --- what the worker tells ---

    def receive(self, claim: Claim, *, due: float | None) -> None:
        """Take in a claim. One that is known already (a packet that came twice) is left alone."""
        if claim in self._holds:
            return
        self._holds.add(claim, due)
        try:
            call = self._read(claim)
        except wire.Unreadable as error:
            self._fail(claim, Failed("Unreadable", str(error), ""))
            return
        waiting = Waiting(claim, call, due)
        resource = self._resources.get(call.request.resource)
        if resource is None:
            report = wire.unknown_resource_report(call.request.resource, self._resources)
            self._refuse(claim, report, f"unknown resource {call.request.resource!r}\n")
        elif call.function == wire.INVALIDATE:
            self._invalidate(waiting)
        elif stuck := self._stuck.get(claim.address):
            self._fail(claim, stuck)
        elif resource.ttl_s > 0:
            self._serve_kept(waiting, resource)
        else:
            self._add_run(waiting, resource, keeps=False)

    def receive_many(self, many: ManyClaims, *, due: float | None) -> None:
        """Take in calls of one job: those that have a short entry are answered together."""
        now = self._clock()
        hits: list[tuple[Claim, bytes, str]] = []
        for place in range(len(many.calls) // 2):
            number, raw = many.calls[2 * place], many.calls[2 * place + 1]
            claim = many.claim(place, raw.decode(errors="surrogateescape"))
            entry = None if claim.address in self._stuck else self._shelf.get(claim.address)
            if entry is None or len(entry.text) > SHORT_CHARS or claim in self._holds:
                self.receive(claim, due=due)
                continue
            self._holds.add(claim, due)
            hits.append((claim, number, self._hit(number, claim.address, entry, now)))
        if hits:
            self._hits += len(hits)
            self._succeeded += len(hits)
            keep_s = KEEP_S + max(0.0, due - now if due is not None else 0.0)
            self._out.append(FinishMany(many.id, many.reply, keep_s, hits))

    def _hit(self, number: bytes, address: str, entry: Entry, now: float) -> str:
        _tell(self._name, address, "hit", entry.text)
        return wire.many_answer(
            number,
            "hit",
            entry.text,
            age_s=now - entry.computed_at,
            expires_in_s=max(0.0, entry.expires_at - now),
            token=entry.token,
        )

    def complete(self, run: Run, outcome: Outcome) -> None:
        """Take in a run's outcome: everyone who waited for it is answered."""
        self._running.remove(run)
        self._timed.discard(run)
        overdue = self._stuck.pop(run.address, None)
        self._lanes.done(run.address)
        self._leave_flight(run)
        if run.hold:
            self._release(run.hold, overdue)
        elif isinstance(outcome, Done):
            self._answer_all(run, outcome)
        else:
            for waiting in run.waiting:
                self._fail(waiting.claim, outcome)

    def change_slot(self, run: Run, slot: Slot) -> None:
        """A handler waits for another id, or has its answer: meanwhile another may run."""
        if run not in self._running or run.address in self._stuck:
            return
        run.asks += 1 if slot == "given back" else -1
        if run.asks and len(self._lanes.paused) < MOST_PAUSED:
            self._lanes.pause(run.address)
        else:
            self._lanes.go_on(run.address)

    def give_up(self, ids: Collection[str]) -> None:
        """Nobody waits for these claims any more: it is as if their deadlines had come."""
        now = self._clock()
        for run in self._lanes.waiting():
            for waiting in run.waiting:
                if waiting.claim.id in ids:
                    waiting.due = now

    def mind_the_time(self) -> None:
        """Answer for runs that take too long. They go on, and keep their ids from all others."""
        if not self._timed:
            return
        now = self._clock()
        for run in [r for r in self._timed if r.overdue_at is not None and r.overdue_at <= now]:
            self._timed.remove(run)
            run.overdue_at = None
            self._give_up_on(run, Overdue(run.resource.timeout_s or 0.0, stuck=True))

    def learn(self, epoch: int, members: Sequence[str] | None) -> None:
        """Take in the member list, before anything else is served; None where it is as before."""
        if members is not None:
            self._shelf.learn(epoch, members, held=self._holds.addresses())

    def forget(self) -> None:
        """The lease is lost: keep no entry, answer nobody; what runs goes on for nobody."""
        self._shelf.forget()
        self._joinable.clear()
        self._lanes.clear()
        self._holds.clear()
        self._out.clear()
        for run in self._running:
            self._holds.add(run.orphan(), None)

    def forget_entries(self) -> None:
        """The lease may not be relied on for now: serve nothing that is kept."""
        self._shelf.clear()
        for run in self._joinable.values():
            run.keeps = False

    def acknowledged(self, finishes: Sequence[Finish | FinishMany]) -> None:
        """The server has carried these out."""
        for finish in finishes:
            if isinstance(finish, FinishMany):
                for claim, _, _ in finish.calls:
                    self._let_go(claim)
            elif finish.outcome != "stuck":
                self._let_go(finish.claim)

    def again(self, finishes: Sequence[Finish | FinishMany]) -> None:
        """The server may not have had these: they are sent once more."""
        self._out[:0] = [f for f in finishes if _first(f) in self._holds]

    # --- what the worker asks ---

    def next_run(self) -> Run | None:
        """Return a run to start now, None if there is none.

        Whoever has given up by now is left out; a run that nobody waits for is not started.
        """
        while run := self._lanes.next():
            now = self._clock()
            for waiting in run.waiting:
                if waiting.due is not None and waiting.due <= now:
                    self._out.append(Finish(waiting.claim, "expired"))
            run.waiting = [w for w in run.waiting if w.due is None or w.due > now]
            if run.waiting:
                self._misses += 1
                self._running.add(run)
                if run.resource.timeout_s is not None:
                    run.overdue_at = now + run.resource.timeout_s + STUCK_AFTER_S
                    self._timed.add(run)
                return run
            self._lanes.done(run.address)
            self._leave_flight(run)
        return None

    def collect(self) -> list[Finish | FinishMany]:
        """Return the finishes to send, once."""
        out, self._out = self._out, []
        return out

    @property
    def shelf(self) -> Shelf:
        """What is kept here; of all that the desk has, other threads may see this alone."""
        return self._shelf

    @property
    def epoch(self) -> int:
        return self._shelf.epoch

    @property
    def running(self) -> bool:
        """Whether any handler runs, be it for nobody."""
        return bool(self._running)

    @property
    def overdue_at(self) -> float | None:
        """When, on its clock, a run will have taken too long; None while none may."""
        times = [run.overdue_at for run in self._timed if run.overdue_at is not None]
        return min(times) if times else None

    def unfinished(self) -> list[Claim]:
        """Return what this node has no answer for yet, and what keeps ids from others."""
        runs = [*self._running, *self._lanes.waiting()]
        claims = [waiting.claim for run in runs for waiting in run.waiting]
        return claims + [run.hold for run in runs if run.hold]

    @property
    def held(self) -> int:
        """How many requests are taken and not acknowledged as finished."""
        return len(self._holds)

    def held_of(self, address: str) -> int:
        """How many of these are requests of one address."""
        return self._holds.count(address)

    @property
    def held_by_paused(self) -> int:
        """How many of these wait for runs that do nothing: they ask others, or are stuck."""
        paused = self._lanes.paused
        return sum(map(self._holds.count, paused)) if paused else 0

    @property
    def idle(self) -> bool:
        """Nothing is held, nothing runs."""
        return not self._holds and not self._lanes.running

    def changed_since(self, tally: Tally) -> bool:
        """Whether anything was answered after a tally was taken."""
        return (self._hits, self._succeeded, self._failed, len(self._stuck)) != (
            tally.hits,
            tally.succeeded,
            tally.failed,
            tally.stuck,
        )

    def tally(self) -> Tally:
        return Tally(
            entries=len(self._shelf),
            hits=self._hits,
            joined=self._joined,
            misses=self._misses,
            succeeded=self._succeeded,
            failed=self._failed,
            stuck=len(self._stuck),
        )

    # --- inside ---

    def _answer_all(self, run: Run, done: Done) -> None:
        now = self._clock()
        ttl_s = run.resource.ttl_s if run.keeps else 0.0
        made_at = min(done.at, now)
        entry = Entry(done.text, made_at, made_at + ttl_s, run.token)
        if ttl_s > 0:
            self._shelf.keep(run.address, entry)
        for place, waiting in enumerate(run.waiting):
            self._answer(waiting, entry, "joined" if place else "miss", now)

    def _release(self, hold: Claim, overdue: Overdue | None) -> None:
        """The answer goes along: the one that was sent before may have been lost on its way."""
        if overdue is None or hold.id.startswith("~"):
            self._out.append(Finish(hold, "released"))
        else:
            self._fail(hold, overdue, outcome="released")

    def _give_up_on(self, run: Run, overdue: Overdue) -> None:
        """Answer everyone who waits for it or behind it; one of the claims stays as its hold."""
        self._stuck[run.address] = overdue
        self._leave_flight(run)
        self._lanes.pause(run.address)
        behind = [w for other in self._lanes.drop(run.address) for w in other.waiting]
        for waiting in run.waiting[1:] + behind:
            self._fail(waiting.claim, overdue)
        if run.waiting:
            run.hold = run.waiting[0].claim
            self._fail(run.hold, overdue, outcome="stuck")
        run.waiting.clear()
        log.error("%s is stuck: it runs for more than %g s", run.address, overdue.timeout_s)

    def _serve_kept(self, waiting: Waiting, resource: Resource[..., Any]) -> None:
        claim, request = waiting.claim, waiting.call.request
        if request.args or request.kwargs:
            reason = f"{resource.name} keeps its values (ttl={resource.ttl_s:g}): only ids go in"
            self._fail(claim, Failed("TypeError", reason, ""))
        elif entry := self._shelf.get(claim.address):
            self._hits += 1
            self._answer(waiting, entry, "hit", self._clock())
        elif run := self._joinable.get(claim.address):
            self._joined += 1
            run.waiting.append(waiting)
        else:
            self._joinable[claim.address] = self._add_run(waiting, resource, keeps=True)

    def _let_go(self, claim: Claim) -> None:
        if claim in self._holds:
            self._holds.remove(claim)
            self._shelf.finished_with(claim.address)

    def _add_run(self, waiting: Waiting, resource: Resource[..., Any], *, keeps: bool) -> Run:
        claim = waiting.claim
        run = Run(claim.address, resource, waiting.call.request, claim.token, [waiting], keeps)
        self._lanes.add(claim.address, run)
        return run

    def _leave_flight(self, run: Run) -> None:
        if self._joinable.get(run.address) is run:
            del self._joinable[run.address]

    def _invalidate(self, waiting: Waiting) -> None:
        """Drop the entry, and let nobody who comes later join or keep what is being computed."""
        address = waiting.claim.address
        had = self._shelf.drop(address)
        if run := self._joinable.pop(address, None):
            run.keeps = False
        now = self._clock()
        text = "true" if had or run else "false"
        entry = Entry(text, now, now, waiting.claim.token)
        self._answer(waiting, entry, "miss", now, outcome="dropped")

    def _answer(
        self, waiting: Waiting, entry: Entry, source: str, now: float,
        *, outcome: Literal["ok", "dropped"] = "ok",
    ) -> None:  # fmt: skip
        claim = waiting.claim
        self._succeeded += 1
        _tell(self._name, claim.address, source, entry.text)
        note = wire.note(
            claim.id,
            source,
            age_s=now - entry.computed_at,
            expires_in_s=max(0.0, entry.expires_at - now),
            token=entry.token,
        )
        body = entry.body(waiting.call.serializer)
        self._out.append(Finish(claim, outcome, body, note, keep_s=self._keep_s(claim, now)))

    def _fail(self, claim: Claim, failure: Failed | Overdue, *, outcome: Ending = "error") -> None:
        self._refuse(claim, failure.report, failure.text, outcome=outcome)

    def _refuse(self, claim: Claim, report: str, text: str, *, outcome: Ending = "error") -> None:
        self._failed += outcome != "released"  # which has been counted as stuck
        note = wire.note(claim.id, "error", token=claim.token)
        keep_s = self._keep_s(claim, self._clock())
        self._out.append(Finish(claim, outcome, wire.exc_string(text), note, report, keep_s))

    def _keep_s(self, claim: Claim, now: float) -> float:
        """An answer outlives its caller's patience by a minute."""
        due = self._holds.due(claim)
        return KEEP_S + max(0.0, due - now if due is not None else 0.0)

    def _read(self, claim: Claim) -> wire.Call:
        """Read a job's data; what asks without arguments, as hits do, is read once.

        Raises:
            wire.Unreadable: it cannot be read, or asks for another id than it is addressed to.
        """
        if claim.kind == "part":
            return wire.call_of(claim.address)
        known = self._calls.get(claim.data)
        if known is not None and known[0] == claim.address:
            return known[1]
        call = wire.decode_call(claim.data, functions=self._functions)
        request = call.request
        if address(request.resource, request.id) != claim.address:
            raise wire.Unreadable("the job is addressed to another id than the one it asks for")
        if not request.args and not request.kwargs:
            if len(self._calls) >= KNOWN_CALLS:
                self._calls.clear()
            self._calls[claim.data] = (claim.address, call)
        return call


def _first(finish: Finish | FinishMany) -> Claim:
    return finish.calls[0][0] if isinstance(finish, FinishMany) else finish.claim


def functions(resources: Mapping[str, Resource[..., Any]]) -> dict[str, str]:
    """Return the exact names by which jobs may call resources: their own, and their handlers'."""
    names = {resource.path: name for name, resource in resources.items()}
    return names | {name: name for name in resources}


def _tell(node: str, address: str, source: str, text: str) -> None:
    """Log an answer: the default resource's for everyone to see, others' for those who debug."""
    level = logging.INFO if f"|{DEFAULT_RESOURCE}:" in address else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    _, resource, id = parse_address(address)
    did = {"hit": "answered from its entry", "joined": "answered a caller that joined"}
    log.log(level, "%s %s %s: %s %s", node, resource, id, did.get(source, "computed"), text[:200])
