"""Enqueued jobs: handed over at once, their results collected later, as an application would.

Knows the client, and RQ's own job objects as it gives them out.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import redis

from rqproc.client import Client
from rqproc.lab.torture.choices import Choice
from rqproc.lab.torture.ledger import Ledger

if TYPE_CHECKING:
    from rq.job import Job

RESULT_TTL_S = 60
MOST = 8
"""So many are waited for at once."""
LOOK_EVERY_S = 0.02


class JobGone(Exception):
    """The server knows nothing of a job."""


class JobFailed(Exception):
    """An enqueued job ended as failed."""


class Jobs:
    """Jobs of one thread that have no result yet."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self._open: deque[tuple[int, Job]] = deque()

    @property
    def has_room(self) -> bool:
        return len(self._open) < MOST

    def enqueue(self, choice: Choice) -> None:
        number = self._ledger.ask("enqueue", choice.key, tag=choice.tag)
        try:
            job = self._client.enqueue(
                choice.id, choice.resource, args=choice.args, result_ttl=RESULT_TTL_S
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the caller got
            self._ledger.answered(number, error)
            return
        self._ledger.accepted(number)
        self._open.append((number, job))

    def collect(self) -> None:
        """Look once for each job's end."""
        for _ in range(len(self._open)):
            number, job = self._open.popleft()
            try:
                outcome = _result(job)
            except redis.RedisError:
                outcome = None  # the server is away: later
            except JobGone:
                self._ledger.given_up(number)
                continue
            if outcome is None:
                self._open.append((number, job))
            else:
                self._ledger.answered(number, outcome)

    def collect_all(self, *, within_s: float) -> None:
        """Look until all have ended; those that have not are given up."""
        end = time.monotonic() + within_s
        while self._open and time.monotonic() < end:
            self.collect()
            time.sleep(LOOK_EVERY_S)
        for number, _ in self._open:
            self._ledger.given_up(number)


def _result(job: Job) -> object:
    """Return a job's value or, as an error, that it failed; None where there is neither yet.

    Raises:
        JobGone, redis.RedisError.
    """
    known = job.connection.exists(job.key)
    if (result := job.latest_result()) is None:
        if not known:
            raise JobGone
        return None
    if result.type.name == "SUCCESSFUL":
        return result.return_value
    return JobFailed(str(result.exc_string)[-300:])
