"""Where a near-cache cannot be told of what is dropped, it serves nothing, within a known time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from fault.proxy import CuttingProxy
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from watch import Watch

from rqproc import Client
from rqproc.calls import subscription
from rqproc.calls.subscription import BEAT_S, TRUST_S
from rqproc.errors import RqprocError
from rqproc.lab.servers import ServerProcess
from rqproc.model import Reply

WITHIN_S = 6.0
STEADY = ("--lease", "10", "--heartbeat", "0.3")
LONG_TRUST_S = 8.0
SLACK_S = 0.2
"""Between our telling a process to stand still, or a proxy to be mute, and its doing so."""


@pytest.fixture
def own(shop_server: ServerProcess) -> Iterator[tuple[ServerProcess, Cluster]]:
    """A server of the test's own with a node; the handlers keep their book on another one."""
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(keeps=True))
        cluster = Cluster(stack, server.url, "near", book_url=shop_server.url)
        cluster.start("a", options=STEADY)
        yield server, cluster


@pytest.fixture
def proxy(shop_server: ServerProcess) -> Iterator[CuttingProxy]:
    with CuttingProxy(shop_server.url) as proxy:
        yield proxy


def kept(caller: Client, id: int) -> Reply:
    """Wait until an id is served from the caller's memory."""
    found = kit.eventually(lambda: _near(caller, id), what="a reply of its own")
    assert found
    return found


def _near(caller: Client, id: int) -> Reply | None:
    with suppress(RqprocError):
        reply = caller.reply(id, "price", timeout=0.3)
        return reply if reply.source == "near" else None
    return None


def last_served(caller: Client, id: int, watch: Watch) -> float:
    """Return the last moment at which a reply of its own was asked for, and served."""
    last = began = watch.s
    while _near(caller, id):
        last = began
        began = watch.s
        assert began < WITHIN_S
    assert not _near(caller, id), "it stays so"
    watch.stop()
    return last


def _ends_early(caller: Client, id: int) -> None:
    """Wait until an id is not served from the caller's memory, long before any trust is over."""
    kit.eventually(lambda: not _near(caller, id), within_s=LONG_TRUST_S - BEAT_S - 1.0)


def test_a_server_that_stands_still_ends_it_when_its_last_word_is_too_old(
    own: tuple[ServerProcess, Cluster], ids: Fresh
) -> None:
    server, cluster = own
    (id,) = ids(1)
    with Client(server.url, namespace=cluster.namespace, near=10) as caller:
        first = kept(caller, id)
        server.pause()
        watch = Watch()
        assert last_served(caller, id, watch) < TRUST_S + SLACK_S
        server.go_on()
        assert kept(caller, id).value == first.value


def test_a_connection_that_leads_nowhere_any_more_ends_it_just_so(
    cluster: Cluster, ids: Fresh, proxy: CuttingProxy
) -> None:
    cluster.start("a", options=STEADY)
    one, other = ids(2)
    with Client(proxy.address, namespace=cluster.namespace, near=10) as caller:
        kept(caller, one)
        kept(caller, other)
        proxy.mute = True
        watch = Watch()
        for id in (one, other):
            cluster.client.invalidate(id, "price")
        assert last_served(caller, one, watch) < TRUST_S + SLACK_S
        proxy.mute = False
        assert kept(caller, one).value["n"] == 2
        assert caller.reply(other, "price").value["n"] == 2, "it has missed that one's drop"


def test_a_subscription_that_is_cut_ends_it_at_once(
    cluster: Cluster, book: Book, ids: Fresh, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "TRUST_S", LONG_TRUST_S)
    cluster.start("a", options=STEADY)
    one, other = ids(2)
    with Client(proxy.address, namespace=cluster.namespace, near=10) as caller:
        kept(caller, one)
        kept(caller, other)
        # It is not to have a new one; its requests go over a connection of their own, in RESP3.
        proxy.swallow = lambda chunk: b"SUBSCRIBE" in chunk and b":dropped" in chunk
        for found in book.redis.client_list():
            if found["sub"] == "1" and found["resp"] == "2":
                book.redis.client_kill_filter(_id=found["id"])
        _ends_early(caller, one)
        cluster.client.invalidate(one, "price")
        assert caller.reply(one, "price").value["n"] == 2
        proxy.swallow = lambda _: False
        assert kept(caller, one).value["n"] == 2
        assert caller.reply(other, "price").source == "hit", "what was kept is forgotten"


def test_a_server_that_was_started_again_finds_it_empty(
    own: tuple[ServerProcess, Cluster], ids: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "TRUST_S", LONG_TRUST_S)
    server, cluster = own
    one, other = ids(2)
    with Client(server.url, namespace=cluster.namespace, near=10) as caller:
        kept(caller, one)
        kept(caller, other)
        server.kill()
        _ends_early(caller, one)
        server.start()
        kept(caller, one)
        assert caller.reply(other, "price", timeout=5).source != "near"
