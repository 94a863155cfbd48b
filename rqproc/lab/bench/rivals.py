"""What users would have instead, each behind one call that asks for a value and waits for it.

Knows Redis lists, RQ and redis-py. Must not know clocks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from secrets import token_hex
from typing import TYPE_CHECKING

from rqproc.errors import RqprocError
from rqproc.lab.bench import work
from rqproc.lab.bench.echo import READY
from rqproc.lab.bench.environment import Bench
from rqproc.lab.processes import READY_WITHIN_S, ChildProcess
from rqproc.protocol.keys import RQ_PREFIX, job_key

if TYPE_CHECKING:
    from rq import Queue

Ask = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pair:
    """The raw pair: what asks, and the process that answers."""

    ask: Ask
    pid: int


RQ_RESULT_WITHIN_S = 30
RESULT_TTL_S = 60
END_WITHIN_S = 5.0


class RivalDidNotAnswer(RqprocError):
    """Something that rqproc is compared with gave no answer."""


@contextmanager
def raw_pair(bench: Bench) -> Iterator[Pair]:
    """LPUSH there, BLPOP there, LPUSH back, BLPOP back: what two processes need at the least."""
    ping, pong = f"bench-ping-{token_hex(4)}", f"bench-pong-{token_hex(4)}"

    def ask() -> object:
        bench.redis.lpush(ping, b"1")
        return bench.redis.blpop([pong], timeout=5)

    command = [sys.executable, "-m", "rqproc.lab.bench.echo", bench.url, ping, pong]
    with _removed(bench, ping, pong), _process(command) as echo:
        if not echo.said(READY, within_s=READY_WITHIN_S):
            raise RivalDidNotAnswer(f"the raw pair's other end did not start: {echo.stderr}")
        yield Pair(ask, echo.pid)


@contextmanager
def redis_get(bench: Bench) -> Iterator[Ask]:
    """A GET of redis-py: a value that is already in Redis, without any owner."""
    key = f"bench-get-{token_hex(4)}"
    with _removed(bench, key):
        bench.redis.set(key, b"1")
        yield lambda: bench.redis.get(key)


@contextmanager
def stock_rq(bench: Bench) -> Iterator[Ask]:
    """RQ as it comes, with its fastest worker: SimpleWorker, which does not fork."""
    ids = count()
    with _queue(bench) as queue:

        def ask() -> object:
            job = queue.enqueue(work.job, next(ids), result_ttl=RESULT_TTL_S)
            result = job.latest_result(timeout=RQ_RESULT_WITHIN_S)
            if result is None:
                raise RivalDidNotAnswer("the stock RQ worker gave no answer")
            return result.return_value

        command = [sys.executable, "-m", "rq.cli", "worker", "-w", "rq.SimpleWorker"]
        with _process([*command, "--url", bench.url, "--quiet", queue.name]):
            ask()  # it serves
            yield ask


@contextmanager
def stock_queue(bench: Bench) -> Iterator[Callable[[int], list[str]]]:
    """A queue that nobody works on; yields what enqueues so many jobs, and returns their ids."""
    with _queue(bench) as queue:
        yield lambda most: [queue.enqueue(work.job, id).id for id in range(most)]


def forget_jobs(bench: Bench, ids: Sequence[str], *queues: str) -> None:
    """Remove jobs that nobody will work on, and the queues that they are in."""
    bench.redis.unlink(*(job_key(id) for id in ids), *queues)


@contextmanager
def _queue(bench: Bench) -> Iterator[Queue]:
    from rq import Queue

    queue = Queue(f"bench-{token_hex(4)}", connection=bench.redis)
    registries = ("wip", "finished", "failed", "deferred", "scheduled", "canceled")
    with _removed(bench, *(f"{RQ_PREFIX}:{kind}:{queue.name}" for kind in registries)):
        try:
            yield queue
        finally:
            queue.delete(delete_jobs=True)


@contextmanager
def _removed(bench: Bench, *keys: str) -> Iterator[None]:
    try:
        yield
    finally:
        bench.redis.delete(*keys)


@contextmanager
def _process(command: Sequence[str]) -> Iterator[ChildProcess]:
    """A process that ends with this context, by SIGTERM if it obeys."""
    with ChildProcess(command, env={**os.environ, "PYTHONWARNINGS": "ignore"}) as process:
        try:
            yield process
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.stop(within_s=END_WITHIN_S)
