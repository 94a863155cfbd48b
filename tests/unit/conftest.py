"""Fixtures that the tests of interrupted callers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted_server import ScriptedServer
from watch import Watch


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    """One for all tests of a module: it runs a thread."""
    watch = Watch()
    yield watch
    watch.stop()


@pytest.fixture
def answering() -> Iterator[ScriptedServer]:
    """A server whose node answers each call at once, with the id."""
    with ScriptedServer() as running:
        running.auto = "miss"
        running.value = lambda id: int(id.rpartition("-")[2])
        yield running
