"""A cluster as monitors see it, made by hand: what its nodes say is what the test says."""

from __future__ import annotations

from dataclasses import replace

from rqproc.errors import RedisUnavailable
from rqproc.model import Membership, NodeInfo, State
from rqproc.stats import (
    BOUNDS_S,
    ClusterStats,
    Histogram,
    HotId,
    NodeStats,
    PastError,
    PastRun,
    ResourceStats,
    StuckRun,
)

START_S = 1_800_000_000.0


def took(*counts: int) -> Histogram:
    """Durations, by how many are in each of the first buckets."""
    rest = len(BOUNDS_S) + 1 - len(counts)
    return Histogram((*counts, *[0] * rest), sum_s=0.0)


def info(
    name: str, *, state: State = "member", term: int = 1, lease_left_s: float = 9.0, stuck: int = 0
) -> NodeInfo:
    return NodeInfo(
        name=name, incarnation=f"{name}#{term}", state=state, lease_left_s=lease_left_s,
        queue=f"rqproc.default.{name}", queued=3, held=1, stuck=stuck, entries=120, hits=900,
        joined=10, misses=90, pid=4711, host="web-1",
    )  # fmt: skip


def stats(name: str, at_s: float, *, asked: int, term: int = 1) -> NodeStats:
    """What a node has published that was asked so often; one in ten is an error."""
    price = ResourceStats(
        "price",
        answers={"hit": asked * 8 // 10, "miss": asked // 10},
        errors={"ValueError": asked // 10},
        runs=asked // 10,
        whole=took(0, 0, 0, 0, asked // 10),
    )
    return NodeStats(
        at_s=at_s, node=name, incarnation=f"{name}#{term}", up_s=at_s - START_S + 100.0,
        entries=120, bytes=48_000, lanes=10, lanes_busy=2, resources=(price,),
        hot=(HotId("price", f"{name}-hot", 200),), hot_s=10.0,
        slowest=(PastRun("price", 42, at_s - 3.0, 0.01, 1.25, "ValueError"),),
        errors=(PastError("price", 7, at_s - 1.0, "ValueError", "no <such> id", "Traceback: ..."),),
        stuck=(StuckRun("report", "2026", at_s - 60.0),),
    )  # fmt: skip


class Cluster:
    """What a monitor looks at; ``nodes`` and ``told`` are the test's to change."""

    namespace = "default"
    server = "redis://nowhere:1"

    def __init__(self, *names: str) -> None:
        self.now_s = START_S
        self.epoch = 1
        self.nodes = [info(name) for name in names]
        self.told = [stats(name, START_S, asked=1000) for name in names]
        self.is_out = False
        self.drained: list[str] = []

    def membership(self) -> Membership:
        if self.is_out:
            raise RedisUnavailable(self.server, "it is out")
        return Membership(self.namespace, self.epoch, tuple(self.nodes))

    def stats(self) -> ClusterStats:
        return ClusterStats(self.now_s, tuple(self.told))

    def passes(self, seconds: float, *, asked: int = 0) -> None:
        """Time goes on, and each node is asked so often more."""
        self.now_s += seconds
        self.told = [
            replace(
                stats(one.node, self.now_s, asked=_asked(one) + asked), incarnation=one.incarnation
            )
            for one in self.told
        ]

    def loses(self, name: str) -> None:
        self.epoch += 1
        self.nodes = [node for node in self.nodes if node.name != name]
        self.told = [one for one in self.told if one.node != name]


def _asked(one: NodeStats) -> int:
    return one.total.requests
