"""Runs of handlers: which may start, who waits for each, and what they are told when it ends.

Pure: it starts nothing and sends nothing. Used by whoever holds the worker's lock, see ``leaders``.
"""

from __future__ import annotations

from collections.abc import Collection

from rqproc.model import Request
from rqproc.node.batches import Batches
from rqproc.node.cache import Cache
from rqproc.node.counts import Counts
from rqproc.node.joinable import JoinableRuns
from rqproc.node.lanes import Lanes
from rqproc.node.outbox import Outbox, crowded
from rqproc.node.past_runs import PastRuns
from rqproc.node.rates import Rates
from rqproc.node.results import Results
from rqproc.node.runs import Done, HandlerRun, Outcome, RefusedRun, Slot, Taken
from rqproc.node.stops import Stops
from rqproc.node.stuck import StuckRuns
from rqproc.node.turns import Turns
from rqproc.node.unacknowledged import Unacknowledged
from rqproc.resource import ResourceSpec
from rqproc.runtime import Chance, Clock

MOST_PAUSED = 1024
"""Handlers that wait for other ids and let others run meanwhile: each keeps a thread."""


class Scheduler:
    """The runs of one node.

    Attributes:
        stuck: runs that take too long: their addresses are refused until they end.
        joinable: runs that whoever asks now may wait for.
        left: ids that waited for a run which is not begun, and must be claimed on their own now.
        past: runs that have ended.
        turns: runs that may begin, and those that may when their job is claimed.
        joined, misses: how many have joined a run, and how many runs were begun.
    """

    def __init__(
        self, name: str, cache: Cache, unacknowledged: Unacknowledged, outbox: Outbox, *,
        lanes: Lanes[HandlerRun], clock: Clock, max_waiters: int, chance: Chance, counts: Counts,
    ) -> None:  # fmt: skip
        self._name = name
        self._max_waiters = max_waiters
        self._results = results = Results(name, cache, outbox, clock=clock, chance=chance)
        self._unacknowledged = unacknowledged
        self._outbox = outbox
        self._lanes = lanes
        self._clock = clock
        self.joinable = JoinableRuns()
        self._running: set[HandlerRun] = set()
        self._stops = Stops(name, unacknowledged, outbox)
        self._counts = counts
        self.past = past = PastRuns(clock())
        self.stuck = StuckRuns(lanes, self.joinable, outbox, results, past=past, clock=clock)
        self.left: list[bytes] = []
        self.turns = Turns(lanes, unacknowledged, outbox, clock)
        self._batches, self._rates = Batches(lanes), Rates(name)
        self.joined = self.misses = 0

    # --- who waits ---

    def accepts(self, taken: Taken) -> bool:
        """Answer a request of an id that has too many under way; return whether it has not."""
        before = self._unacknowledged.count(taken.key) - 1
        if before < self._max_waiters:
            return True
        report = crowded(self._name, before, self._max_waiters)
        self._outbox.failure(taken, RefusedRun(report, "Crowded: too many requests of this id\n"))
        return False

    def join(self, taken: Taken) -> bool:
        """Wait for the computation that is under way; return whether there is one."""
        run = self.joinable.get(taken.key)
        if run is None:
            return False
        self.joined += 1
        run.waiting.append(taken)
        return True

    def add(
        self, taken: Taken, resource: ResourceSpec, request: Request, *, keeps: bool,
        first: bool = False, given: Done | None = None,
    ) -> bool:  # fmt: skip
        """Have a run made; return whether its rate lets it.

        Args:
            keeps: its value becomes an entry, and others may join it.
            first: before all that wait for the same id. So is a job that is started already, where
                the first of these is not.
            given: what it comes to, without its handler.
        """
        run = HandlerRun(
            taken.address, taken.key, resource, request, taken.token, [taken], keeps, given=given,
            queued_at=self._clock(),
        )  # fmt: skip
        has_rate = resource.policy.has_rate and given is None
        if has_rate:
            refusal = self._rates.admit(run, self._clock(), due=taken.due, first=first)
            if refusal:
                self._outbox.failure(taken, refusal)
                return False
        if keeps:
            self.joinable.add(run)
        if has_rate:
            self._let_in()
        else:
            self._line_up(run, first=first)
        return True

    def _let_in(self) -> None:
        """Have those line up whose rates let them by now."""
        for run, first in self._rates.take(self._clock):
            self._line_up(run, first=first)

    def _line_up(self, run: HandlerRun, *, first: bool) -> None:
        (taken, *_) = run.waiting
        head = self._lanes.head(run.key) if taken.token and taken.serializer else None
        passes = head is not None and head.unclaimed is not None
        self._lanes.add(run.key, run, first=first or passes)

    def may_refresh(self, key: bytes, resource: ResourceSpec) -> bool:
        """Whether a value is to be made anew now: nobody is at it, and its rate lets it."""
        if key in self.joinable or key in self.stuck:
            return False
        return self._rates.admits_now(resource, key, self._clock())

    def renew(
        self, taken: Taken, resource: ResourceSpec, request: Request, given: Done | None
    ) -> None:
        """Have a run made that begins later than this, or comes to what is ``given``: in its lane,
        so behind what runs now, which is not kept any more.
        """
        taken.renews = True
        before = self.joinable.get(taken.key)
        if given is None and before and before not in self._running and before.given is None:
            self.join(taken)
        elif self.add(taken, resource, request, keeps=True, given=given) and before:
            before.keeps = False

    def refresh(self, taken: Taken, resource: ResourceSpec, request: Request) -> None:
        """Have a value made anew for whoever comes later: this one is answered, and keeps the id
        for the run.
        """
        taken.holds = True
        run = HandlerRun(
            taken.address, taken.key, resource, request, taken.token, hold=taken, is_refresh=True,
            queued_at=self._clock(),
        )  # fmt: skip
        self.joinable.add(run)
        self._lanes.add(run.key, run)

    def close(self, run: HandlerRun) -> None:
        """Have an object closed, behind all that waits for its id."""
        if run.hold and run.hold.id not in self._unacknowledged.ids:
            self._unacknowledged.add(run.hold)
        self._lanes.add(run.key, run)

    def give_up(self, ids: Collection[bytes]) -> None:
        """Nobody waits for these any more: it is as if their deadlines had come."""
        now = self._clock()
        for run in (*self._lanes.waiting(), *self._rates.waiting()):
            for taken in run.waiting:
                if taken.id in ids:
                    taken.due = now

    # --- what starts and what ends ---

    def next_run(self) -> HandlerRun | None:
        """Return a run to start now, None if there is none; where others are made with it, see
        ``batches``, the first of them.

        Whoever has given up by now is left out; a run that nobody waits for is not started. Nor is
        one whose claim was of someone who has given up: those who had joined it are in ``left``, to
        claim it themselves.
        """
        while runs := self._next_runs():
            begun = [run for run in runs if self._is_wanted(run)]
            if begun and begun[0].resource.policy.batch and begun[0].given is None:
                self._batches.begin(begun)
            for run in begun:
                self._begin(run)
            if not begun:
                continue
            if begun[0].given is None:
                return begun[0]
            self.complete(begun[0], begun[0].given)
        return None

    def _next_runs(self) -> list[HandlerRun]:
        """Return what is to be made by one call, if there is anything."""
        self._let_in()
        self.turns.give()
        while run := self.turns.take():
            if not run.resource.policy.batch or run.given:
                return [run]
            if self._batches.add(run, self._clock()):
                self.turns.give()
        return self._batches.take(self._clock())

    def _is_wanted(self, run: HandlerRun) -> bool:
        """Let those go who do not wait any more, and the run, where nobody is left."""
        self.turns.let_expire(run)
        if run.hold or any(taken.token for taken in run.waiting):
            return True
        self._lanes.done(run.key)
        self.joinable.close(run)
        for taken in run.waiting:
            self._unacknowledged.remove(taken.id)
            self.left.append(taken.id)
        return False

    def _begin(self, run: HandlerRun) -> None:
        run.waiting.sort(key=lambda taken: not taken.token)  # those with a claim come first
        first = run.hold or run.waiting[0]
        self.turns.take_lowest_token(first)
        run.token = first.token
        if not run.hold and first.serializer is not None and not run.batch:
            run.job = first
        now = self._clock()
        if run.given is None:
            self.misses += 1
            self._counts.begun(run, now)
        self._running.add(run)
        run.began_at = now
        self.stuck.watch(run, now)

    def complete(self, run: HandlerRun, outcome: Outcome) -> None:
        """Take in a run's outcome: answers to all who waited are put in the outbox, which the
        session sends. The first one counts.
        """
        if run not in self._running:
            return
        self._running.remove(run)
        overdue = self.stuck.unwatch(run)
        if run.given is None:
            self._remember(run, outcome, told=overdue is not None)
        self._lanes.done(run.key)
        self.joinable.close(run)
        run.batch = ()
        self._stops.run_ended(run)
        self._results.tell(run, outcome, overdue)

    def _remember(self, run: HandlerRun, outcome: Outcome, *, told: bool) -> None:
        """Count a run that has ended, and remember it; ``told``: as an error it was before."""
        now = self._clock()
        ended_at = min(now, outcome.at) if isinstance(outcome, Done) else now
        self._counts.ended(run, ended_at)
        self.past.ended(run, outcome, ended_at)
        if not (told or isinstance(outcome, Done)):
            self.past.failed(run, outcome, now)

    def stop(self, id: bytes) -> HandlerRun | None:
        """End a job, as RQ was told: at once where it waits, else when its run ends.

        Returns:
            the run that is to be cancelled: a coroutine's, that nobody else waits for.
        """
        return self._stops.stop(id, self._running)

    # --- runs that take long ---

    def change_slot(self, run: HandlerRun, slot: Slot) -> None:
        """A handler waits for another id, or has its answer: meanwhile another may run."""
        if run not in self._running or run.key in self.stuck:
            return
        run.asks += 1 if slot == "given back" else -1
        paused = self._lanes.paused
        pauses = run.asks and (run.key in paused or len(paused) < MOST_PAUSED)
        for one in run.made_together:
            if pauses:
                self._lanes.pause(one.key)
            else:
                self._lanes.go_on(one.key)

    def mind_the_time(self) -> None:
        """Answer for runs that take too long. They go on, and keep their ids from all others."""
        self.stuck.mind_the_time()

    @property
    def due_at(self) -> float | None:
        """When, on its clock, a run will have taken too long, or is to begin; None for never."""
        moments = self._batches.begins_at, self._rates.due_at, self.stuck.overdue_at
        return min((at for at in moments if at is not None), default=None)

    # --- leases ---

    def forget(self) -> None:
        """The lease is lost: answer nobody; what runs goes on for nobody, but keeps its id."""
        self.joinable.clear()
        self._rates.clear()
        self._lanes.clear()
        for run in (*self.turns.clear(), *self._batches.clear()):
            self._lanes.done(run.key)
        self.left.clear()
        self._unacknowledged.clear()
        self._outbox.clear()
        for run in self._running:
            self._unacknowledged.add(run.orphan())

    # --- what is under way ---

    @property
    def running(self) -> bool:
        """Whether any handler runs, be it for nobody."""
        return bool(self._running)

    def run_of(self, key: bytes) -> HandlerRun | None:
        """Return the run of an address that has begun and not ended."""
        return next((run for run in self._running if run.key == key), None)

    def behind(self, key: bytes) -> int:
        """How many runs of an address wait for their turn."""
        held_back = sum(run.key == key for run in self._rates.waiting())
        return sum(1 for _ in self._lanes.behind(key)) + held_back

    @property
    def room(self) -> int:
        """How many runs of other ids would not have to wait for a lane."""
        return self._lanes.room

    @property
    def held_by_paused(self) -> int:
        """How many requests wait for runs that do nothing: they ask others, or are stuck."""
        paused = self._lanes.paused
        return sum(map(self._unacknowledged.count, paused)) if paused else 0

    @property
    def lanes(self) -> int:
        """How many runs may be under way side by side."""
        return self._lanes.limit

    @property
    def lanes_taken(self) -> int:
        return self._lanes.running
