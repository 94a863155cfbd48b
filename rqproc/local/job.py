"""A job without a server: what ``enqueue`` returns where this process is all there is.

It has what callers of an ``rq.job.Job`` collect a result with, by the same names, and needs neither
RQ nor a connection. It alone keeps its result: who drops the job drops that too.
"""

from __future__ import annotations

import zlib
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

from rqproc.ids import parse_address
from rqproc.locks import Latch
from rqproc.protocol.messages import Sent
from rqproc.protocol.pickles import PlainPickle

RESULT_TTL_S = 500.0
FAILURE_TTL_S = 365 * 86400.0
"""What a cluster keeps results and failures of jobs where they do not say: RQ's own defaults."""


class JobStatus(StrEnum):
    """Those of RQ's that such a job can have; they equal RQ's own."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"


class ResultType(Enum):
    """Those of ``rq.results.Result.Type`` that there are here."""

    SUCCESSFUL = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What came of a job, as ``rq.results.Result`` tells it."""

    Type = ResultType

    job_id: str
    type: ResultType
    created_at: datetime
    return_value: Any = None
    exc_string: str | None = None


class LocalJob:
    """A request that was enqueued. It is a worker's ``AnswerListener``.

    It is taken, and so ``started``, at once, as by a node that has nothing else to do; its handler
    may still wait for its turn.

    Attributes:
        result_ttl: seconds that its result can be read after its end, -1 for ever.
    """

    def __init__(
        self, sent: Sent, *, origin: str, result_ttl: int | None, clock: Callable[[], float]
    ) -> None:
        self.id = sent.id
        self.origin = origin
        _, resource, id = parse_address(sent.address)
        self.description = f"{resource}:{id}"
        self.result_ttl = result_ttl
        self.created_at = self.enqueued_at = self.started_at = datetime.now(UTC)
        self.ended_at: datetime | None = None
        self._clock = clock
        self._status = JobStatus.STARTED
        self._result: LocalResult | None = None
        self._until = 0.0
        self._ended = Latch()  # an event could be left locked, and its worker wait for that

    def __repr__(self) -> str:
        return f"<LocalJob {self.id}: {self.description} {self._status.value}>"

    # --- what collects its result ---

    def get_status(self, refresh: bool = True) -> JobStatus:
        return self._status

    @property
    def is_queued(self) -> bool:
        return False

    @property
    def is_started(self) -> bool:
        return self._status is JobStatus.STARTED

    @property
    def is_finished(self) -> bool:
        return self._status is JobStatus.FINISHED

    @property
    def is_failed(self) -> bool:
        return self._status is JobStatus.FAILED

    def latest_result(self, timeout: float = 0) -> LocalResult | None:
        """Return the result, waiting ``timeout`` seconds for it; None without one, or past its
        ttl.
        """
        if timeout:
            self._ended.wait(timeout)
        result = self._result
        if result and self._until <= self._clock():
            self._result = result = None
        return result

    def return_value(self, refresh: bool = False) -> Any:
        """Return the handler's value; None where there is none, or none any more."""
        result = self.latest_result()
        return result.return_value if result else None

    @property
    def result(self) -> Any:
        return self.return_value()

    @property
    def exc_info(self) -> str | None:
        """The handler's traceback, None unless it has failed."""
        result = self.latest_result()
        return result.exc_string if result else None

    def refresh(self) -> None:
        """It is always as fresh as can be."""

    # --- what a worker tells ---

    def hear(self, place: int, text: str, report: str) -> None:
        body = b64decode(text)
        if report:
            self._end(ResultType.FAILED, exc_string=zlib.decompress(body).decode())
        else:
            self._end(ResultType.SUCCESSFUL, return_value=PlainPickle.loads(body))

    def refuse(self, place: int, report: bytes) -> None:
        """It was never handed out."""

    def fail(self, error: BaseException) -> None:
        self._end(ResultType.FAILED, exc_string=f"{type(error).__name__}: {error}\n")

    def _end(self, type: ResultType, **found: Any) -> None:
        failed = type is ResultType.FAILED
        ttl_s = FAILURE_TTL_S if failed else self.result_ttl
        if ttl_s is None:
            ttl_s = RESULT_TTL_S
        self.ended_at = now = datetime.now(UTC)
        self._until = self._clock() + ttl_s if ttl_s >= 0 else float("inf")
        self._result = LocalResult(self.id, type, now, **found)
        self._status = JobStatus.FAILED if failed else JobStatus.FINISHED
        self._ended.set()
