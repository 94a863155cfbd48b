"""The names that calls have on their way.

Knows ids of jobs. Must not know what is asked, nor who asks.

Each call has an id of its own from the beginning. Calls of several callers that go out at the same
moment are carried by one job, and are known there as JOB:NUMBER; see scatter.lua. From then on that
is what they are called by the cluster, also where they are sent again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from secrets import token_hex

from rqproc.cluster import MOST_TOGETHER, Job


class _Ids:
    """Ids that nobody else gives: this process's prefix, and a number."""

    def __init__(self) -> None:
        self.prefix = token_hex(9)
        self.numbers = count()


_ids = _Ids()


def _after_fork() -> None:
    global _ids
    _ids = _Ids()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def fresh_id() -> str:
    """Return an id for a job, such as RQ takes."""
    ids = _ids
    return f"{ids.prefix}{next(ids.numbers):06x}"


class Names:
    """``fresh``: gives ids for jobs."""

    def __init__(self, fresh: Callable[[], str]) -> None:
        self._fresh = fresh
        self._sent_as: dict[str, str] = {}
        self._given: dict[str, str] = {}

    def given(self, sent: str) -> str:
        """Return a call's own id."""
        return self._given.get(sent, sent)

    def sent(self, job: Job) -> Job:
        """Return a call as the cluster knows it, or will."""
        name = self._sent_as.get(job.id)
        return job if name is None else Job(name, job.address, b"")

    def put_together(self, jobs: Sequence[Job]) -> list[Job]:
        """Give calls names as parts of common jobs; return them."""
        found: list[Job] = []
        carrier = ""
        for place, job in enumerate(jobs):
            if place % MOST_TOGETHER == 0:
                carrier = self._fresh()
            name = f"{carrier}:{place % MOST_TOGETHER}"
            self._sent_as[job.id] = name
            self._given[name] = job.id
            found.append(Job(name, job.address, b""))
        return found

    def forget(self, jobs: Iterable[Job]) -> None:
        """Nobody waits for them any more."""
        if not self._sent_as:
            return
        for job in jobs:
            name = self._sent_as.pop(job.id, None)
            if name is not None:
                del self._given[name]


def is_part(id: str) -> bool:
    """Whether a call is carried by a job together with others."""
    return ":" in id
