"""What all tests share: one private server for each worker, empty at the start of each test."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest
from hypothesis import settings

from rqproc.lab.servers import ServerProcess

pytest_plugins = ["pytester"]

WORKERS_PER_CORE = 3
"""Most of a test's time is waiting: for leases, for processes, for what must not happen."""

# The same examples in every run, however slow the machine: a red test is red for everyone.
settings.register_profile("rqproc", derandomize=True, deadline=None, database=None)
settings.load_profile("rqproc")


def pytest_xdist_auto_num_workers() -> int:
    """Say how many workers ``-n auto`` means."""
    return WORKERS_PER_CORE * len(os.sched_getaffinity(0))


def pytest_configure(config: pytest.Config) -> None:
    """Give the processes that tests start what they count on.

    Ctrl-C, which a shell has its background jobs ignore. And bytecode, though not beside the
    sources where that is not wanted: each of hundreds would compile all that it imports.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.dont_write_bytecode and config.pluginmanager.hasplugin("cacheprovider"):
        sys.dont_write_bytecode = False
        sys.pycache_prefix = str(config.cache.mkdir("bytecode"))
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Let one worker compile the tests, and the others find them compiled."""
    if not hasattr(session.config, "workerinput"):
        return (yield)
    with Path(__file__).open() as lock:
        if not _is_first(lock):
            fcntl.flock(lock, fcntl.LOCK_SH)
        return (yield)


def _is_first(lock: IO[str]) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """The run's own server."""
    with ServerProcess() as running:
        yield running


@pytest.fixture
def url(server: ServerProcess) -> str:
    """The URL of the run's own server, with nothing in it."""
    with server.client() as client:
        client.flushall()
    return server.url
