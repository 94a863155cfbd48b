"""A pytest plugin for RQ's own tests: they run on the server of nodes, which outlive each test.

The environment says how: ``RQ_TESTS_PORT`` is that server's; with ``RQ_TESTS_THROUGH`` the queue
and the registries that RQ calls ``default`` are those that the nodes serve.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import pytest
import redis
from rq import Queue
from rq.registry import BaseRegistry

DB = 4
NAMESPACE = "rqproc.rq"
THROUGH = "RQ_TESTS_THROUGH" in os.environ
OURS = ("rqproc", "rq:suspended", "rq:workers", "rq:worker:rqproc", "rq:queue:rqproc", "rq:queues")


def _connect(make: Callable[..., None]) -> Callable[..., None]:
    """Have a client that is made without an address go to the nodes' server."""

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        if not args and not kwargs.keys() & {"host", "port", "connection_pool"}:
            kwargs["port"] = int(os.environ["RQ_TESTS_PORT"])
        make(self, *args, **kwargs)

    return made


redis.Redis.__init__ = _connect(redis.Redis.__init__)  # type: ignore[method-assign]


def _renamed(make: Callable[..., None]) -> Callable[..., None]:
    """Have the default queue be the one that nodes serve."""

    def made(self: Any, name: str = "default", *args: Any, **kwargs: Any) -> None:
        make(self, NAMESPACE if name == "default" else name, *args, **kwargs)

    return made


def flush(connection: redis.Redis) -> None:
    """Remove what RQ's tests have left, and nothing of the nodes."""
    for key in connection.scan_iter():
        if not key.decode().startswith(OURS) or key.decode() == f"rq:queue:{NAMESPACE}":
            connection.delete(key)
    for queue in connection.sscan_iter("rq:queues"):
        if not queue.decode().startswith(f"rq:queue:{NAMESPACE}"):
            connection.srem("rq:queues", queue)


def pytest_configure() -> None:
    import tests

    tests.find_empty_redis_database = lambda ssl=False: redis.Redis(db=DB)
    tests.RQTestCase.setUp = lambda self: flush(self.connection)
    tests.RQTestCase.tearDown = lambda self: flush(self.connection)
    if THROUGH:
        for kind in (Queue, BaseRegistry):
            kind.__init__ = _renamed(kind.__init__)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        text = inspect.getsource(item.function)
        if THROUGH and ("work(" in text or "start_worker" in text):
            item.add_marker(pytest.mark.skip("has a stock worker run functions"))
