"""What nodes count and remember of their work, as programs read it.

Values, and what can be told of them; nothing here counts. A node publishes its own with each
heartbeat; ``Client.stats`` reads those of all nodes at once.

Counts only grow while a node lives: what was done in a while is the difference of two,
``later.since(earlier)``. Moments are seconds of one clock: by what ``Client.stats`` returns, the
server's, as Unix time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rqproc.ids import Id

BOUNDS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
)  # fmt: skip
"""The upper bounds of a histogram's buckets, in seconds; one more bucket has what took longer."""

_COUNTS = ("evictions", "beats", "beats_missed", "epochs", "handed_over", "taken_over")

OTHERS = "(others)"
"""The name under which resources are summed up that a heartbeat has no room for."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations, counted by fixed buckets.

    Attributes:
        counts: tuple of int, for each bound of ``BOUNDS_S`` how many were not above it, but above
            the one before; the last is what was above all.
        sum_s: float, seconds of all together.
    """

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    sum_s: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean_s(self) -> float | None:
        """None where there are none."""
        return self.sum_s / self.count if self.count else None

    def quantile_s(self, part: float) -> float | None:
        """Return a duration that this part of all did not exceed, estimated within its bucket as
        Prometheus' ``histogram_quantile`` does; None where there are none.

        Args:
            part: 0.5 for the median, 0.99 for the 99th percentile.
        """
        rank, below = part * self.count, 0
        if not self.count:
            return None
        for place, count in enumerate(self.counts[:-1]):
            if count and below + count >= rank:
                low = BOUNDS_S[place - 1] if place else 0.0
                return low + (BOUNDS_S[place] - low) * max(0.0, rank - below) / count
            below += count
        return BOUNDS_S[-1]

    def __add__(self, other: Histogram) -> Histogram:
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(counts, self.sum_s + other.sum_s)

    def __sub__(self, other: Histogram) -> Histogram:
        counts = tuple(max(0, a - b) for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(counts, max(0.0, self.sum_s - other.sum_s))


def bucket(duration_s: float) -> int:
    """Return the place of a duration in ``Histogram.counts``."""
    return bisect_left(BOUNDS_S, duration_s)


@dataclass(frozen=True, slots=True)
class ResourceStats:
    """What a node has done for one resource.

    Attributes:
        name: str.
        answers: dict of str to int, requests answered with a value, by source: "hit", "joined",
            "miss", "stale"; and "changed", what was invalidated or set.
        errors: dict of str to int, requests answered with an error, by its type: of a handler's
            error the handler's own, as "ValueError"; else rqproc's, as "HandlerTimeout", "Crowded",
            "RateLimited".
        runs: int, how often the handler was called.
        queueing: from when a request was queued, or if it joined or waits as a job, was taken by
            the node, until its run began.
        run: how long handlers ran.
        whole: from when a request was queued until it was answered; of those that were run or have
            joined a run. Hits are answered at once, and not timed.
    """

    name: str
    answers: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    runs: int = 0
    queueing: Histogram = Histogram()
    run: Histogram = Histogram()
    whole: Histogram = Histogram()

    @property
    def requests(self) -> int:
        """How many were answered, with a value or an error."""
        return sum(self.answers.values()) + sum(self.errors.values())

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def hit_rate(self) -> float | None:
        """The part of the requests for values that needed no run of their own and had not to wait
        for one, 0 to 1; None where there were none.
        """
        asked = self.requests - self.answers.get("changed", 0)
        return (
            (self.answers.get("hit", 0) + self.answers.get("stale", 0)) / asked if asked else None
        )

    def __add__(self, other: ResourceStats) -> ResourceStats:
        return ResourceStats(
            self.name,
            _sum(self.answers, other.answers),
            _sum(self.errors, other.errors),
            self.runs + other.runs,
            self.queueing + other.queueing,
            self.run + other.run,
            self.whole + other.whole,
        )

    def __sub__(self, other: ResourceStats) -> ResourceStats:
        return ResourceStats(
            self.name,
            _difference(self.answers, other.answers),
            _difference(self.errors, other.errors),
            max(0, self.runs - other.runs),
            self.queueing - other.queueing,
            self.run - other.run,
            self.whole - other.whole,
        )


@dataclass(frozen=True, slots=True)
class HotId:
    """An id that is asked for often.

    Attributes:
        count: int, requests within the last ``NodeStats.hot_s`` seconds, at most.
        over: int, by how many ``count`` may be too high.
    """

    resource: str
    id: Id
    count: int
    over: int = 0


@dataclass(frozen=True, slots=True)
class PastRun:
    """A handler's run that has ended.

    Attributes:
        at_s: float, when it ended.
        queued_s: float, seconds that it had to wait before.
        run_s: float, seconds that it took.
        error: str, the type of the error that it came to; "" for a value.
    """

    resource: str
    id: Id
    at_s: float
    queued_s: float
    run_s: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class PastError:
    """An error of a handler, or of one that took too long.

    Attributes:
        at_s: float, when it was answered.
        type, message: str.
        traceback: str, its end; "" where there is none, or no room for it.
    """

    resource: str
    id: Id
    at_s: float
    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class StuckRun:
    """A handler that goes on though its time is over: it keeps its id from others.

    Attributes:
        since_s: float, when it began.
    """

    resource: str
    id: Id
    since_s: float


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What one node counts and remembers, at one moment.

    Attributes:
        at_s: float, that moment.
        node, incarnation: str.
        up_s: float, seconds since it began; its counts are of that time.
        entries, bytes: int, values kept, and what is kept in all, expired values that may answer
            and remembered errors too.
        evictions: int, what went since there was no room for it.
        objects: int, of stateful ids, in memory now.
        held: int, requests that it has taken and not answered.
        lanes, lanes_busy: int, how many handlers may run side by side, and how many do.
        beats, beats_missed: int, heartbeats that were answered, and that were not.
        epochs: int, how often it has learned of other members.
        handed_over, taken_over: int, entries given to other owners of their ids when members
            changed, and got so.
        resources: tuple of ResourceStats.
        hot: tuple of HotId, what is asked for most first.
        hot_s: float, seconds that these were counted in.
        runs: tuple of PastRun, the latest first; ``slowest``: those of the last minutes that took
            longest, the slowest first.
        errors: tuple of PastError, the latest first.
        stuck: tuple of StuckRun, the oldest first.
    """

    at_s: float
    node: str = ""
    incarnation: str = ""
    up_s: float = 0.0
    entries: int = 0
    bytes: int = 0
    evictions: int = 0
    objects: int = 0
    held: int = 0
    lanes: int = 0
    lanes_busy: int = 0
    beats: int = 0
    beats_missed: int = 0
    epochs: int = 0
    handed_over: int = 0
    taken_over: int = 0
    resources: tuple[ResourceStats, ...] = ()
    hot: tuple[HotId, ...] = ()
    hot_s: float = 0.0
    runs: tuple[PastRun, ...] = ()
    slowest: tuple[PastRun, ...] = ()
    errors: tuple[PastError, ...] = ()
    stuck: tuple[StuckRun, ...] = ()

    @property
    def total(self) -> ResourceStats:
        """Its resources, summed up."""
        return total(self.resources)

    def since(self, earlier: NodeStats | None) -> NodeStats:
        """Return what was counted since an earlier moment, in ``up_s`` seconds; of another life of
        the node, or with None, all. What is kept, runs, waits or is remembered is as it is now.
        """
        if earlier is None or earlier.incarnation != self.incarnation:
            return self
        before = {resource.name: resource for resource in earlier.resources}
        counts = {
            name: max(0, getattr(self, name) - getattr(earlier, name))
            for name in (
                "evictions",
                "beats",
                "beats_missed",
                "epochs",
                "handed_over",
                "taken_over",
            )
        }
        resources = tuple(
            resource - before.get(resource.name, ResourceStats(resource.name))
            for resource in self.resources
        )
        up_s = max(0.0, self.up_s - earlier.up_s)
        return replace(self, up_s=up_s, resources=resources, **counts)


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """What all live nodes have published, as one instant found it.

    Attributes:
        at_s: float, that instant, by the server's clock.
        nodes: tuple of NodeStats, sorted by name; a node that has not published any yet is missing.
    """

    at_s: float
    nodes: tuple[NodeStats, ...] = ()

    def of(self, node: str) -> NodeStats | None:
        """Return those of a node, by its name."""
        return next((one for one in self.nodes if one.node == node), None)

    @property
    def resources(self) -> tuple[ResourceStats, ...]:
        """Those of all nodes, summed up by name, in order of their names."""
        found: dict[str, ResourceStats] = {}
        for one in (resource for node in self.nodes for resource in node.resources):
            found[one.name] = found[one.name] + one if one.name in found else one
        return tuple(found[name] for name in sorted(found))


def total(resources: tuple[ResourceStats, ...], name: str = "") -> ResourceStats:
    """Return the sum of these, under a name."""
    summed = ResourceStats(name)
    for resource in resources:
        summed += resource
    return summed


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _difference(later: Mapping[str, int], earlier: Mapping[str, int]) -> dict[str, int]:
    return {key: max(0, count - earlier.get(key, 0)) for key, count in later.items()}
