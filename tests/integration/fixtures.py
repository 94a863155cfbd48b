"""Fixtures that the integration and the fault tests share: a server, clusters on it, their book."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib.util import find_spec
from secrets import token_hex

import pytest
import redis
from integration import kit
from integration.kit import Book, Running
from rq import Queue
from rq.serializers import JSONSerializer

from rqproc import App, Client
from rqproc.lab.servers import ServerProcess
from rqproc.testing import LocalCluster, RealCluster

Fresh = Callable[..., list[int]]

_numbers = itertools.count(1000)


both_kinds = pytest.fixture(
    params=[LocalCluster, pytest.param(RealCluster, marks=pytest.mark.slow)],
    ids=["memory", "processes"],
)
"""For a fixture whose tests run on either kind of the kit's clusters, ``request.param``."""

ANYWHERE = ("in memory", "real", "local")


def served(app: App, where: str, *, nodes: int) -> AbstractContextManager[object]:
    """Have an app's resources served in one of the ways of ``ANYWHERE``."""
    if where == "local":
        return app.at("local://")
    return (LocalCluster if where == "in memory" else RealCluster)(app, nodes=nodes)


class Cluster:
    """Nodes of a namespace of their own, and a client of it.

    Args:
        book_url: the server on which the shop's handlers keep their book, if it is another.
    """

    def __init__(self, stack: ExitStack, url: str, namespace: str, *, book_url: str = "") -> None:
        self._stack = stack
        self._book_url = book_url or url
        self.url = url
        self.namespace = namespace
        self.nodes: dict[str, Running] = {}
        self.client: Client = stack.enter_context(Client(url, namespace=namespace))

    def start(
        self, *names: str, options: Sequence[str] = kit.PATIENT, app: str | None = "shop:app",
        url: str | None = None,
    ) -> list[Running]:  # fmt: skip
        """Start nodes side by side and wait until they serve."""
        started = [
            self._stack.enter_context(
                kit.node(
                    url or self.url,
                    self.namespace,
                    name,
                    *options,
                    app=app,
                    SHOP_URL=self._book_url,
                )
            )
            for name in names
        ]
        for name, node in zip(names, started, strict=True):
            self.nodes[name] = node.ready()
        return started

    def owner(self, id: int) -> Running:
        name = self.client.owner(id)
        assert name
        return self.nodes[name]


@pytest.fixture(scope="module", params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest) -> str:
    """What patches the Python of programs with greenlets."""
    found: str = request.param
    if find_spec(found) is None:
        pytest.skip(f"no {found} is installed: it may have no version for this Python")
    return found


@pytest.fixture(scope="session")
def shop_server() -> Iterator[ServerProcess]:
    """A server that no other test empties."""
    with ServerProcess() as running:
        yield running


@pytest.fixture(scope="session")
def shop_redis(shop_server: ServerProcess) -> Iterator[redis.Redis]:
    # It blocks for as long as it is told to: redis-py's own five seconds would repeat a BLPOP.
    with redis.Redis.from_url(shop_server.url, socket_timeout=None) as client:
        yield client


@pytest.fixture
def book(shop_redis: redis.Redis) -> Book:
    return Book(shop_redis)


@pytest.fixture
def ids() -> Fresh:
    """``ids(3)``: three ids that no other test uses; ``ids(3, of=2, modulo=3)``: of that rest."""

    def fresh(count: int, *, of: int = 0, modulo: int = 1) -> list[int]:
        found = (number for number in _numbers if number % modulo == of)
        return list(itertools.islice(found, count))

    return fresh


@pytest.fixture
def cluster(shop_server: ServerProcess) -> Iterator[Cluster]:
    """A namespace without nodes yet; those that the test starts are ended after it."""
    with ExitStack() as stack:
        yield Cluster(stack, shop_server.url, f"t{token_hex(4)}")


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    """Three nodes of a namespace of their own."""
    cluster.start("a", "b", "c")
    return cluster


@pytest.fixture
def queue(cluster: Cluster, book: Book) -> Iterator[Queue]:
    name = f"rqproc.{cluster.namespace}"
    found = Queue(name, connection=book.redis, serializer=JSONSerializer)
    yield found
    book.redis.srem("rq:queues", found.key)
