"""What one look at a cluster has found: values, and how they follow from what nodes publish.

Pure: every moment is given, as Unix time by the server's clock. Must not know how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rqproc.ids import Id
from rqproc.model import Membership, NodeInfo
from rqproc.placement import SLOTS
from rqproc.stats import ClusterStats, NodeStats, ResourceStats, total

MOST_ROWS = 30


@dataclass(frozen=True, slots=True)
class RecentRates:
    """What was done in the last seconds.

    Attributes:
        requests_per_s, errors_per_s: float.
        hit_rate: float, 0 to 1; None where nothing was asked.
        p50_s, p99_s: float, seconds that requests took which were run or had joined a run; None
            where there were none.
    """

    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    hit_rate: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None


def rates(done: ResourceStats, seconds: float) -> RecentRates:
    """Return the rates of what was done in so many seconds."""
    if seconds <= 0:
        return RecentRates()
    return RecentRates(
        done.requests / seconds,
        done.failed / seconds,
        done.hit_rate,
        done.whole.quantile_s(0.5),
        done.whole.quantile_s(0.99),
    )


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A live node.

    Attributes:
        info: what the server knows of it.
        rates: None where it has not published any counts.
        share: float, the part of all ids that it owns.
        bytes: int, of what it keeps.
        lanes, lanes_busy: int, how many handlers may run side by side, and how many do.
        up_s: float, seconds since it began; None where it has not said.
    """

    info: NodeInfo
    rates: RecentRates | None
    share: float
    bytes: int = 0
    lanes: int = 0
    lanes_busy: int = 0
    up_s: float | None = None


@dataclass(frozen=True, slots=True)
class ResourceRow:
    """A resource, on all nodes together."""

    name: str
    rates: RecentRates


@dataclass(frozen=True, slots=True)
class IdRow:
    """Something about an id: how often it is asked for, or how long a run took or takes.

    Attributes:
        per_s: float, requests a second.
        run_s, queued_s, ago_s: float, seconds that the run took or has taken, had to wait before,
            and since it ended.
        error, message, traceback: str, what it came to; "" for a value.
    """

    resource: str
    id: Id
    node: str
    per_s: float = 0.0
    run_s: float = 0.0
    queued_s: float = 0.0
    ago_s: float = 0.0
    error: str = ""
    message: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """What has changed between two looks.

    Attributes:
        at_s: float, when it was seen.
        kind: "joined", "died", "left", "drains", "moved", "lost" (the server), "back".
    """

    at_s: float
    kind: str
    text: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """The whole cluster at one moment of its history."""

    at_s: float
    rates: RecentRates


@dataclass(frozen=True, slots=True)
class Overview:
    """All that one look has found.

    Attributes:
        trouble: str, why nothing newer is known, or why there is nothing; "" where all is well.
        total: of all nodes together.
        hot, slow, errors, stuck: the most asked for, the slowest, the latest, the oldest first.
        events: the latest first.
    """

    namespace: str
    server: str
    at_s: float
    epoch: int = 0
    placement: str = "modulo"
    trouble: str = ""
    total: RecentRates = RecentRates()
    nodes: tuple[NodeRow, ...] = ()
    resources: tuple[ResourceRow, ...] = ()
    hot: tuple[IdRow, ...] = ()
    slow: tuple[IdRow, ...] = ()
    errors: tuple[IdRow, ...] = ()
    stuck: tuple[IdRow, ...] = ()
    events: tuple[ClusterEvent, ...] = ()


def node_rows(membership: Membership, recent: Mapping[str, NodeStats]) -> tuple[NodeRow, ...]:
    """Return a row for each live node.

    Args:
        recent: by name, what each has counted in the last seconds, ``up_s`` of them.
    """
    members = membership.members

    def row(info: NodeInfo) -> NodeRow:
        share = info.slots / SLOTS
        if membership.placement == "modulo":
            share = 1 / len(members) if info.name in members else 0.0
        done = recent.get(info.name)
        if done is None:
            return NodeRow(info, None, share)
        found = rates(done.total, done.up_s)
        return NodeRow(info, found, share, done.bytes, done.lanes, done.lanes_busy)

    return tuple(row(info) for info in membership.nodes)


def resource_rows(recent: Iterable[NodeStats]) -> tuple[ResourceRow, ...]:
    """Return a row for each resource, the most asked for first.

    Each node's counts are of its own seconds: rates are added, not counts.
    """
    by_name: dict[str, list[tuple[ResourceStats, float]]] = {}
    for node in recent:
        for resource in node.resources:
            by_name.setdefault(resource.name, []).append((resource, node.up_s))
    rows = [ResourceRow(name, _summed(some)) for name, some in by_name.items()]
    return tuple(sorted(rows, key=lambda row: (-row.rates.requests_per_s, row.name)))


def total_rates(recent: Sequence[NodeStats]) -> RecentRates:
    """Return those of the whole cluster."""
    return _summed([(node.total, node.up_s) for node in recent])


def _summed(parts: Sequence[tuple[ResourceStats, float]]) -> RecentRates:
    all_done = total(tuple(done for done, _ in parts))
    each = [rates(done, seconds) for done, seconds in parts]
    shared = rates(all_done, 1.0)
    requests, errors = (
        sum(one.requests_per_s for one in each),
        sum(one.errors_per_s for one in each),
    )
    return RecentRates(requests, errors, shared.hit_rate, shared.p50_s, shared.p99_s)


def hot_rows(stats: ClusterStats) -> tuple[IdRow, ...]:
    """Return the ids that are asked for most."""
    rows = [
        IdRow(hot.resource, hot.id, node.node, per_s=hot.count / node.hot_s)
        for node in stats.nodes
        if node.hot_s > 0
        for hot in node.hot
    ]
    return tuple(sorted(rows, key=lambda row: -row.per_s)[:MOST_ROWS])


def slow_rows(stats: ClusterStats) -> tuple[IdRow, ...]:
    """Return the runs of the last minutes that took longest, one of each id."""
    rows = [
        IdRow(
            run.resource, run.id, node.node, run_s=run.run_s, queued_s=run.queued_s,
            ago_s=stats.at_s - run.at_s, error=run.error,
        )
        for node in stats.nodes
        for run in node.slowest
    ]  # fmt: skip
    slowest: dict[tuple[str, Id], IdRow] = {}
    for row in sorted(rows, key=lambda row: -row.run_s):
        slowest.setdefault((row.resource, row.id), row)
    return tuple(slowest.values())[:MOST_ROWS]


def error_rows(stats: ClusterStats) -> tuple[IdRow, ...]:
    """Return the latest errors, one of each kind of an id."""
    rows = [
        IdRow(
            error.resource, error.id, node.node, ago_s=stats.at_s - error.at_s, error=error.type,
            message=error.message, traceback=error.traceback,
        )
        for node in stats.nodes
        for error in node.errors
    ]  # fmt: skip
    latest: dict[tuple[str, Id, str, str], IdRow] = {}
    for row in sorted(rows, key=lambda row: row.ago_s):
        latest.setdefault((row.resource, row.id, row.node, row.error), row)
    return tuple(latest.values())[:MOST_ROWS]


def stuck_rows(stats: ClusterStats) -> tuple[IdRow, ...]:
    """Return handlers that go on though their time is over."""
    rows = [
        IdRow(run.resource, run.id, node.node, run_s=stats.at_s - run.since_s)
        for node in stats.nodes
        for run in node.stuck
    ]
    return tuple(sorted(rows, key=lambda row: -row.run_s)[:MOST_ROWS])
