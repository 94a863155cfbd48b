"""Context managers around every run: on real nodes, and without any."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from integration import around, kit
from integration.fixtures import Cluster

from rqproc import App
from rqproc.errors import ConfigError, HandlerFailed


@pytest.fixture
def one(cluster: Cluster) -> Cluster:
    cluster.start("a", app="around:app")
    return cluster


def test_a_run_is_entered_and_left_on_the_thread_that_runs_it(one: Cluster) -> None:
    assert one.client.request(1, "tell") == [["before tell 1"], True]
    assert one.client.request(2, "tell") == [["before tell 1", "after", "before tell 2"], True]


def test_a_coroutine_goes_through_asynchronous_ones_too(one: Cluster) -> None:
    assert one.client.request(1, "atell") == [["before atell 1", "async before"], True]
    said, _ = one.client.request(2, "tell")
    assert said == ["before atell 1", "async before", "async after", "after", "before tell 2"]


def test_an_error_is_seen_on_its_way(one: Cluster) -> None:
    with pytest.raises(HandlerFailed, match="no"):
        one.client.request(1, "fail")
    said, _ = one.client.request(2, "tell")
    assert said == ["before fail 1", "error no", "after", "before tell 2"]


def test_jobs_are_entered_too(one: Cluster) -> None:
    job = one.client.enqueue(7, "tell")
    kit.ended(job)
    assert job.return_value() == [["before tell 7"], True]


def test_without_a_server_it_is_the_same() -> None:
    around.said.clear()
    with around.app.at("local://"):
        assert around.tell.request(3) == [["before tell 3"], True]


def test_what_it_raises_the_run_has_raised() -> None:
    text = """
from contextlib import contextmanager
from rqproc import App
from rqproc.errors import HandlerFailed
app = App("local://")
@app.resource(ttl=0)
def echo(id): return id
@app.around
@contextmanager
def broken(current):
    raise RuntimeError("not now")
    yield
try:
    echo.request(1)
except HandlerFailed as error:
    print(error.type)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "RuntimeError\n"


def test_what_makes_no_context_manager_is_refused() -> None:
    """Else it would be passed over without a word."""
    app = App("local://")

    @app.resource(ttl=0)
    def echo(id: int) -> int:
        return id

    def forgotten(current: object) -> Iterator[None]:
        yield

    with pytest.raises(ConfigError, match=r"forgotten is a generator: .* @contextmanager"):
        app.around(forgotten)  # type: ignore[arg-type]
    app.around(lambda current: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(HandlerFailed, match="made no context manager but None"):
        echo.request(1)
