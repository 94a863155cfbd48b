"""What the proxy does to bytes on their way."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from local_shop import until

from rqproc.lab.proxy import CLEAR, HELD, ConnectionState, Fate, Port, Proxy, Way

WITHIN_S = 5.0
SOON_S = 0.1


class Echo:
    """Answers each chunk with itself, and remembers what it got."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._came = threading.Condition()
        self.got = b""
        self.ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def has_got(self, wanted: bytes) -> bool:
        with self._came:
            return self._came.wait_for(lambda: self.got == wanted, WITHIN_S)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, suppress(OSError):
            while chunk := peer.recv(1024):
                with self._came:
                    self.got += chunk
                    self._came.notify_all()
                peer.sendall(chunk)
        self.ended.set()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with tempfile.TemporaryDirectory() as folder:
        echo = Echo(f"{folder}/s")
        yield echo
        echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.path, seed=1) as proxy:
        yield proxy


def connected(proxy: Proxy, port: str = "a") -> socket.socket:
    number = int(proxy.url(port).rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", number), WITHIN_S)


def opened(echo: Echo) -> tuple[Port, tuple[str, int]]:
    """Return a port of the running event loop, and where it listens."""
    port = Port(echo.path, judge=lambda: lambda way, chunk: "passes", chance=lambda: 0.0)
    listening = socket.create_server(("127.0.0.1", 0))
    port.open(listening)
    return port, listening.getsockname()


def is_over(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_in_clear_weather_bytes_go_there_and_back(proxy: Proxy) -> None:
    with connected(proxy) as client:
        client.sendall(b"ping")
        assert client.recv(16) == b"ping"


def test_swallowed_requests_never_arrive_and_their_connection_ends_with_the_weather(
    proxy: Proxy, echo: Echo
) -> None:
    with connected(proxy) as client, connected(proxy) as silent:
        client.sendall(b"one")
        assert client.recv(16) == b"one"
        silent.sendall(b"two")
        assert silent.recv(16) == b"two"
        proxy.set_state("a", ConnectionState(swallows=frozenset({"requests"})))
        client.sendall(b"lost")
        client.settimeout(SOON_S)
        with pytest.raises(TimeoutError):
            client.recv(16)
        client.settimeout(WITHIN_S)
        until(lambda: proxy.lost > 0)
        proxy.set_state("a", CLEAR)
        assert is_over(client)
        silent.sendall(b"three")
        assert silent.recv(16) == b"three"
    assert echo.got == b"onetwothree"


def test_muted_requests_arrive_and_their_replies_do_not(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        proxy.set_state("a", ConnectionState(swallows=frozenset({"replies"})))
        client.sendall(b"ping")
        assert echo.has_got(b"ping")
        client.settimeout(SOON_S)
        with pytest.raises(TimeoutError):
            client.recv(16)
        client.settimeout(WITHIN_S)
        until(lambda: proxy.lost > 0)
        proxy.set_state("a", CLEAR)
        assert is_over(client)


def test_a_cut_takes_the_reply_and_its_connection(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        proxy.set_state("a", ConnectionState(cuts=1.0))
        client.sendall(b"ping")
        assert echo.has_got(b"ping")
        assert is_over(client)
    assert proxy.lost == 1


def test_late_bytes_keep_their_order(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.set_state("a", ConnectionState(delay_s=0.02))
        sent = b""
        for number in range(20):
            client.sendall(b"%d," % number)
            sent += b"%d," % number
        came = b""
        while len(came) < len(sent):
            came += client.recv(1024)
    assert came == sent


def test_a_client_that_is_told_that_no_more_replies_come_sees_the_end(proxy: Proxy) -> None:
    with connected(proxy) as client:
        client.sendall(b"ping")
        assert client.recv(16) == b"ping"
        proxy.half_close("a", "replies")
        assert is_over(client)


def test_a_server_that_is_told_that_no_more_requests_come_ends_the_connection(
    proxy: Proxy,
) -> None:
    with connected(proxy) as client:
        client.sendall(b"ping")
        assert client.recv(16) == b"ping"
        proxy.half_close("a", "requests")
        assert is_over(client)


def test_an_end_that_has_been_reset_does_not_keep_it_from_the_others(echo: Echo) -> None:
    async def tell_an_end() -> bytes:
        loop = asyncio.get_running_loop()
        port, where = opened(echo)
        clients = [socket.socket(), socket.socket(), socket.socket()]
        for client in clients:
            client.setblocking(False)
            await loop.sock_connect(client, where)
            await loop.sock_sendall(client, b"ping")
            assert await loop.sock_recv(client, 16) == b"ping"
        first, second, third = clients
        for client in (first, third):  # whichever of them is told first
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        port.half_close("replies")
        with second:
            ending = await asyncio.wait_for(loop.sock_recv(second, 16), WITHIN_S)
        await port.close()
        return ending

    assert asyncio.run(tell_an_end()) == b""


def test_who_is_accepted_while_a_port_closes_is_let_go(echo: Echo) -> None:
    async def connect_and_close(turns: int) -> None:
        port, where = opened(echo)
        with socket.create_connection(where, WITHIN_S):
            for _ in range(turns):
                await asyncio.sleep(0)
            await port.close()

    for turns in range(12):
        asyncio.run(connect_and_close(turns))
    gc.collect()  # pytest fails what leaves a transport unclosed


def test_what_a_port_does_to_chunks_it_does_to_its_own(proxy: Proxy) -> None:
    proxy.set_state("a", ConnectionState(swallows=frozenset({"requests"})))
    with connected(proxy, "b") as client:
        client.sendall(b"ping")
        assert client.recv(16) == b"ping"


def test_while_there_is_no_server_connections_end_at_once(proxy: Proxy, echo: Echo) -> None:
    echo.close()
    with connected(proxy) as client:
        assert is_over(client)


def test_what_a_port_holds_passes_when_it_is_opened(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        client.sendall(b"one")
        assert client.recv(16) == b"one"
        proxy.set_state("a", HELD)
        client.sendall(b"two")
        client.settimeout(SOON_S)
        with pytest.raises(TimeoutError):
            client.recv(16)
        assert echo.got == b"one"
        client.settimeout(WITHIN_S)
        proxy.set_state("a", CLEAR)
        assert client.recv(16) == b"two"


def test_a_port_that_is_held_breaks_no_connection_and_drops_what_the_dead_have_sent(
    proxy: Proxy, echo: Echo
) -> None:
    with connected(proxy) as client:
        client.sendall(b"one")
        assert client.recv(16) == b"one"
        proxy.set_state("a", HELD)
        client.sendall(b"of the dead")
    assert not echo.ended.wait(SOON_S), "it is not told that the client has gone"
    port, _ = proxy._ports["a"]
    until(lambda: proxy._call(lambda: all(one.client.gone for one in port._connections)))
    proxy.set_state("a", CLEAR)
    assert echo.ended.wait(WITHIN_S)
    assert echo.got == b"one"


def test_late_bytes_outlive_who_has_sent_them(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        client.sendall(b"one")
        assert client.recv(16) == b"one"
        proxy.set_state("a", ConnectionState(delay_s=2 * SOON_S))
        client.sendall(b"two")
    assert echo.has_got(b"onetwo")


def test_a_judge_of_chunks_says_what_becomes_of_each(echo: Echo) -> None:
    def judge(way: Way, chunk: bytes) -> Fate:
        if way == "requests":
            return "lost" if chunk == b"lose me" else "passes"
        return "cut" if chunk == b"cut me" else "passes"

    with Proxy(echo.path, judge=judge) as proxy, connected(proxy) as client:
        client.sendall(b"lose me")
        client.settimeout(SOON_S)
        with pytest.raises(TimeoutError):
            client.recv(16)
        client.settimeout(WITHIN_S)
        until(lambda: proxy.lost > 0)
        client.sendall(b"cut me")
        assert is_over(client)
        assert echo.got == b"cut me"
        assert (proxy.lost, proxy.accepted) == (2, 1)
