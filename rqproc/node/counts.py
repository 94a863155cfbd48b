"""What a node counts of its requests: by resource, and which ids are hot.

Pure: every moment is given, on the node's clock. All of it has a bound. Used by whoever holds the
worker's lock; what others read is what ``resources`` and the like have returned.

A hit is one step in a dictionary, ``hits``, by its address: what that means for its resource, and
for what is hot, is worked out for many at once, by ``fold``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator

from rqproc.ids import Id, parse_address, resource_of
from rqproc.node.hot_ids import BATCH, HotIds
from rqproc.node.runs import Failure, HandlerRun, Taken
from rqproc.stats import BOUNDS_S, Histogram, HotId, ResourceStats, bucket

UNKNOWN = "(unknown)"
"""The name for all resources that callers have made up."""

OTHER_ERRORS = "(others)"
MOST_TYPES = 16
"""Types of errors that are told apart, of one resource."""

MOST_HOT = 24
TYPE_CHARS = 60


class _Durations:
    """A histogram that is being filled."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, duration_s: float) -> None:
        self.counts[bucket(duration_s)] += 1
        self.sum_s += max(0.0, duration_s)

    def taken(self) -> Histogram:
        return Histogram(tuple(self.counts), self.sum_s)


class _Resource:
    """The counts of one resource."""

    __slots__ = ("answers", "errors", "queueing", "run", "runs", "whole")

    def __init__(self) -> None:
        self.answers: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.runs = 0
        self.queueing, self.run, self.whole = _Durations(), _Durations(), _Durations()

    def answered(self, source: str, times: int = 1) -> None:
        self.answers[source] = self.answers.get(source, 0) + times

    def failed(self, type: str) -> None:
        type = type[:TYPE_CHARS]
        if type not in self.errors and len(self.errors) >= MOST_TYPES:
            type = OTHER_ERRORS
        self.errors[type] = self.errors.get(type, 0) + 1

    def taken(self, name: str) -> ResourceStats:
        return ResourceStats(
            name, dict(self.answers), dict(self.errors), self.runs,
            self.queueing.taken(), self.run.taken(), self.whole.taken(),
        )  # fmt: skip


class Counts:
    """Counts from a moment on.

    Args:
        known: the names of resources that there are.

    Attributes:
        hits: to be counted up, by address, for each hit; where ``BATCH`` ids are in it, ``fold``
            is to be called.
        epochs: how often other members were learned of.
        began_at: that moment.
    """

    def __init__(self, known: Container[str], now: float) -> None:
        self._known = known
        self.began_at = now
        self.epochs = 0
        self.hits: defaultdict[bytes, int] = defaultdict(int)
        self._others: defaultdict[bytes, int] = defaultdict(int)
        self._resources: dict[str, _Resource] = {}
        self._names: dict[bytes, str] = {}
        self._hot = HotIds(now)

    # --- requests ---

    def fold(self) -> None:
        """Work out what hits mean, and what was asked for."""
        if self.hits:
            for address, times in self.hits.items():
                self._of(address).answered("hit", times)
            self._hot.add(self.hits)
            self.hits.clear()
        if self._others:
            self._hot.add(self._others)
            self._others.clear()

    def answered(self, taken: Taken, source: str, now: float) -> None:
        """A request that was taken in has its value."""
        resource = self._of(taken.key)
        resource.answered(source)
        if source in ("joined", "miss"):
            resource.whole.add(now - taken.since)
        self._asked(taken.key)

    def failed(self, taken: Taken, failure: Failure, now: float) -> None:
        """A request that was taken in has an error."""
        resource = self._of(taken.key)
        resource.failed(failure.kind)
        resource.whole.add(now - taken.since)
        self._asked(taken.key)

    def found(self, key: bytes, source: str) -> None:
        """A request that was not claimed is answered with what is no plain hit: a source, or the
        type of an error.
        """
        if source in ("hit", "stale"):
            self._of(key).answered(source)
        else:
            self._of(key).failed(source)
        self._asked(key)

    def _asked(self, key: bytes) -> None:
        self._others[key] += 1
        if len(self._others) >= BATCH:
            self.fold()

    # --- runs ---

    def begun(self, run: HandlerRun, now: float) -> None:
        """A handler is about to be called."""
        run.began_at = now
        resource = self._of(run.key)
        resource.runs += 1
        for taken in run.waiting:
            resource.queueing.add(now - taken.since)

    def ended(self, run: HandlerRun, ended_at: float) -> None:
        """A handler has returned, or raised."""
        self._of(run.key).run.add(max(0.0, ended_at - run.began_at))

    # --- what is told of it ---

    def resources(self) -> tuple[ResourceStats, ...]:
        return tuple(one.taken(name) for name, one in self._resources.items())

    def hot(self, now: float) -> tuple[tuple[HotId, ...], float]:
        """Return what is asked for most, and the seconds that it was counted in."""
        self._hot.turn(now)
        return tuple(self._hot_ids()), self._hot.span_s(now)

    def _hot_ids(self) -> Iterator[HotId]:
        for address, times, over in self._hot.top(MOST_HOT):
            name, id = self._names_of(address)
            yield HotId(name, id, times, over)

    # --- names ---

    def _of(self, key: bytes) -> _Resource:
        raw = key.split(b"-", 2)[1]
        name = self._names.get(raw)
        if name is None:
            name = resource_of(key)
            if name not in self._known:
                name = UNKNOWN
            else:
                self._names[raw] = name
        found = self._resources.get(name)
        if found is None:
            found = self._resources[name] = _Resource()
        return found

    def _names_of(self, key: bytes) -> tuple[str, Id]:
        try:
            _, name, id = parse_address(key.decode())
        except ValueError:  # anyone may have made it up
            return UNKNOWN, key.decode(errors="replace")[:200]
        return name, id
