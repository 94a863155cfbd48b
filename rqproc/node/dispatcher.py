"""What becomes of what is taken from the queue: an answer from the entry, a place in a running
computation, or a claim and a run.

Pure: it starts nothing and sends nothing. It is told what came, and asked what is to be sent. All
of it belongs to whoever holds the worker's lock.

The data path, as groupcache has it: the entry, else join whoever computes, else claim, compute and
keep. A call without arguments is known by its id alone, so only what must be run is claimed, and
then read::

    intake ──▶ hit ──────────────────────────────▶ outbox ──▶ server
      │  └───▶ joins a run under way                 ▲
      ▼                                              │
    claim, settle ──▶ server ──▶ receive(claim) ─▶ scheduler ◀──▶ runner
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rqproc.ids import parse_address
from rqproc.model import Request
from rqproc.node.about_id import AboutIds
from rqproc.node.cache import Cache
from rqproc.node.counts import Counts
from rqproc.node.entries import Entry
from rqproc.node.handoff import Handoff
from rqproc.node.intake import Intake
from rqproc.node.lanes import Lanes
from rqproc.node.objects import Objects, last_run
from rqproc.node.outbox import Outbox, node_lost
from rqproc.node.reader import CALL, Reader, functions
from rqproc.node.runs import Done, Failed, RefusedRun, Run, Taken
from rqproc.node.scheduler import Scheduler
from rqproc.node.unacknowledged import Unacknowledged
from rqproc.policy import check_own_ttl
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.messages import Claim, Known, Tally
from rqproc.protocol.node_commands import Ending, Outcome
from rqproc.resource import ResourceSpec
from rqproc.runtime import Chance, Clock
from rqproc.stats import NodeStats

NOTHING: Mapping[bytes, int] = {}

_call = CALL.fullmatch


class Dispatcher:
    """Sorts what is taken. ``resources`` are those that this node serves, by name.

    Attributes:
        intake: what is taken from the queue comes in here.
        scheduler: the runs.
        cache: what is kept here; of all that a dispatcher has, other threads may use this alone.
        objects: those of stateful ids; None where there are none to be.
        handoff: entries of ids that move; None where nothing is given and taken.
    """

    def __init__(
        self, name: str, resources: Mapping[str, ResourceSpec], *, cache: Cache,
        lanes: Lanes[Run], clock: Clock, max_waiters: int, chance: Chance,
        objects: Objects | None = None, handoff: Handoff | None = None,
    ) -> None:  # fmt: skip
        self._name = name
        self._resources = resources
        self._reader = Reader(functions(resources))
        self._clock = clock
        self._flushed: dict[bytes, int] = {}
        self._unacknowledged = Unacknowledged()
        counts = self._counts = Counts(resources, clock())
        self._outbox = Outbox(name, clock, counts)
        self.cache = cache
        self.objects = objects
        self.handoff = handoff
        self.scheduler = Scheduler(
            name, cache, self._unacknowledged, self._outbox, lanes=lanes, clock=clock,
            max_waiters=max_waiters, chance=chance, counts=counts,
        )  # fmt: skip
        self._about = AboutIds(
            name, resources, cache=cache, scheduler=self.scheduler,
            unacknowledged=self._unacknowledged, clock=clock,
        )  # fmt: skip
        self.intake = Intake(
            resources, cache=cache, unacknowledged=self._unacknowledged, outbox=self._outbox,
            scheduler=self.scheduler, reader=self._reader, about=self._about, clock=clock,
        )  # fmt: skip

    # --- what was claimed ---

    def receive(self, claim: Claim, *, due: float | None) -> None:
        """Take in what came of claiming; one that is known already is left alone, but for a job
        whose turn had come.
        """
        id = claim.id.encode(errors="surrogateescape")
        self._note(claim)
        if id in self.scheduler.turns.unclaimed:
            lost = _lost(claim.deaths) if claim.what == "lost" else None
            self.scheduler.turns.claimed(id, claim.token, lost)
            return
        if claim.what == "gone" or id in self._unacknowledged.ids:
            return
        key = claim.address.encode(errors="surrogateescape")
        since = self._clock() - claim.waited_s
        taken = Taken(id, claim.address, key, claim.token, due, since=since)
        self._unacknowledged.add(taken)
        if not (claim.what == "call" or _call(id)):
            taken.serializer = "json"
        if claim.what == "lost":
            self._outbox.failure(taken, _lost(claim.deaths))
            return
        try:
            call = self._reader.read(taken, claim.data)
        except codec.Unreadable as error:
            self._outbox.failure(taken, Failed("Unreadable", str(error), ""))
            return
        taken.trace = call.trace
        if taken.serializer is not None:
            taken.serializer = call.serializer
        if self.scheduler.accepts(taken):
            self._serve(taken, call, first=claim.what == "first")

    def _note(self, claim: Claim) -> None:
        if self.handoff is not None and claim.what != "gone":
            self.handoff.claimed(claim.address.encode(errors="surrogateescape"))

    def _serve(self, taken: Taken, call: codec.DecodedCall, *, first: bool) -> None:
        request = call.request
        resource = self._resources.get(request.resource)
        if call.function == codec.INVALIDATE_NAMESPACE:
            self._invalidate_all(taken, b"", ":flushed-all")
        elif call.function == codec.EXPLAIN:  # in local mode, where all comes in here
            now, told = self._clock(), self._about.tell(taken.key, itself=1)
            self._outbox.value(taken, Entry(now, now, taken.token, told.encode()), "hit")
        elif resource is None:
            report = answer_codec.unknown_resource_report(request.resource, self._resources)
            text = f"unknown resource {request.resource!r}\n"
            self._outbox.failure(taken, RefusedRun(report, text))
        elif call.function != codec.REQUEST:
            self._change(taken, resource, call)
        elif resource.ttl_s > 0 and (request.args or request.kwargs):
            reason = f"{resource.name} keeps its values (ttl={resource.ttl_s:g}): only ids go in"
            self._outbox.failure(taken, Failed("TypeError", reason, ""))
        elif resource.ttl_s > 0 and self._serve_kept(taken, resource, request):
            pass
        elif stuck := self.scheduler.stuck.get(taken.key):
            self._outbox.failure(taken, stuck)
        else:
            self._run(taken, resource, request, first=first)

    def _run(self, taken: Taken, resource: ResourceSpec, request: Request, *, first: bool) -> None:
        try:
            resource, request = resource.member(request)
        except LookupError as error:
            self._outbox.failure(taken, Failed("LookupError", str(error), ""))
            return
        keeps = resource.ttl_s > 0
        if not (keeps and self.scheduler.join(taken)):
            self.scheduler.add(taken, resource, request, keeps=keeps, first=first)

    def _serve_kept(self, taken: Taken, resource: ResourceSpec, request: Request) -> bool:
        """Answer with what is kept, if there is any: a value, an error that is remembered, or a
        value that is about to be old or is. The first who is given that one has the next made.
        """
        now = self._clock()
        if entry := self.cache.get(taken.key, now):
            self._outbox.value(taken, entry, "hit")
            return True
        kept = self.intake.kept(taken.key, resource.policy, now)
        if kept is None or taken.serializer is not None:  # who enqueues a job has it run
            return False
        entry, source = kept
        if source == "error":
            self._outbox.failure(taken, RefusedRun(entry.text.decode(), "remembered"))
            return True
        refreshes = self.scheduler.may_refresh(taken.key, resource)
        self._outbox.value(taken, entry, source, ":stuck" if refreshes else "")
        if refreshes:
            self.scheduler.refresh(taken, resource, request)
        return True

    def _change(self, taken: Taken, resource: ResourceSpec, call: codec.DecodedCall) -> None:
        """Change what is kept."""
        if call.function == codec.INVALIDATE:
            self._invalidate(taken)
        elif call.function == codec.INVALIDATE_ALL:
            self._invalidate_all(taken, taken.key.split(b"-", 2)[1], ":flushed")
        else:
            self._renew(taken, resource, call)

    def _invalidate(self, taken: Taken) -> None:
        """Drop the entry, and let nobody who comes later join or keep what is being computed."""
        now = self._clock()
        had = self.cache.drop(taken.key, now)
        ran = self.scheduler.joinable.part(taken.key)
        text = b"true" if had or ran else b"false"
        self._outbox.value(taken, Entry(now, now, taken.token, text), "miss", ":dropped")

    def _invalidate_all(self, taken: Taken, resource: bytes, outcome: Outcome) -> None:
        """Drop what was made before. The server tells the other nodes when it has the answer, and
        this one too: what is begun here until then is not kept, either.
        """
        self._flush(resource, taken.token)
        now = self._clock()
        self._outbox.value(taken, Entry(now, now, taken.token, b"null"), "miss", outcome)

    def _flush(self, resource: bytes, token: int) -> None:
        self.cache.flush(resource, token)
        self.scheduler.joinable.part_all(resource, token)

    def _renew(self, taken: Taken, resource: ResourceSpec, call: codec.DecodedCall) -> None:
        """Have a value made now, or keep the one that is given, whatever is kept."""
        name, args = resource.name, call.request.args
        given = None
        try:
            if resource.ttl_s == 0:
                raise TypeError(f"{name} keeps no values (ttl=0)")
            if call.function == codec.SET:
                value, ttl = args
                given = Done(
                    codec.encode_value(value), ttl_s=None if ttl is None else check_own_ttl(ttl)
                )
        except (TypeError, ValueError) as error:
            self._outbox.failure(taken, Failed(type(error).__name__, str(error), ""))
            return
        if stuck := self.scheduler.stuck.get(taken.key):
            self._outbox.failure(taken, stuck)
        else:
            self.scheduler.renew(taken, resource, Request(name, call.request.id), given)

    # --- members and leases ---

    def learn(
        self, epoch: int, members: Sequence[str] | None, slots: bytes = b"",
        flushed: Mapping[bytes, int] = NOTHING, server_ms: int = 0,
    ) -> None:  # fmt: skip
        """Take in the member list, before anything else is served; None where it is as before.

        Args:
            slots: see ``Cache.learn``.
            flushed: see ``Claimed``.
            server_ms: the server's clock, when it said so.
        """
        for resource, token in flushed.items():
            if token > self._flushed.get(resource, -1):
                self._flushed[resource] = token
                self._flush(resource, token)
        if members is not None:
            self._counts.epochs += 1
            is_new = epoch != self.cache.epoch
            self.cache.learn(epoch, members, slots, busy=self._unacknowledged.addresses)
            if self.handoff is not None and is_new:
                self.handoff.learned(epoch, server_ms)
            if self.objects is not None:
                self.objects.leave()

    def forget(self) -> None:
        """The lease is lost: keep no entry, answer nobody; what runs goes on for nobody."""
        self.cache.forget()
        self.scheduler.forget()
        self.intake.abandon()
        if self.objects is not None:
            self.objects.forget()

    def close_objects(self, *, every: bool = False) -> None:
        """Have objects closed that are idle, or another's by now; or every one."""
        if self.objects is None:
            return
        if every:
            self.objects.leave(every=True)
        for held in self.objects.to_close():
            _, name, id = parse_address(held.address)
            if resource := self._resources.get(name):  # none where an app is gone before its place
                self.scheduler.close(last_run(held, resource, id))

    def forget_entries(self) -> None:
        """The lease may not be relied on for now: serve nothing that is kept."""
        self.cache.clear()
        self.scheduler.joinable.keep_nothing()

    # --- what is sent ---

    @property
    def has_endings(self) -> bool:
        return bool(self._outbox)

    def collect(self) -> list[Ending]:
        """Return the endings to send, once."""
        return self._outbox.collect()

    def acknowledged(self, endings: Iterable[Ending]) -> None:
        """The server has carried these out."""
        for how, id, *_ in endings:
            if how != "hit" and how != "many" and not str(how).endswith(":stuck"):
                raw = id.encode(errors="surrogateescape") if isinstance(id, str) else id
                self._unacknowledged.remove(raw)
                self.intake.forgotten(raw)

    def again(self, endings: Sequence[Ending]) -> None:
        """The server may not have had these: they are sent once more."""
        self._outbox.again(endings)

    def known(self) -> list[Known]:
        """Return what this node has taken and what keeps ids from others, for ``reconcile``.

        What has ended keeps its claim until its answer has arrived: let go of before, it would be
        sent on, and run again, while the answer is on its way.
        """
        holds = self.objects.holds() if self.objects is not None else ()
        taken_here = {taken.id: taken for taken in (*holds, *self._unacknowledged)}
        return [
            Known(taken.name, taken.token, taken.address)
            for taken in taken_here.values()
            if taken.holds or not taken.id.startswith(b"~")
        ]

    # --- how much there is ---

    @property
    def held(self) -> int:
        """How many requests are taken, and not acknowledged as ended."""
        return len(self._unacknowledged.ids)

    def held_of(self, address: str) -> int:
        """How many of these are requests of one address."""
        return self._unacknowledged.count(address.encode())

    @property
    def idle(self) -> bool:
        """Nothing is held, nothing runs, nothing is to be sent; no object is there."""
        busy = self._unacknowledged.ids or self.scheduler.lanes_taken or self._outbox
        return not (busy or self.has_objects)

    @property
    def has_entries_to_give(self) -> bool:
        """Whether anything is kept that is to be another's, or held ready for others."""
        is_held = self.handoff is not None and self.handoff.waits_s is not None
        return is_held or self.cache.has_any

    @property
    def has_objects(self) -> bool:
        return self.objects is not None and self.objects.count > 0

    @property
    def opened(self) -> int:
        """How many objects were made, ever."""
        return self.objects.opened if self.objects is not None else 0

    @property
    def idle_at(self) -> float | None:
        """When, on its clock, an object may have been idle for long enough."""
        return self.objects.due_at if self.objects is not None else None

    def changed_since(self, tally: Tally) -> bool:
        """Whether anything was answered after a tally was taken, or entries have moved."""
        outbox, handoff = self._outbox, self.handoff
        return (
            outbox.hits != tally.hits
            or outbox.succeeded + outbox.hits != tally.succeeded
            or outbox.failed != tally.failed
            or len(self.scheduler.stuck) != tally.stuck
            or bool(
                handoff and handoff.given + handoff.taken != tally.handed_over + tally.taken_over
            )
        )

    def tally(self) -> Tally:
        outbox, scheduler, handoff = self._outbox, self.scheduler, self.handoff
        return Tally(
            entries=self.cache.count(self._clock()),
            hits=outbox.hits,
            joined=scheduler.joined,
            misses=scheduler.misses,
            succeeded=outbox.succeeded + outbox.hits,
            failed=outbox.failed,
            stuck=len(scheduler.stuck),
            handed_over=handoff.given if handoff else 0,
            taken_over=handoff.taken if handoff else 0,
        )

    def stats(self) -> NodeStats:
        """Return what is counted and remembered of the requests, by this clock."""
        now, counts, scheduler = self._clock(), self._counts, self.scheduler
        handoff = self.handoff
        counts.fold()
        hot, hot_s = counts.hot(now)
        return NodeStats(
            now, self._name, up_s=now - counts.began_at,
            entries=self.cache.count(now), bytes=self.cache.size, evictions=self.cache.evicted,
            objects=self.objects.count if self.objects is not None else 0,
            held=self.held, lanes=scheduler.lanes, lanes_busy=scheduler.lanes_taken,
            epochs=counts.epochs, resources=counts.resources(), hot=hot, hot_s=hot_s,
            runs=counts.runs(), slowest=counts.slowest(now), errors=counts.errors(),
            stuck=scheduler.stuck_runs(),
            handed_over=handoff.given if handoff else 0,
            taken_over=handoff.taken if handoff else 0,
        )  # fmt: skip


def _lost(deaths: int) -> RefusedRun:
    text = f"NodeLost: too many nodes died ({deaths}) while they held this request\n"
    return RefusedRun(node_lost(deaths), text)
