"""The same over TCP and TLS, with a password and a database of one's own, as most servers are
reached; and what is said where a URL leads nowhere."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
import redis
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Line
from integration.tls import TlsFront
from rq import Queue
from rq.job import JobStatus
from watch import Watch

from rqproc import AsyncClient, Client
from rqproc.errors import RedisUnavailable, RqprocError
from rqproc.lab.servers import ServerProcess
from rqproc.protocol.library import PROTOCOL


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = str(nobody.getsockname()[1])
    with ServerProcess("--port", port) as server, server.client() as client:
        client.execute_command("ACL SETUSER far on >s3cret ~* &* +@all")
        yield f"127.0.0.1:{port}/3"


@pytest.fixture(scope="module")
def far(address: str) -> Iterator[Cluster]:
    with ExitStack() as stack:
        cluster = Cluster(stack, f"redis://far:s3cret@{address}", "far")
        cluster.start("a", "b", options=())
        yield cluster


@pytest.fixture
def far_book(far: Cluster) -> Iterator[Book]:
    with redis.Redis.from_url(far.url) as client:
        yield Book(client)


def test_requests_are_answered(far: Cluster, far_book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    assert far.client.request(id, "price")["n"] == 1
    assert far.client.reply(id, "price").source == "hit"
    assert far_book.count("price", id) == 1, "in the database that the URL names"

    async def ask() -> str:
        async with AsyncClient(far.url, namespace="far") as client:
            return (await client.reply(id, "price")).source

    assert asyncio.run(ask()) == "hit"


def test_jobs_are_enqueued_and_read(far: Cluster, ids: Fresh) -> None:
    job = far.client.enqueue(ids(1)[0], "charge")
    assert kit.ended(job) == JobStatus.FINISHED
    assert job.latest_result()


def test_dependents_of_a_job_are_run(far: Cluster, far_book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    queue = Queue("rqproc.far", connection=far_book.redis)
    first = queue.enqueue("rqproc.request", id, resource="gated")
    far_book.started("gated", id)
    second = queue.enqueue("rqproc.request", id, resource="charge", depends_on=first)
    far_book.release("gated", id)
    kit.eventually(lambda: second.get_status() == JobStatus.FINISHED)


def test_the_password_is_shown_nowhere(far: Cluster, address: str) -> None:
    host = address.removesuffix("/3")
    for node in far.nodes.values():
        node.says(rf"ready \(epoch \d+, server {host}\)")
        assert "s3cret" not in node.stderr
    assert far.client.server == host


def test_a_wrong_password_is_told_at_once(far: Cluster, address: str) -> None:
    with (
        Client(f"redis://far:wrong@{address}", namespace="far") as client,
        pytest.raises(RedisUnavailable, match="password") as caught,
    ):
        client.request(1, "price")
    assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


def test_a_node_with_a_wrong_password_does_not_start(far: Cluster, address: str) -> None:
    with kit.node(f"redis://far:wrong@{address}", "far", "c") as node:
        assert node.wait() == 5
    assert "Traceback" not in node.stderr


def test_the_demo_plays_on_a_server_given_by_its_url(far: Cluster) -> None:
    with kit.command(far.url, "far", "demo", PYTHONUNBUFFERED="1") as demo:
        kit.eventually(lambda: "waiting 5 s" in demo.stdout, within_s=60)
        demo.signal(signal.SIGINT)
        assert demo.wait() == 130
    assert "Traceback" not in demo.stderr


# --- TLS ---


@pytest.fixture(scope="module")
def front(
    shop_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsFront]:
    with TlsFront(shop_server.url, tmp_path_factory.mktemp("tls")) as front:
        yield front


def test_all_of_it_goes_over_tls(front: TlsFront, shop_server: ServerProcess, ids: Fresh) -> None:
    url = f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={front.certificate}"
    (id,) = ids(1)
    with ExitStack() as stack:
        cluster = Cluster(stack, url, "tls", book_url=shop_server.url)
        (node,) = cluster.start("a")
        assert cluster.client.request(id, "price")["n"] == 1
        job = cluster.client.enqueue(id, "echo")
        assert kit.ended(job) == JobStatus.FINISHED
        assert job.latest_result()

        async def ask() -> str:
            async with AsyncClient(url, namespace="tls") as client:
                return (await client.reply(id, "price")).source

        assert asyncio.run(ask()) == "hit"
        assert node.stop() == 0


def test_a_near_cache_listens_over_tls(
    front: TlsFront, shop_server: ServerProcess, shop_redis: redis.Redis, ids: Fresh
) -> None:
    (id,) = ids(1)
    url = f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={front.certificate}"

    def pings() -> int:
        return int(shop_redis.info("commandstats")["cmdstat_ping"]["calls"])

    with ExitStack() as stack:
        cluster = Cluster(stack, shop_server.url, "tls-near")
        cluster.start("a")
        with Client(url, namespace="tls-near", near=10) as caller:
            kit.eventually(lambda: caller.reply(id, "price").source == "near")
            before = pings()
            kit.eventually(lambda: pings() >= before + 3, what="trust that was renewed")
            assert caller.reply(id, "price").source == "near"
            cluster.client.invalidate(id, "price")
            kit.eventually(lambda: caller.request(id, "price")["n"] == 2)
        channel = f"rqproc:tls-near:{PROTOCOL}:dropped"
        kit.eventually(lambda: shop_redis.pubsub_numsub(channel) == [(channel.encode(), 0)])


def test_a_certificate_that_cannot_be_verified_is_told(front: TlsFront) -> None:
    with (
        Client(f"rediss://127.0.0.1:{front.port}", namespace="tls") as client,
        pytest.raises(RedisUnavailable, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.request(1, timeout=2.0)


# --- URLs that lead nowhere ---


class Stranger:
    """A server that is no Redis: it says one thing to everyone, or nothing at all."""

    def __init__(self, says: bytes = b"", *, hangs_up: bool = False) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._says = says
        self._hangs_up = hangs_up
        self._kept: list[socket.socket] = []
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        for one in (self._listening, *self._kept):
            one.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listening.accept()
                caller.sendall(self._says)
                if self._hangs_up:
                    caller.close()
                else:
                    self._kept.append(caller)


def test_a_url_that_leads_nowhere_is_told_in_one_line_within_five_seconds(address: str) -> None:
    server = address.removesuffix("/3")
    with (
        Stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n") as web,
        Stranger(hangs_up=True) as rude,
        Stranger() as silent,
        ThreadPoolExecutor(24) as pool,
    ):
        expected = {
            f"redis://127.0.0.1:{web.port}": "no Redis.*Check the port",
            f"redis://127.0.0.1:{rude.port}": "closed the connection|reset",
            f"redis://127.0.0.1:{silent.port}": "does not answer.*SLOWLOG",
            f"rediss://127.0.0.1:{silent.port}": "Timeout",
            f"rediss://127.0.0.1:{web.port}": "redis://... instead",
            f"rediss://{server}": "TLS is on one side alone",
            "redis://no.such.host.invalid": "Check the host name",
            f"redis://far:wr0ng@{server}": "WRONGPASS .*Check the user and the password",
            f"redis://far:s3cret@{server}/99": "DB index is out of range",
            "unix:///no/such/socket": "No such file",
            f"unix:///{'x' * 200}": "path too long",
            f"redis+sentinel://127.0.0.1:{web.port}/shop": "no sentinel answers",
            f"redis+sentinel://127.0.0.1:{silent.port}/shop": "no sentinel answers",
            f"redis+sentinel://{server}/shop": "usually 26379",
        }
        trials = {
            (url, kind): pool.submit(kind, url) for url in expected for kind in (_sync, _async)
        }
    for (url, _), trial in trials.items():
        error, took_s = trial.result()
        assert isinstance(error, RedisUnavailable)
        assert re.search(expected[url], str(error)), str(error)
        assert "wr0ng" not in str(error)
        assert "\n" not in str(error)
        assert took_s < 5


Told = tuple[RqprocError, float]


def _sync(url: str) -> Told:
    watch = Watch()
    with Client(url, namespace="far") as client, pytest.raises(RqprocError) as caught:
        client.request(1)
    return caught.value, watch.stop()


def _async(url: str) -> Told:
    async def ask() -> Told:
        watch = Watch()
        async with AsyncClient(url, namespace="far") as client:
            with pytest.raises(RqprocError) as caught:
                await client.request(1)
        return caught.value, watch.stop()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("redis+sentinel://one,two", 2, "redis\\+sentinel://.*HOST:PORT,HOST:PORT/NAME"),
        ("redis+sentinel://u:s3cret@one/a/b?sentinel_password=s3cret", 2, "/NAME"),
        ("redis://h?colour=red", 2, "no options but those of redis-py"),
        ("redis+sentinel://127.0.0.1:1/shop?sentinel_password=s3cret", 5, "sentinels run"),
    ],
)
def test_the_command_line_tells_a_bad_url_in_one_line(
    line: Line, url: str, code: int, says: str
) -> None:
    found, out, err = line("--url", url, "request", "1", "--timeout", "0.5")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert re.search(says, err), err
    assert "s3cret" not in err
