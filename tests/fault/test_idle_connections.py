"""A server that closes connections which rest (its ``timeout``): nobody notices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Running
from watch import Watch

from rqproc import Client
from rqproc.calls.retry import NUDGE_S
from rqproc.lab.servers import ServerProcess

# A server with a `timeout` of 1 s closes after 1 to 3 s of rest, so not just as a beat comes.
SELDOM = ("--lease", "20", "--heartbeat", "4")

Stage = Callable[..., tuple[ServerProcess, Cluster, Running]]


@pytest.fixture
def stage(shop_server: ServerProcess) -> Iterator[Stage]:
    """A server that closes what has rested, and a node that seldom beats."""
    with ExitStack() as stack:

        def make(
            options: Sequence[str] = SELDOM, *, closes_after_s: int = 1
        ) -> tuple[ServerProcess, Cluster, Running]:
            server = stack.enter_context(ServerProcess())
            with server.client() as client:
                client.config_set("timeout", closes_after_s)
            cluster = Cluster(stack, server.url, "idle", book_url=shop_server.url)
            (node,) = cluster.start("a", options=options)
            return server, cluster, node

        yield make


def rest(server: ServerProcess, count: int) -> None:
    """Wait until the server has closed all but so many connections, which block or subscribe."""

    def connected() -> bool:
        with server.client() as client:
            return len(client.client_list()) - 1 <= count

    kit.eventually(connected, every_s=0.1)


def listeners(server: ServerProcess) -> set[str]:
    """The connections that subscribe."""
    with server.client() as client:
        return {found["id"] for found in client.client_list() if found["sub"] != "0"}


def beats(server: ServerProcess) -> int:
    with server.client() as client:
        return int(client.hget("rqproc:idle:2:node:a", "beat") or 0)


def test_a_node_that_rests_says_nothing_and_fails_no_heartbeat(stage: Stage, ids: Fresh) -> None:
    server, cluster, node = stage()
    (before,) = cluster.client.membership().nodes
    said, (id,) = len(node.lines), ids(1)
    for number in range(3):
        beaten = beats(server)
        kit.eventually(lambda beaten=beaten: beats(server) > beaten)
        source = cluster.client.reply(id, "price").source
        assert source == ("hit" if number else "miss")
    (after,) = cluster.client.membership().nodes
    assert after.incarnation == before.incarnation
    assert node.lines[said:] == []


def test_the_next_request_after_a_rest_takes_no_longer(stage: Stage, ids: Fresh) -> None:
    """Of a client that has rested too: an entry, a run, and a job."""
    # None closes again while these are asked for; that of the heartbeats closes between two.
    server, cluster, node = stage(("--lease", "20", "--heartbeat", "5"), closes_after_s=2)
    kept, fresh, job = ids(3)
    cluster.client.request(kept, "price")
    cluster.client.enqueue(kept, "charge")
    said = len(node.lines)
    rest(server, 3)
    watch = Watch()
    assert cluster.client.reply(kept, "price").source == "hit"
    cluster.client.request(fresh, "price")
    found = cluster.client.enqueue(job, "price").latest_result(timeout=10)
    assert watch.stop() < NUDGE_S, "nothing was asked for again"
    assert found
    assert cluster.client.members() == ("a",)
    assert node.lines[said:] == []


def test_what_a_caller_keeps_is_dropped_though_all_rests(stage: Stage, ids: Fresh) -> None:
    server, cluster, _ = stage()
    (id,) = ids(1)
    with Client(server.url, namespace="idle", near=10) as near:
        first = near.request(id, "price")
        kit.eventually(lambda: near.reply(id, "price").source == "near")
        listening = listeners(server)
        rest(server, 4)
        assert listening <= listeners(server), "it has not been closed, and made anew"
        kit.eventually(lambda: near.reply(id, "price").source == "near")
        cluster.client.invalidate(id, "price")
        kit.eventually(lambda: near.request(id, "price") != first)


@pytest.mark.parametrize("drains", [False, True])
def test_a_node_that_takes_nothing_more_for_a_while_says_nothing(
    stage: Stage, book: Book, ids: Fresh, drains: bool
) -> None:
    """It is full, or drains, so that it waits for no requests either."""
    server, cluster, node = stage((*SELDOM, "--max-queue", "1"))
    (id,) = ids(1)
    job = cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    if drains:
        cluster.client.drain("a")
    said = len(node.lines)
    for _ in range(2):
        beaten = beats(server)
        kit.eventually(lambda beaten=beaten: beats(server) > beaten)
    book.release("gated", id)
    kit.eventually(lambda: job.get_status() == "finished")
    news = [line for line in node.lines[said:] if "drain" not in line]
    assert news == []
    if not drains:
        assert cluster.client.request(id, "price", timeout=10)


def test_an_outage_is_logged_once_all_the_same(stage: Stage) -> None:
    server, _, node = stage(("--lease", "20", "--heartbeat", "0.3"))
    said = len(node.lines)
    server.kill()
    node.says(r"heartbeat: .*(No such file|refused)", since=said)
    time.sleep(1.5)  # several beats
    server.start()
    node.says("connection to Redis: works again", since=said)
    began = [line for line in node.lines[said:] if "heartbeat: " in line and "again" not in line]
    assert len(began) <= 2, "a reason is told once"
