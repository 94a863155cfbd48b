"""The things that are measured, each behind one call that asks for a value and waits for it.

Knows Redis lists, RQ and rqproc's client. Must not know clocks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from secrets import token_hex

import redis
from rq import Queue

from rqproc.bench import work
from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.stage import NodeProcess

Ask = Callable[[], object]

IDS = 50
RQ_RESULT_WITHIN_S = 30


class RivalDidNotAnswer(RqprocError):
    """Something that rqproc is compared with gave no answer."""


@contextmanager
def raw_pair(url: str) -> Iterator[Ask]:
    """LPUSH there, BLPOP there, LPUSH back, BLPOP back: what two processes need at the least."""
    ping, pong = f"bench-ping-{token_hex(4)}", f"bench-pong-{token_hex(4)}"
    command = [sys.executable, "-m", "rqproc.bench.echo", url, ping, pong]
    echo = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)  # noqa: S603
    client = redis.Redis.from_url(url)
    assert echo.stdout

    def ask() -> object:
        client.lpush(ping, b"1")
        return client.blpop([pong], timeout=5)

    try:
        echo.stdout.readline()
        yield ask
    finally:
        echo.kill()
        echo.wait()
        echo.stdout.close()
        client.delete(ping, pong)
        client.close()


@contextmanager
def rqproc_node(url: str) -> Iterator[tuple[Ask, Ask]]:
    """One node; yields a call that hits an entry and one that runs a no-op handler."""
    namespace = f"bench-{token_hex(4)}"
    quiet = ("--log-level", "warning", "--concurrency", "64", "rqproc.bench.work:app")
    with NodeProcess("bench", url, namespace, quiet) as node:
        node.wait_ready()
        with Client(url, namespace=namespace) as client:
            ids = count()
            client.request_many(range(IDS), work.kept.name)
            yield (
                lambda: client.request(next(ids) % IDS, work.kept.name),
                lambda: client.request(next(ids) % IDS, work.fresh.name),
            )
        node.stop()


@contextmanager
def stock_rq(url: str) -> Iterator[Ask]:
    """RQ as it comes, with its fastest worker: SimpleWorker, which does not fork."""
    name = f"bench-{token_hex(4)}"
    command = [sys.executable, "-m", "rq.cli", "worker", "-w", "rq.SimpleWorker", "--url", url]
    worker = subprocess.Popen(  # noqa: S603
        [*command, "--quiet", name],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    client = redis.Redis.from_url(url)
    queue = Queue(name, connection=client)
    ids = count()

    def ask() -> object:
        job = queue.enqueue(work.job, next(ids), result_ttl=60)
        result = job.latest_result(timeout=RQ_RESULT_WITHIN_S)
        if result is None:
            raise RivalDidNotAnswer("the stock RQ worker gave no answer")
        return result.return_value

    try:
        ask()  # it serves
        yield ask
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait()
        queue.delete(delete_jobs=True)
        client.close()
