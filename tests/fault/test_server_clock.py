"""The server's clock is set forward or back: nobody dies of it, and the dead are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault.clock import WAYS, ClockServer, Way, why_not
from fault.load import Load, assert_exactly_once
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from watch import Watch

from rqproc.lab.servers import ServerProcess

HOUR_S = 3600
LEASE_S = 2.0
LATE_S = 5.0
"""That a loaded machine may be late, where it would be an hour otherwise."""
LONG_S = 10
"""The lease of nodes that are not to die, on a machine that may be late."""

Stage = Callable[..., tuple[ClockServer, Cluster]]


@pytest.fixture(params=WAYS)
def stage(
    request: pytest.FixtureRequest, shop_server: ServerProcess, tmp_path: Path
) -> Iterator[Stage]:
    """A server whose clock can be set, with nodes; the handlers' book is on another."""
    way: Way = request.param
    if way == "process" and (reason := why_not()):
        pytest.skip(reason)
    with ExitStack() as stack:

        def make(*names: str, lease_s: float = LONG_S) -> tuple[ClockServer, Cluster]:
            server = stack.enter_context(ClockServer(tmp_path, way))
            cluster = Cluster(stack, server.url, "fault", book_url=shop_server.url)
            cluster.start(*names, options=options(lease_s))
            kit.settle(cluster.client)
            return server, cluster

        yield make


def options(lease_s: float) -> tuple[str, ...]:
    return ("--lease", str(lease_s), "--heartbeat", "0.3")


def incarnations(cluster: Cluster) -> set[str]:
    return {node.incarnation for node in cluster.client.membership().nodes}


@pytest.mark.parametrize("names", [("a", "b"), ("a",)], ids=["one of two", "the only one"])
def test_a_node_that_is_dead_when_the_clock_is_set_back_is_given_up_in_time(
    stage: Stage, ids: Fresh, names: tuple[str, ...]
) -> None:
    """Its ids are others', and its name can be taken."""
    server, cluster = stage(*names, lease_s=LEASE_S)
    cluster.nodes["a"].kill()
    server.set_clock(-HOUR_S)
    watch = Watch()
    cluster.start("a", options=options(LEASE_S))
    assert watch.stop() < 2 * LEASE_S + LATE_S
    for id in ids(4):
        cluster.client.request(id, "price", timeout=5)


@pytest.mark.parametrize("by_s", [HOUR_S, LONG_S, -HOUR_S], ids=["an hour", "a lease", "back"])
def test_a_clock_that_is_set_ends_no_membership_and_repeats_no_run(
    stage: Stage, book: Book, ids: Fresh, by_s: int
) -> None:
    server, cluster = stage("a", "b")
    before, asked = incarnations(cluster), ids(9)
    (long,) = ids(1)
    job = cluster.client.enqueue(long, "gated", args=("once",))
    book.started("gated", long)
    with Load(cluster.client, "charge", asked, pause_s=0.05) as load:
        load.more(30)
        server.set_clock(by_s)
        load.more(30)
        load.all_ids_answered()
    assert load.failures == []
    assert incarnations(cluster) == before
    assert_exactly_once(load, book, "charge", asked)
    book.release("gated", long)
    kit.eventually(lambda: job.get_status() == "finished")
    assert book.order("gated", long) == ["once"]


def test_a_clock_that_is_set_to_and_fro_is_nobodys_death(
    stage: Stage, book: Book, ids: Fresh
) -> None:
    server, cluster = stage("a", "b")
    before, asked = incarnations(cluster), ids(6)
    with Load(cluster.client, "charge", asked) as load:
        for by_s in (5, -10, 60, -59, HOUR_S, -HOUR_S, -35, 35):
            load.more(20)
            server.set_clock(by_s)
            kit.settle(cluster.client)
        load.all_ids_answered()
    assert load.failures == []
    assert incarnations(cluster) == before
    assert_exactly_once(load, book, "charge", asked)


def test_a_node_that_idles_when_the_clock_is_set_back_goes_on(stage: Stage, ids: Fresh) -> None:
    """The server ends its blocking commands by that clock: not in time, then."""
    server, cluster = stage("a")
    before, (id,) = incarnations(cluster), ids(1)
    server.set_clock(-HOUR_S)
    watch = Watch()
    cluster.client.request(id, "price")
    assert watch.stop() < 1
    assert incarnations(cluster) == before
