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

What changes what is kept comes in as a claim, too, and goes to ``changes``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rqproc.ids import parse_address
from rqproc.model import Request
from rqproc.node.about_id import AboutIds
from rqproc.node.cache import Cache
from rqproc.node.changes import Changes
from rqproc.node.counts import Counts
from rqproc.node.entries import Entry
from rqproc.node.figures import NodeFigures
from rqproc.node.handoff import Handoff
from rqproc.node.intake import Intake
from rqproc.node.lanes import Lanes
from rqproc.node.objects import Objects, last_run
from rqproc.node.outbox import Outbox, node_lost
from rqproc.node.reader import CALL, Reader, functions
from rqproc.node.runs import Failed, HandlerRun, RefusedRun, Taken
from rqproc.node.scheduler import Scheduler
from rqproc.node.unacknowledged import Unacknowledged
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.messages import Claim, Known
from rqproc.protocol.node_commands import Ending
from rqproc.resource import ResourceSpec
from rqproc.runtime import Chance, Clock

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
        figures: what is told of all that.
    """

    def __init__(
        self, name: str, resources: Mapping[str, ResourceSpec], *, cache: Cache,
        lanes: Lanes[HandlerRun], clock: Clock, max_waiters: int, chance: Chance,
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
        self.figures = NodeFigures(
            name, counts, cache=cache, scheduler=self.scheduler, outbox=self._outbox,
            unacknowledged=self._unacknowledged, objects=objects, handoff=handoff, clock=clock,
        )  # fmt: skip
        self._changes = Changes(cache, self.scheduler, self._outbox, clock=clock)
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
            self._changes.drop_all(taken, b"", ":flushed-all")
        elif call.function == codec.EXPLAIN:  # in local mode, where all comes in here
            now, told = self._clock(), self._about.tell(taken.key, itself=1)
            self._outbox.value(taken, Entry(now, now, taken.token, told.encode()), "hit")
        elif resource is None:
            report = answer_codec.unknown_resource_report(request.resource, self._resources)
            text = f"unknown resource {request.resource!r}\n"
            self._outbox.failure(taken, RefusedRun(report, text))
        elif call.function != codec.REQUEST:
            self._changes.change(taken, resource, call)
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
                self._changes.flush(resource, token)
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


def _lost(deaths: int) -> RefusedRun:
    text = f"NodeLost: too many nodes died ({deaths}) while they held this request\n"
    return RefusedRun(node_lost(deaths), text)
