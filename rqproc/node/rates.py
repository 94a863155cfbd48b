"""How many runs of a resource may begin in a second, on this node and of one id; who waits for it.

Pure: it starts nothing; every moment is given. Used under the worker's lock, see ``leaders``.

A run is given the moment at which it may begin when it is asked for, and waits for it before it
enters its lane: so it takes no place of ``concurrency``. Whoever's time is over before that moment
is refused at once, with how long it is until then, and takes no share: so do Guava's
``tryAcquire(timeout)`` and Go's ``rate.Limiter.Wait(ctx)``, for whoever would wait in vain had
better know it now. Whoever has no deadline, as a job, waits. A run for an old value, which nobody
waits for, is made only where it need not wait.

Moments are found by the generic cell rate algorithm (ITU-T I.371), which needs one number for each
rate. What was not used is saved for up to a second, as by Guava's ``RateLimiter.create``: after a
rest a second's runs may begin at once.

* What waits for its id's rate takes its share of the node's when that has let it: else many
  requests of one id would keep those of all others waiting.
* Who joins a run that waits has a deadline that this node does not know: its client keeps it.
* The lease is lost: what waits is forgotten; the next owner's rates begin anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import count

from rqproc.node.runs import HandlerRun, RefusedRun
from rqproc.resource import ResourceSpec
from rqproc.runtime import Clock

SPARE = 1024
"""So many ids that have rested are remembered before they are cleared away."""

_Place = tuple[float, int, HandlerRun, bool, bool]
_Rate = tuple[tuple[str, bytes], float]


class Rates:
    """Runs that wait until they may begin, and when each rate lets the next one."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._next_at: dict[tuple[str, bytes], float] = {}
        self._clear_at = SPARE
        self._waiting: list[_Place] = []
        self._numbers = count()

    def admit(
        self, run: HandlerRun, now: float, *, due: float | None, first: bool
    ) -> RefusedRun | None:
        """Have a run wait until it may begin; or return why it may not, within its time.

        Args:
            due: when its caller gives up; None for never.
            first: handed on by ``take``.
        """
        of_id, of_all = _rates(run.resource, run.key)
        id_at, at = self._at(of_id, now), self._at((*of_id, *of_all), now)
        if due is not None and at >= due:
            return self._refusal(run.resource, at - now)
        self._spend(of_id, now)
        has_share = id_at <= now
        if has_share:
            self._spend(of_all, now)
        self._wait(at if has_share else id_at, run, first, has_share)
        return None

    def _wait(self, at: float, run: HandlerRun, first: bool, has_share: bool) -> None:
        heappush(self._waiting, (at, next(self._numbers), run, first, has_share))

    def admits_now(self, resource: ResourceSpec, key: bytes, now: float) -> bool:
        """Let a run begin, if it need not wait; return whether it does."""
        if not resource.policy.has_rate:
            return True
        of_id, of_all = _rates(resource, key)
        rates = (*of_id, *of_all)
        if self._at(rates, now) > now:
            return False
        self._spend(rates, now)
        return True

    def take(self, clock: Clock) -> Iterator[tuple[HandlerRun, bool]]:
        """Return what may begin by now, once, in order."""
        now = clock() if self._waiting else 0.0
        while self._waiting and self._waiting[0][0] <= now:
            _, _, run, first, has_share = heappop(self._waiting)
            _, of_all = _rates(run.resource, run.key)
            if not has_share and not _is_given_up(run, now):
                at = self._at(of_all, now)
                self._spend(of_all, now)
                if at > now:
                    self._wait(at, run, first, True)
                    continue
            yield run, first

    @property
    def due_at(self) -> float | None:
        """When the next one may begin; None where none waits."""
        return self._waiting[0][0] if self._waiting else None

    def waiting(self) -> Iterator[HandlerRun]:
        return (run for _, _, run, *_ in self._waiting)

    def clear(self) -> None:
        self._waiting.clear()

    # --- the rates of a run ---

    def _at(self, rates: Sequence[_Rate], now: float) -> float:
        """Return when a run may begin that all of these count; now, where none does."""
        moments = (
            self._next_at.get(name, now) - (max(1.0, rate) - 1) / rate for name, rate in rates
        )
        return max((now, *moments))

    def _spend(self, rates: Sequence[_Rate], now: float) -> None:
        for name, rate in rates:
            self._next_at[name] = max(now, self._next_at.get(name, now)) + 1 / rate
        if len(self._next_at) > self._clear_at:
            self._next_at = {name: at for name, at in self._next_at.items() if at > now}
            self._clear_at = max(SPARE, 2 * len(self._next_at))

    def _refusal(self, resource: ResourceSpec, after_s: float) -> RefusedRun:
        report = {
            "type": "RateLimited",
            "node": self._node,
            "resource": resource.name,
            "retry_after_s": round(after_s, 3),
        }
        text = (
            f"RateLimited: its rate lets the next run of {resource.name} begin in {after_s:.3f} s"
        )
        return RefusedRun(json.dumps(report), text + "\n")


def _rates(resource: ResourceSpec, key: bytes) -> tuple[Sequence[_Rate], Sequence[_Rate]]:
    """Return the rates that count a run, of its id and of all: by their names, in runs a second."""
    policy, name = resource.policy, resource.name
    of_id = [((name, key), policy.rate_per_id)] if policy.rate_per_id else []
    return of_id, [((name, b""), policy.rate)] if policy.rate else []


def _is_given_up(run: HandlerRun, now: float) -> bool:
    return all(taken.due is not None and taken.due <= now for taken in run.waiting)
