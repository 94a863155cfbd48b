"""What a node tells of its work: a tally with each heartbeat, and all it counts and remembers.

Pure: it looks at entries, runs, objects and answers, and changes none of them.
"""

from __future__ import annotations

from rqproc.node.cache import Cache
from rqproc.node.counts import Counts
from rqproc.node.handoff import Handoff
from rqproc.node.objects import Objects
from rqproc.node.outbox import Outbox
from rqproc.node.scheduler import Scheduler
from rqproc.node.unacknowledged import Unacknowledged
from rqproc.protocol.messages import Tally
from rqproc.runtime import Clock
from rqproc.stats import NodeStats


class NodeFigures:
    """Tells what one node has and has done. Used by whoever holds the worker's lock."""

    def __init__(
        self, name: str, counts: Counts, *, cache: Cache, scheduler: Scheduler, outbox: Outbox,
        unacknowledged: Unacknowledged, objects: Objects | None, handoff: Handoff | None,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._name = name
        self._counts = counts
        self._cache = cache
        self._scheduler = scheduler
        self._outbox = outbox
        self._unacknowledged = unacknowledged
        self._objects = objects
        self._handoff = handoff
        self._clock = clock

    def changed_since(self, tally: Tally) -> bool:
        """Whether anything was answered after a tally was taken, or entries have moved."""
        outbox, handoff = self._outbox, self._handoff
        return (
            outbox.hits != tally.hits
            or outbox.succeeded + outbox.hits != tally.succeeded
            or outbox.failed != tally.failed
            or len(self._scheduler.stuck) != tally.stuck
            or bool(
                handoff and handoff.given + handoff.taken != tally.handed_over + tally.taken_over
            )
        )

    def tally(self) -> Tally:
        outbox, scheduler, handoff = self._outbox, self._scheduler, self._handoff
        return Tally(
            entries=self._cache.count(self._clock()),
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
        now, counts, scheduler = self._clock(), self._counts, self._scheduler
        past, handoff = scheduler.past, self._handoff
        counts.fold()
        hot, hot_s = counts.hot(now)
        return NodeStats(
            now, self._name, up_s=now - counts.began_at,
            entries=self._cache.count(now), bytes=self._cache.size, evictions=self._cache.evicted,
            objects=self._objects.count if self._objects is not None else 0,
            held=len(self._unacknowledged.ids),
            lanes=scheduler.lanes, lanes_busy=scheduler.lanes_taken,
            epochs=counts.epochs, resources=counts.resources(), hot=hot, hot_s=hot_s,
            runs=past.latest(), slowest=past.slowest(now), errors=past.errors(),
            stuck=scheduler.stuck.snapshot(),
            handed_over=handoff.given if handoff else 0,
            taken_over=handoff.taken if handoff else 0,
        )  # fmt: skip
