"""Nodes and servers that fall silent while a caller waits who does not want to wait for them."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from watch import Watch

from rqproc import App, AsyncClient, current
from rqproc.calls.retry import NUDGE_S, OUTAGE_S
from rqproc.errors import OwnerLost, RedisUnavailable
from rqproc.lab.servers import ServerProcess

LONG = ("--lease", "6", "--heartbeat", "0.5")
LONGER = ("--lease", "7.5", "--heartbeat", "0.5")
TIMEOUT_S = 8.0
"""Half of it is before the end of a lease, and after half of one."""

HERE = f"{socket.gethostname()}:{os.getpid()}"


class Here:
    """An app with the shop's names, whose handlers run in the tests' own process."""

    def __init__(self, cluster: Cluster) -> None:
        self.app = App(cluster.url, namespace=cluster.namespace)
        self.runs: list[Any] = []
        for name, ttl in (("gated", 0), ("charge", 0), ("slow_price", 60), ("price", 60)):
            self.app.resource(ttl=ttl, name=name)(self._run)

    def _run(self, id: Any, *args: Any) -> dict[str, Any]:
        self.runs.append(id)
        return {"id": id, "node": current().node}

    def asker(self, resource: str, on_lost: Any = "local", timeout: float = TIMEOUT_S) -> Any:
        found = self.app.resources[resource]
        return found.with_options(on_lost=on_lost, timeout=timeout)


@pytest.fixture
def here(cluster: Cluster) -> Iterator[Here]:
    made = Here(cluster)
    yield made
    made.app.client.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def took(play: Callable[[], Any]) -> tuple[Watch, Any]:
    watch = Watch()
    found = play()
    watch.stop()
    return watch, found


def soon_after_half(watch: Watch) -> bool:
    """Before it would be looked again, a nudge later."""
    return watch.whole_s >= TIMEOUT_S / 2 and watch.s < TIMEOUT_S / 2 + NUDGE_S - 0.5


def test_what_waits_for_a_node_that_stands_still_is_done_here_and_never_there(
    cluster: Cluster, here: Here, book: Book, ids: Fresh
) -> None:
    # It has to go on with its lease: half of that is over by half of the timeout all the same.
    cluster.start("a", "b", options=LONGER)
    id, other = ids(2, of=0, modulo=2)
    kit.settle(cluster.client)
    cluster.nodes["a"].signal(signal.SIGSTOP)
    cluster.client.enqueue(other, "charge")  # the node's last take waits at the server for this
    watch, reply = took(lambda: here.asker("charge").reply(id, "lost"))
    assert soon_after_half(watch)
    assert (reply.source, reply.node, reply.value["id"]) == ("local", HERE, id)
    cluster.nodes["a"].signal(signal.SIGCONT)
    assert cluster.client.reply(id, "charge", args=("later",)).node == "a"
    assert book.order("charge", id) == ["later"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_lost_node_was_at_is_done_here_and_its_own_answer_is_none(
    cluster: Cluster,
    here: Here,
    book: Book,
    ids: Fresh,
    threads: ThreadPoolExecutor,
    how: signal.Signals,
) -> None:
    (node,) = cluster.start("a", options=LONG)
    (id,) = ids(1)
    waiting = threads.submit(took, lambda: here.asker("gated").reply(id))
    book.started("gated", id)
    node.signal(how)
    watch, reply = waiting.result(10)
    assert soon_after_half(watch)
    assert reply.source == "local"
    if how == signal.SIGSTOP:
        node.signal(signal.SIGCONT)
        book.release("gated", id)
        kit.eventually(lambda: ("end", "-", "a") in book.log("gated", id))
        kit.eventually(lambda: {n.held for n in cluster.client.membership().nodes} == {0})
        assert not book.has_started("gated", id)


def test_of_many_only_the_silent_nodes_ids_are_done_here(
    cluster: Cluster, here: Here, book: Book, ids: Fresh
) -> None:
    cluster.start("a", "b", options=LONGER)
    asked = ids(6)
    kit.settle(cluster.client)
    cluster.nodes["a"].signal(signal.SIGSTOP)
    with here.app.client as client:
        outcomes = client.reply_many(asked, "price", timeout=TIMEOUT_S, on_lost="local")
    assert list(outcomes) == asked
    sources = {id: outcome.source for id, outcome in outcomes.items()}  # type: ignore[union-attr]
    assert sources == {id: "miss" if id % 2 else "local" for id in asked}
    assert sorted(here.runs) == [id for id in asked if id % 2 == 0]


def test_many_that_ran_when_their_node_fell_silent_are_done_here_too(
    cluster: Cluster, here: Here, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    (node,) = cluster.start("a", options=LONG)
    asked = ids(4)
    ask = functools.partial(
        here.app.client.request_many, asked, "gated", timeout=TIMEOUT_S, on_lost="local"
    )
    waiting = threads.submit(took, ask)
    for id in asked:
        book.started("gated", id)
    node.signal(signal.SIGSTOP)
    watch, found = waiting.result(10)
    assert soon_after_half(watch)
    assert list(found) == sorted(here.runs) == asked
    node.signal(signal.SIGCONT)
    for id in asked:
        book.release("gated", id)
    kit.eventually(lambda: {n.held for n in cluster.client.membership().nodes} == {0})


def test_of_many_only_the_silent_nodes_ids_are_errors(cluster: Cluster, ids: Fresh) -> None:
    cluster.start("a", "b", options=LONGER)
    asked = ids(6)
    kit.settle(cluster.client)
    cluster.nodes["a"].signal(signal.SIGSTOP)
    found = cluster.client.request_many(
        asked, "price", timeout=TIMEOUT_S, on_lost="error", return_exceptions=True
    )
    assert list(found) == asked
    for id in asked:
        assert found[id]["node"] == "b" if id % 2 else isinstance(found[id], OwnerLost)


def test_with_asyncio_too(cluster: Cluster, here: Here, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=LONG)
    kit.settle(cluster.client)
    node.signal(signal.SIGSTOP)

    async def play() -> Any:
        async with AsyncClient(
            cluster.url, namespace=cluster.namespace, on_lost="local", app=here.app
        ) as client:
            return await client.reply(ids(1)[0], "price", timeout=TIMEOUT_S)

    watch, reply = took(lambda: asyncio.run(play()))
    assert soon_after_half(watch)
    assert reply.source == "local"


def test_who_wants_an_error_is_told_which_node_is_silent(
    cluster: Cluster, here: Here, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=LONGER)
    (id,) = ids(1)
    kit.settle(cluster.client)
    node.signal(signal.SIGSTOP)

    def play() -> OwnerLost:
        with pytest.raises(OwnerLost) as lost:
            here.asker("charge", "error").request(id)
        return lost.value

    watch, lost = took(play)
    assert soon_after_half(watch)
    assert (lost.node, lost.id, lost.attempts) == ("a", id, 0)
    assert 7.5 / 2 < lost.silent_s < 7.5
    assert here.runs == []


def test_the_command_says_so_with_exit_code_1(cluster: Cluster, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=("--lease", "12"))  # the command has to start meanwhile
    kit.settle(cluster.client)
    node.signal(signal.SIGSTOP)
    ended = kit.finished(
        cluster.url, cluster.namespace, "request", str(ids(1)[0]), "-r", "price",
        "-t", "14", "--on-lost", "error",
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "node a has it and is silent" in ended.stderr


def test_who_waits_is_answered_by_the_next_owner(cluster: Cluster, here: Here, ids: Fresh) -> None:
    cluster.start("a", "b", options=("--lease", "2", "--heartbeat", "0.5"))
    (id,) = ids(1, of=0, modulo=2)
    kit.settle(cluster.client)
    cluster.nodes["a"].signal(signal.SIGSTOP)
    reply = here.asker("price", "wait").reply(id)
    assert (reply.source, reply.node) == ("miss", "b")
    assert here.runs == []


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess(keeps=True) as running:
        yield running


@pytest.fixture
def frail(server: ServerProcess, shop_server: ServerProcess) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack, server.url, "fault", book_url=shop_server.url)


@pytest.mark.parametrize("silence", ["kill", "pause"])
@pytest.mark.parametrize("on_lost", ["local", "error"])
def test_a_server_that_goes_while_a_caller_waits_is_done_without(
    frail: Cluster,
    server: ServerProcess,
    book: Book,
    ids: Fresh,
    threads: ThreadPoolExecutor,
    silence: str,
    on_lost: str,
) -> None:
    frail.start("a", options=LONG)
    here = Here(frail)
    (id,) = ids(1)
    waiting = threads.submit(here.asker("gated", on_lost).reply, id)
    book.started("gated", id)
    getattr(server, silence)()
    watch = Watch()
    if on_lost == "local":
        assert waiting.result(10).source == "local"
    else:
        with pytest.raises(RedisUnavailable):
            waiting.result(10)
    assert watch.stop() < OUTAGE_S + 0.5
    if silence == "pause":
        server.go_on()
    book.release("gated", id)


def test_a_server_that_is_back_before_that_is_no_loss(
    frail: Cluster, server: ServerProcess, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    frail.start("a", options=LONG)
    here = Here(frail)
    (id,) = ids(1)
    waiting = threads.submit(here.asker("gated", timeout=20).reply, id)
    book.started("gated", id)
    server.kill()
    server.start()
    book.release("gated", id)
    reply = waiting.result(20)
    assert (reply.source, reply.value["n"]) == ("miss", 1)
    assert here.runs == []


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("timeout", [2.0, 4.0, 12.0])
def test_a_server_that_stands_still_from_the_beginning_is_known_by_half_of_the_timeout(
    frail: Cluster, server: ServerProcess, ids: Fresh, warm: bool, timeout: float
) -> None:
    """Whether there is a connection already, or none can be made."""
    here = Here(frail)
    price = here.asker("price", timeout=timeout)
    if warm:
        assert price.reply(ids(1)[0]).source == "local"
    server.pause()
    watch, reply = took(lambda: price.reply(ids(1)[0]))
    assert reply.source == "local"
    assert watch.s <= min(timeout / 2, OUTAGE_S) + 0.3
    server.go_on()
