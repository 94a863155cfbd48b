"""A server that comes back without its last writes: what nodes run is theirs still."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from watch import Watch

from rqproc.lab.servers import ServerProcess

LEASE_S = 3.0
OPTIONS = ("--lease", str(LEASE_S), "--heartbeat", "0.2")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def _on(stack: ExitStack, server: ServerProcess, book_server: ServerProcess) -> Cluster:
    return Cluster(stack, server.url, "lost", book_url=book_server.url)


def _token(cluster: Cluster, id: int) -> int:
    token = cluster.client.request(id, "echo")["token"]
    assert isinstance(token, int)
    return token


def test_a_server_that_forgot_everything_gives_out_nothing_that_still_runs(
    shop_server: ServerProcess, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    (id,) = ids(1)
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(keeps=False))
        cluster = _on(stack, server, shop_server)
        cluster.start("a", "b", options=OPTIONS)
        asked = threads.submit(cluster.client.request, id, "gated", args=("one",), timeout=20)
        book.started("gated", id)
        before = _token(cluster, ids(1)[0])
        server.kill()
        server.start()
        kit.eventually(lambda: cluster.client.members() == ("a", "b"))
        again = threads.submit(cluster.client.request, id, "gated", args=("two",), timeout=20)
        # Others are answered when the server has settled; by then this id's runs would be, too.
        assert _token(cluster, ids(1)[0]) > before, "tokens rise, whatever is forgotten"
        assert not book.has_started("gated", id), "it still runs on its old node"
        book.release("gated", id, times=3)
        asked.result()
        again.result()
    assert kit.overlapping(book.log("gated", id)) == []


def test_a_server_that_has_kept_everything_settles_before_a_lease_is_over(
    shop_server: ServerProcess, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    (id,) = ids(1)
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(keeps=True))
        cluster = _on(stack, server, shop_server)
        cluster.start("a", "b", options=("--lease", "20", "--heartbeat", "0.2"))
        asked = threads.submit(cluster.client.request, id, "gated", timeout=20)
        book.started("gated", id)
        before = _token(cluster, ids(1)[0])
        server.kill()
        server.start()
        watch = Watch()
        assert _token(cluster, ids(1)[0]) > before
        assert watch.stop() < 5
        book.release("gated", id)
        assert asked.result()["n"] == 1
    assert len(book.order("gated", id)) == 1, "its run was still its own"


def test_a_take_that_the_server_has_lost_is_held_again(
    shop_server: ServerProcess, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    """The state from before the take comes back: the request is queued, and nobody holds it."""
    (id,) = ids(1)
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(keeps=True))
        cluster = _on(stack, server, shop_server)
        cluster.start("a", "b", options=OPTIONS)
        owner = cluster.client.owner(id)
        asked = threads.submit(cluster.client.request, id, "gated", timeout=20)
        book.started("gated", id)
        with server.client() as redis:
            (inc,) = (n.incarnation for n in cluster.client.membership().nodes if n.name == owner)
            ((job_id, _),) = redis.hgetall(f"rqproc:lost:2:claims:{inc}").items()
            redis.delete("rqproc:lost:2:holders", f"rqproc:lost:2:claims:{inc}")
            other = "b" if owner == "a" else "a"
            redis.lpush(f"rq:queue:rqproc.lost.{owner}", job_id)
            redis.zrem("rqproc:lost:members", str(owner))  # as if it had begun to drain since
            server.kill()
        server.start()
        location = kit.eventually(lambda: _held(cluster, id))
        assert location == owner
        assert not book.has_started("gated", id)
        book.release("gated", id, times=2)
        assert asked.result()["n"] == 1
        assert other in cluster.client.members()
    assert kit.overlapping(book.log("gated", id)) == []


def _held(cluster: Cluster, id: int) -> str | None:
    return cluster.client.locate([id], "gated")[0].holder
