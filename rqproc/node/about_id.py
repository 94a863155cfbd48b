"""What a node knows of one id, for ``Client.explain``: nothing is claimed, run or changed by it.

Knows entries, runs and lanes. Must not know who asks. Used under the worker's lock, see
``leaders``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rqproc.explained import AtNode, EndedRun, Kept, RunNow
from rqproc.ids import resource_of
from rqproc.node.cache import Cache
from rqproc.node.scheduler import Scheduler
from rqproc.node.unacknowledged import Unacknowledged
from rqproc.resource import ResourceSpec
from rqproc.runtime import Clock


class AboutIds:
    """Tells what one node knows."""

    def __init__(
        self, name: str, resources: Mapping[str, ResourceSpec], *, cache: Cache,
        scheduler: Scheduler, unacknowledged: Unacknowledged, clock: Clock,
    ) -> None:  # fmt: skip
        self._name = name
        self._resources = resources
        self._cache = cache
        self._scheduler = scheduler
        self._unacknowledged = unacknowledged
        self._clock = clock

    def tell(self, key: bytes, *, itself: int = 0) -> str:
        """Return what is known of an address, as ``AtNode.of`` reads it.

        ``itself``: how many requests the question is, which are not counted.
        """
        now, scheduler = self._clock(), self._scheduler
        resource = self._resources.get(resource_of(key))
        return AtNode(
            node=self._name,
            owns=self._cache.owns(key),
            is_known=resource is not None,
            ttl_s=resource.ttl_s if resource else None,
            timeout_s=resource.timeout_s if resource else None,
            kept=self._kept(key, now),
            run=self._run(key, now),
            requests=self._unacknowledged.count(key) - itself,
            behind=scheduler.behind(key),
            lanes_busy=scheduler.lanes_taken,
            lanes=scheduler.lanes,
            runs=self._runs(key, now),
        ).to_json()

    def _kept(self, key: bytes, now: float) -> Kept | None:
        what: Literal["value", "stale", "error"]
        if entry := self._cache.get(key, now):
            what = "value"
        elif entry := self._cache.error(key, now):
            what = "error"
        elif entry := self._cache.late(key, now):
            what = "stale"
        else:
            return None
        age_s, left_s = now - entry.computed_at, entry.expires_at - now
        return Kept(what, age_s, left_s, len(entry.text), entry.token)

    def _run(self, key: bytes, now: float) -> RunNow | None:
        run = self._scheduler.run_of(key)
        if run is None:
            return None
        is_stuck = key in self._scheduler.stuck
        return RunNow(now - run.began_at, len(run.waiting), is_stuck, run.asks, run.token)

    def _runs(self, key: bytes, now: float) -> tuple[EndedRun, ...]:
        return tuple(
            EndedRun(now - past.at_s, past.queued_s, past.run_s, past.error, message, traceback)
            for past, message, traceback in self._scheduler.past.of(key)
        )
