"""One cluster of three real nodes for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from integration import kit
from integration.fixtures import (  # noqa: F401
    book,
    cluster,
    ids,
    library,
    queue,
    shop_redis,
    shop_server,
    three,
)

from rqproc import Client
from rqproc.lab.servers import ServerProcess

NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="session")
def shop(shop_server: ServerProcess) -> Iterator[str]:  # noqa: F811
    """The URL of a server on which the namespace ``shop`` has three nodes."""
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(kit.node(shop_server.url, "shop", name, *kit.PATIENT))
            for name in NODES
        ]
        for node in nodes:
            node.ready()
        with Client(shop_server.url, namespace="shop") as client:
            kit.settle(client)
        yield shop_server.url
        assert [node.process.poll() for node in nodes] == [None] * 3, "a node has ended"


@pytest.fixture
def client(shop: str) -> Iterator[Client]:
    with Client(shop, namespace="shop") as client:
        yield client


@pytest.fixture
def line(
    shop: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> kit.Line:
    """Types commands that play on the shop's cluster."""
    for name, value in kit.environ(shop, "shop").items():
        if name.startswith("RQPROC_"):
            monkeypatch.setenv(name, value)
    return kit.Line(capsys)
