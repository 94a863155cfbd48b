"""Programs with greenlets (gevent, eventlet) whose server is silent, away, or another one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from fault.watched import Watched
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from watch import Watch

from rqproc.calls.retry import GRACE_S, OUTAGE_S
from rqproc.calls.subscription import TRUST_S
from rqproc.lab.servers import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LATE_S = GRACE_S + 0.5
"""A server that is silent is told from one that is late."""
NAMED = {"RedisUnavailable", "RequestTimeout"}


@pytest.fixture
def own(shop_server: ServerProcess) -> Iterator[tuple[ServerProcess, Cluster]]:
    """A server that keeps its data, with a cluster of two nodes."""
    with ServerProcess(keeps=True) as server, ExitStack() as stack:
        cluster = Cluster(stack, server.url, "green", book_url=shop_server.url)
        cluster.start("a", "b", options=("--lease", "5", "--heartbeat", "0.5"))
        yield server, cluster


def program(cluster: Cluster, library: str, *cases: str, book: ServerProcess) -> kit.Running:
    return kit.greenlets(cluster.url, cluster.namespace, library, *cases, SHOP_URL=book.url)


def test_no_greenlet_waits_longer_than_it_allowed_for_a_server_that_stands_still(
    own: tuple[ServerProcess, Cluster], library: str, shop_server: ServerProcess, ids: Fresh
) -> None:
    server, cluster = own
    case = f"silent:{ids(10)[0]}:{server.pid}"
    with program(cluster, library, case, book=shop_server) as asking:
        asking.says("asking")
        watch = Watch()
        took = {}
        for what in ("kept no longer", "new over", "old over", "survey over"):
            asking.says(what)
            took[what] = watch.s
        watch.stop()
        found = kit.played(asking)["silent"]
    assert took["kept no longer"] < TRUST_S + 0.1 + 0.5
    assert took["new over"] < 4 + LATE_S
    assert took["old over"] < 4 + LATE_S
    assert took["survey over"] < 2 * OUTAGE_S + LATE_S
    assert set(found["new"]) | set(found["old"]) <= NAMED
    assert found["survey"] == "RedisUnavailable"
    assert found["works"] is True


def test_what_a_silent_server_has_is_done_in_greenlets_here(
    own: tuple[ServerProcess, Cluster], library: str, shop_server: ServerProcess
) -> None:
    server, cluster = own
    with program(cluster, library, f"lost:{server.pid}", book=shop_server) as asking:
        asking.says("asking")
        watch = Watch()
        asking.says("over")
        assert watch.stop() < 3 / 2 + 0.5
        found = kit.played(asking)["lost"]
    assert found == {"sources": ["local"] * 30, "runs": [*range(10)]}


def test_nobody_listens_and_greenlets_are_told_in_time(
    shop_server: ServerProcess, library: str
) -> None:
    with kit.greenlets(shop_server.url, "green", library, "refused") as asking:
        asking.says("asking")
        watch = Watch()
        asking.says("over")
        assert watch.stop() < OUTAGE_S + LATE_S
        assert kit.played(asking)["refused"] == ["RedisUnavailable"] * 20


def test_where_a_unix_socket_accepts_nobody_greenlets_are_told_in_time(
    library: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "full.sock")
    with ExitStack() as stack:
        listens = stack.enter_context(socket.socket(socket.AF_UNIX))
        listens.bind(path)
        listens.listen(0)
        with suppress(BlockingIOError):
            while waits := stack.enter_context(socket.socket(socket.AF_UNIX)):
                waits.setblocking(False)
                waits.connect(path)
        asking = stack.enter_context(kit.greenlets(f"unix://{path}", "green", library, "full"))
        asking.says("asking")
        watch = Watch()
        asking.says("over")
        assert watch.stop() < OUTAGE_S + LATE_S
        assert kit.played(asking)["full"] == ["RedisUnavailable"] * 20


def test_greenlets_outlast_a_restart_of_the_server(
    own: tuple[ServerProcess, Cluster],
    library: str,
    shop_server: ServerProcess,
    book: Book,
    ids: Fresh,
) -> None:
    server, cluster = own
    asked = ids(5)
    with program(cluster, library, f"restarted:{asked[0]}", book=shop_server) as asking:
        asking.says("waiting")
        server.kill()
        server.start()
        for id in asked:
            book.release("gated", id)
        found = kit.played(asking)["restarted"]
    assert found == {"values": [1] * 5, "works": True}


def test_a_greenlet_that_lets_no_other_run_is_not_taken_for_a_silent_server(
    own: tuple[ServerProcess, Cluster], library: str, shop_server: ServerProcess, ids: Fresh
) -> None:
    _, cluster = own
    with program(cluster, library, f"stalled:{ids(20)[0]}", book=shop_server) as asking:
        assert kit.played(asking)["stalled"] == {"values": [1] * 20, "same": True}


def test_greenlets_follow_a_failover(
    library: str, shop_server: ServerProcess, book: Book, ids: Fresh
) -> None:
    with Watched() as watched, ExitStack() as stack:
        cluster = Cluster(stack, watched.url(db=2), "green", book_url=shop_server.url)
        cluster.start("a", "b", options=("--lease", "1.5", "--heartbeat", "0.3"))
        with program(cluster, library, f"followed:{ids(5)[0]}", book=shop_server) as asking:
            asking.says("asking")
            watched.primary.kill()
            watched.failed_over()
            kit.eventually(lambda: len(cluster.client.members()) == 2, what="both nodes")
            book.redis.rpush("test:followed", "go")
            found = kit.played(asking)["followed"]
    assert set(found["errors"]) <= {*NAMED, "NoLiveNode"}
    assert found["works"] is True
