"""Handlers that fork, and coroutines that end what they run on: nobody else is harmed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration import kit
from integration.fixtures import Cluster

from rqproc import AsyncClient
from rqproc.errors import HandlerFailed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def forking(cluster: Cluster) -> Iterator[Cluster]:
    cluster.start("a", app="forking:app")
    yield cluster
    assert cluster.client.request(0, "fine") == "fine", "its coroutines are served"
    assert cluster.client.request(0, "forked", args=["return"]) == 0, "its functions too"


def cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / 100


def test_a_pool_of_a_handler_ends_with_its_block(forking: Cluster) -> None:
    began = time.monotonic()
    assert forking.client.request(1, "pool", args=[0.2], timeout=15) == "left"
    assert time.monotonic() - began < 10, "its worker sleeps for 20 s"


def test_a_process_of_a_handler_can_be_terminated(forking: Cluster) -> None:
    assert forking.client.request(1, "terminated", timeout=15) == -15


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("raise", 1), ("return", 0)])
def test_a_child_that_leaves_the_handler_ends(forking: Cluster, how: str, code: int) -> None:
    assert forking.client.request(1, "forked", args=[how]) == code


def test_a_child_that_leaves_a_coroutine_ends(forking: Cluster) -> None:
    assert forking.client.request(1, "aforked") == 4


def test_a_node_idles_after_its_handlers_have_forked(forking: Cluster) -> None:
    (node,) = forking.client.membership().nodes
    for id in range(10):
        assert forking.client.request(id, "terminated", timeout=15) == -15
    before, began = cpu_s(node.pid), time.monotonic()
    kit.settle(forking.client)
    kit.settle(forking.client)
    share = (cpu_s(node.pid) - before) / (time.monotonic() - began)
    assert share < 0.5, "of a core"


@pytest.mark.parametrize("how", ["exit", "stop", "shut down its threads"])
def test_a_coroutine_that_ends_its_loop_harms_no_other(forking: Cluster, how: str) -> None:
    if how == "exit":
        with pytest.raises(HandlerFailed, match="SystemExit"):
            forking.client.request(1, "ends_loop", args=[how])
    else:
        assert forking.client.request(1, "ends_loop", args=[how]) == "stopped"
    for id in range(3):
        assert forking.client.request(id, "fine") == "fine"


def test_locally_a_handlers_pool_and_loop_are_as_harmless() -> None:
    import asyncio

    from integration.forking import app, ends_loop, fine, terminated

    async def ask() -> None:
        async with AsyncClient("local://", app=app) as client:
            with pytest.raises(HandlerFailed):
                await client.request(1, "ends_loop", args=["exit"])
            assert await client.request(1, "fine") == "fine"

    with app.at("local://"):
        assert terminated.request(1) == -15
        with pytest.raises(HandlerFailed):
            ends_loop.request(1, "exit")
        assert fine.request(1) == "fine"
    asyncio.run(ask())
