"""Runs that one call of their batch handler is to make: who goes with whom, and when they begin.

Pure: it starts nothing; every moment is given. Used under the worker's lock, see ``leaders``.

Each id has a run of its own, with its lane, its deadline, its token and whoever waits for it. Only
the call is one::

    lanes ──(the id's turn)──▶ gathered, by resource ──(full, or batch_wait_s is over)──▶ one call
                                                                                           │
    entries, answers ◀──(each run by itself)── scheduler.complete ◀──(an outcome of each)──┘

* What has its turn at one moment goes together, and waits for nothing: the misses that come while
  handlers hold all lanes begin together when one is free. With ``batch_wait_s`` the first of them
  waits so long for more.
* Several runs of a call take one place of ``concurrency``: one thread runs them. What waits for
  such a place may go with a batch that has one. A job may once it is claimed, for which it needs a
  place of its own.
* A batch handler may run several times at once, never for the same id: an id that runs, or waits
  to begin with a batch, is joined.
* Whoever gives up before it begins is left out, and an id that nobody waits for; the others begin.
  One whose time is over later is answered so by its own client; its value is kept.
* The lease is lost before it begins: it does not. While it runs: its claims are gone, so that the
  next owners run each of its ids, in batches of their own; what it still returns is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rqproc.node.lanes import Lanes
from rqproc.node.runs import HandlerRun
from rqproc.resource import ResourceSpec


@dataclass(slots=True)
class Gathering:
    """Runs of one resource; they begin at a moment, or when there is no room for more."""

    resource: ResourceSpec
    begins_at: float
    runs: list[HandlerRun]

    @property
    def room(self) -> int:
        return self.resource.policy.batch - len(self.runs)

    def suits(self, run: HandlerRun) -> bool:
        """Whether a run that waits for its turn may go along."""
        return run.resource is self.resource and (run.hold is not None or run.unclaimed is None)


class Batches:
    """What is gathered, of each resource one batch, and those that are full."""

    def __init__(self, lanes: Lanes[HandlerRun]) -> None:
        self._lanes = lanes
        self._gathering: dict[ResourceSpec, Gathering] = {}
        self._full: list[Gathering] = []

    def add(self, run: HandlerRun, now: float) -> bool:
        """Have a run begin with others, for which it has its turn; return whether that has left a
        place to another.
        """
        found = self._gathering.get(run.resource)
        if found is None:
            begins_at = now + run.resource.policy.batch_wait_s
            found = self._gathering[run.resource] = Gathering(run.resource, begins_at, [])
        found.runs.append(run)
        if found.room <= 0:
            self._full.append(self._gathering.pop(run.resource))
        if len(found.runs) == 1:
            return False
        self._lanes.share(run.key)
        return True

    def take(self, now: float) -> list[HandlerRun]:
        """Return runs that are to begin together now, once; none where there are none."""
        for gathering in list(self._gathering.values()):
            for run in self._lanes.next_sharing(gathering.room, gathering.suits):
                self.add(run, now)
        if self._full:
            return self._full.pop(0).runs
        for gathering in self._gathering.values():
            if gathering.begins_at <= now:
                return self._gathering.pop(gathering.resource).runs
        return []

    def begin(self, runs: Sequence[HandlerRun]) -> None:
        """They do: those of them that are still wanted."""
        for run in runs:
            run.batch = runs
            self._lanes.share(run.key, shares=run is not runs[0])

    @property
    def begins_at(self) -> float | None:
        """When the next of them begins at the latest; None where there is none."""
        return min((one.begins_at for one in self._gathering.values()), default=None)

    def clear(self) -> Iterable[HandlerRun]:
        """Forget all; return what was to begin."""
        left = [run for one in (*self._full, *self._gathering.values()) for run in one.runs]
        self._full.clear()
        self._gathering.clear()
        return left
