"""Real web servers and task queues in front of real nodes: a hundred who ask for one id at once, in
several processes, cause one computation.

What they run is in ``apps``. Each server is a process of its own, which forks as in production.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from secrets import token_hex
from typing import Any, NamedTuple

import pytest
from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book, Running
from integration.test_shared_connections import Named, named  # noqa: F401
from rq import Queue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ASKING = 100
JOBS = 30
"""A stock worker forks for each, and each imports all that it needs."""
WORKERS = 3
THREADS = 4
GUNICORN = ("gunicorn", "--bind=127.0.0.1:0", f"--workers={WORKERS}", "--no-control-socket")
PRELOADED = (*GUNICORN, "--preload")
GTHREAD = (*GUNICORN, "--worker-class=gthread", f"--threads={THREADS}")
UVICORN = ("uvicorn", "--host=127.0.0.1", "--port=0", f"--workers={WORKERS}")


class Case(NamedTuple):
    """A web server, and an app with the view that is asked for.

    Attributes:
        waiting, resting: its connections while all wait, and afterwards. A process has one; but a
            coroutine has an event loop of its own in each request where a server has none.
    """

    server: tuple[str, ...]
    app: str
    view: str
    waiting: int = WORKERS
    resting: int = WORKERS


CASES = {
    "fastapi-threads": Case(UVICORN, "web_fastapi:app", "price"),
    "fastapi-loop": Case(UVICORN, "web_fastapi:app", "aprice"),
    "flask-preload": Case(PRELOADED, "web_flask:app", "price", WORKERS + 1, WORKERS + 1),
    "flask-preload-loops": Case(PRELOADED, "web_flask:app", "aprice", WORKERS + 1, 1),
    "flask-threads": Case(GTHREAD, "web_flask:app", "price"),
    "flask-loops": Case(GTHREAD, "web_flask:app", "aprice", WORKERS * THREADS, 0),
    "flask-gevent": Case((*GUNICORN, "--worker-class=gevent"), "web_flask:app", "price"),
    "flask-gevent-preload": Case(
        (*PRELOADED, "--worker-class=gevent"), "web_flask:app", "price", WORKERS + 1, WORKERS + 1
    ),
    "django-threads": Case(GTHREAD, "web_django:wsgi", "price"),
    "django-loops": Case(GTHREAD, "web_django:wsgi", "aprice", WORKERS * THREADS, 0),
    "django-asgi-threads": Case(UVICORN, "web_django:asgi", "price"),
    "django-asgi-loop": Case(UVICORN, "web_django:asgi", "aprice"),
}


def installed(*packages: str) -> None:
    """Skip the test where one of the packages is not there."""
    if missing := [name for name in packages if find_spec(name) is None]:
        pytest.skip(f"not installed, as rqproc[apps] has them: {', '.join(missing)}")


@contextmanager
def running(*command: str, **env: str) -> Iterator[Running]:
    """A program of Python's with processes of its own, none of which outlives the context."""
    with Running((sys.executable, "-m", *command), env=env) as program:
        try:
            yield program
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


def listening(server: Running) -> str:
    """Return the address of a web server that takes requests."""
    address = server.says(r"http://127.0.0.1:\d+")[0]
    if "Uvicorn" in server.stderr:  # whose workers listen, not their parent
        kit.eventually(lambda: server.stderr.count("startup complete") == WORKERS)
    return address


def get(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name) for name, case in CASES.items()],
)
def test_a_hundred_requests_to_a_web_app_cause_one_computation(
    case: Case,
    shop: str,
    named: Named,  # noqa: F811
    book: Book,
    ids: Fresh,
) -> None:
    (id,) = ids(1)
    installed(case.server[0], case.app.removeprefix("web_").partition(":")[0])
    env = kit.environ(named.url, "shop", SHOP_URL=shop)
    if "--preload" in case.server:
        env["ASK_FIRST"] = "1"
    with (
        running(*case.server, f"apps.{case.app}", **env) as server,
        ThreadPoolExecutor(10 * ASKING) as pool,
    ):
        address = listening(server)
        asked: list[Future[dict[str, Any]]] = []

        def all_wait() -> bool:
            """Processes that are up may have accepted all that came so far."""
            more = 5 if len(asked) < ASKING else 1
            asked.extend(pool.submit(get, f"{address}/{case.view}/{id}") for _ in range(more))
            return len(asked) >= ASKING and named.connections() == case.waiting

        kit.eventually(all_wait, every_s=0.02)
        book.started("slow_price", id)
        book.release("slow_price", id)
        answers = [answer.result() for answer in asked]
        assert {answer["price"]["n"] for answer in answers} == {1}
        assert len({answer["worker"] for answer in answers}) == WORKERS
        kit.eventually(lambda: named.connections() == case.resting)
        assert server.stop() == 0, server.stderr
        assert "Traceback" not in server.stderr
    assert book.count("slow_price", id) == 1
    kit.eventually(lambda: named.connections() == 0)


@pytest.mark.timeout(200)
def test_jobs_of_forking_rq_workers_that_ask_for_one_id_cause_one_computation(
    shop: str,
    named: Named,  # noqa: F811
    book: Book,
    ids: Fresh,
) -> None:
    (id,) = ids(1)
    queue = Queue(f"web-{token_hex(4)}", connection=book.redis)
    jobs = [queue.enqueue("apps.jobs_rq.price", id) for _ in range(JOBS)]
    pool = ("rq.cli", "worker-pool", "--url", shop, "--burst", "-n", str(WORKERS), queue.name)
    with running(*pool, **kit.environ(named.url, "shop", SHOP_URL=shop)) as workers:
        kit.eventually(lambda: named.connections() == WORKERS, within_s=60)
        book.release("slow_price", id)
        assert workers.wait(within_s=100) == 0, workers.stderr
    answers = [job.return_value() for job in jobs]
    assert {answer["price"]["n"] for answer in answers} == {1}
    assert len({answer["worker"] for answer in answers}) == WORKERS
    assert book.count("slow_price", id) == 1
    kit.eventually(lambda: named.connections() == 0)


def test_a_hundred_celery_tasks_cause_one_computation(
    shop: str,
    named: Named,  # noqa: F811
    book: Book,
    ids: Fresh,
) -> None:
    installed("celery")
    (id,) = ids(1)
    env = kit.environ(
        named.url, "shop", SHOP_URL=shop, CELERY_QUEUE=f"web-{token_hex(4)}",
        CELERY_URL=shop.replace("unix://", "redis+socket://"),
    )  # fmt: skip
    worker = ("celery", "-A", "apps.tasks_celery", "worker", "-c", str(WORKERS))
    with (
        running(*worker, "--without-gossip", "--without-mingle", **env) as workers,
        running("apps.tasks_celery", str(id), **env) as asking,
    ):
        kit.eventually(lambda: named.connections() == WORKERS)
        book.release("slow_price", id)
        assert asking.wait() == 0, asking.stderr
        assert workers.stop() == 0, workers.stderr
    answers = json.loads(asking.stdout)
    assert len(answers) == ASKING
    assert {answer["price"]["n"] for answer in answers} == {1}
    assert len({answer["worker"] for answer in answers}) == WORKERS
    assert book.count("slow_price", id) == 1
    kit.eventually(lambda: named.connections() == 0)
