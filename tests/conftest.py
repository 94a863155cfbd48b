"""What all tests share: one private server for each worker, empty at the start of each test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from servers import PrivateServer

pytest_plugins = ["pytester"]

WORKERS_PER_CORE = 3
"""Most of a test's time is waiting: for leases, for processes, for what must not happen."""

# The same examples in every run, however slow the machine: a red test is red for everyone.
settings.register_profile("rqproc", derandomize=True, deadline=None, database=None)
settings.load_profile("rqproc")


def pytest_xdist_auto_num_workers() -> int:
    """Say how many workers ``-n auto`` means."""
    return WORKERS_PER_CORE * len(os.sched_getaffinity(0))


@pytest.fixture(scope="session")
def server() -> Iterator[PrivateServer]:
    """The run's own server."""
    with PrivateServer() as running:
        yield running


@pytest.fixture
def url(server: PrivateServer) -> str:
    """The URL of the run's own server, with nothing in it."""
    with server.client() as client:
        client.flushall()
    return server.url
