"""Looks at a cluster again and again, and keeps the history of a quarter of an hour.

Knows the client. Must not know how anything is shown. One thread looks at a time; what others read
is replaced as a whole.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from rqproc.errors import RedisUnavailable
from rqproc.model import Membership
from rqproc.monitor.events import changes
from rqproc.monitor.overview import (
    ClusterEvent,
    NodeRow,
    Overview,
    Point,
    error_rows,
    hot_rows,
    node_rows,
    resource_rows,
    slow_rows,
    stuck_rows,
    total_rates,
)
from rqproc.stats import ClusterStats, NodeStats

HISTORY_S = 900.0
WINDOW_S = 10.0
"""Rates are of the last so many seconds: several heartbeats, with each of which counts are told."""
MOST_EVENTS = 200


class Watched(Protocol):
    """What is looked at: a ``Client``."""

    @property
    def namespace(self) -> str: ...
    @property
    def server(self) -> str: ...
    def membership(self) -> Membership: ...
    def stats(self) -> ClusterStats: ...


class Monitor:
    """Sees what becomes of one cluster.

    Attributes:
        seen: what the last look has found.
        history: of the last ``HISTORY_S`` seconds, the oldest first.
    """

    def __init__(self, client: Watched) -> None:
        self._client = client
        self._before: Membership | None = None
        self._told: dict[str, deque[NodeStats]] = {}
        self._events: deque[ClusterEvent] = deque(maxlen=MOST_EVENTS)
        self._looked_at = 0.0
        self._is_lost = False
        self.history: Sequence[Point] = ()
        self.seen = Overview(client.namespace, client.server, time.time())

    def look(self) -> Overview:
        """Look once more; an outage is told of with what was seen before it.

        Raises:
            RedisUnavailable: there was no look before.
        """
        try:
            membership, stats = self._client.membership(), self._client.stats()
        except RedisUnavailable as error:
            if self._before is None:
                raise
            if not self._is_lost:
                self._events.appendleft(
                    ClusterEvent(self._now_s(), "lost", f"the server is lost: {error}")
                )
            self._is_lost = True
            self.fail(str(error))
            return self.seen
        self._note(membership, stats.at_s)
        recent = self._recent(stats.nodes, {info.name for info in membership.nodes})
        found = total_rates(list(recent.values()))
        since = stats.at_s - HISTORY_S
        kept = (point for point in self.history if point.at_s >= since)
        self.history = (*kept, Point(stats.at_s, found))
        self.seen = Overview(
            namespace=self._client.namespace,
            server=self._client.server,
            at_s=stats.at_s,
            epoch=membership.epoch,
            placement=membership.placement,
            trouble="" if membership.nodes else self._nobody(),
            total=found,
            nodes=self._with_age(node_rows(membership, recent), stats),
            resources=resource_rows(recent.values()),
            hot=hot_rows(stats),
            slow=slow_rows(stats),
            errors=error_rows(stats),
            stuck=stuck_rows(stats),
            events=tuple(self._events),
        )
        return self.seen

    def fail(self, trouble: str) -> None:
        """Have nothing newer shown than this trouble."""
        self.seen = replace(self.seen, trouble=trouble, events=tuple(self._events))

    def _now_s(self) -> float:
        """Return the time by the server's clock, as far as that can be told without it."""
        return self.seen.at_s + time.monotonic() - self._looked_at

    def _nobody(self) -> str:
        name = self._client.namespace
        return f"no live node in namespace {name!r}: start one with `rqproc node start`"

    def _note(self, membership: Membership, at_s: float) -> None:
        """Note what has changed since the last look."""
        if self._is_lost:
            self._events.appendleft(ClusterEvent(at_s, "back", "the server is back"))
            self._is_lost = False
        now = time.monotonic()
        passed_s, self._looked_at = now - self._looked_at, now
        for event in changes(self._before, membership, at_s=at_s, passed_s=passed_s):
            self._events.appendleft(event)
        self._before = membership

    def _recent(self, nodes: Iterable[NodeStats], alive: set[str]) -> dict[str, NodeStats]:
        """Return what each node has counted in the last ``WINDOW_S`` seconds; of one that has said
        nothing before, since it began.
        """
        for node in nodes:
            told = self._told.setdefault(node.node, deque())
            if told and told[-1].incarnation != node.incarnation:
                told.clear()
            if not told or told[-1].at_s < node.at_s:
                told.append(node)
            while len(told) > 2 and told[1].at_s <= node.at_s - WINDOW_S:
                told.popleft()
        self._told = {name: told for name, told in self._told.items() if name in alive}
        return {
            name: told[-1].since(told[0] if len(told) > 1 else None)
            for name, told in self._told.items()
        }

    @staticmethod
    def _with_age(rows: tuple[NodeRow, ...], stats: ClusterStats) -> tuple[NodeRow, ...]:
        told = {node.node: node for node in stats.nodes}
        return tuple(
            replace(row, up_s=told[row.info.name].up_s) if row.info.name in told else row
            for row in rows
        )
