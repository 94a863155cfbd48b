"""What the proxy of a torture does to bytes on their way."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from rqproc.lab.torture.proxy import CLEAR, ConnectionState, Proxy, ProxyPort

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


@pytest.fixture
def echo() -> Iterator[Echo]:
    with tempfile.TemporaryDirectory() as folder:
        echo = Echo(f"{folder}/s")
        yield echo
        echo.close()


@pytest.fixture
def port(echo: Echo) -> Iterator[ProxyPort]:
    with Proxy(echo.path, seed=1) as proxy:
        yield proxy.port("a")


def connector(port: ProxyPort) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(port.url.rpartition(":")[2])), WITHIN_S)


def is_over(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_in_clear_weather_bytes_go_there_and_back(port: ProxyPort) -> None:
    with connector(port) as client:
        client.sendall(b"ping")
        assert client.recv(16) == b"ping"


def test_swallowed_requests_never_arrive_and_their_connection_ends_with_the_weather(
    port: ProxyPort, echo: Echo
) -> None:
    with connector(port) as client, connector(port) as silent:
        client.sendall(b"one")
        assert client.recv(16) == b"one"
        silent.sendall(b"two")
        assert silent.recv(16) == b"two"
        port.set_state(ConnectionState(swallows=frozenset({"requests"})))
        client.sendall(b"lost")
        client.settimeout(SOON_S)
        with pytest.raises(TimeoutError):
            client.recv(16)
        client.settimeout(WITHIN_S)
        port.set_state(CLEAR)
        assert is_over(client)
        silent.sendall(b"three")
        assert silent.recv(16) == b"three"
    assert echo.got == b"onetwothree"


def test_muted_requests_arrive_and_their_replies_do_not(port: ProxyPort, echo: Echo) -> None:
    with connector(port) as client:
        port.set_state(ConnectionState(swallows=frozenset({"replies"})))
        client.sendall(b"ping")
        assert echo.has_got(b"ping")
        client.settimeout(SOON_S)
        with pytest.raises(TimeoutError):
            client.recv(16)
        client.settimeout(WITHIN_S)
        port.set_state(CLEAR)
        assert is_over(client)


def test_a_cut_takes_the_reply_and_its_connection(port: ProxyPort, echo: Echo) -> None:
    with connector(port) as client:
        port.set_state(ConnectionState(cuts=1.0))
        client.sendall(b"ping")
        assert echo.has_got(b"ping")
        assert is_over(client)
    assert port.swallowed == 1


def test_late_bytes_keep_their_order(port: ProxyPort) -> None:
    with connector(port) as client:
        port.set_state(ConnectionState(delay_s=0.02))
        sent = b""
        for number in range(20):
            client.sendall(b"%d," % number)
            sent += b"%d," % number
        came = b""
        while len(came) < len(sent):
            came += client.recv(1024)
    assert came == sent


def test_a_client_that_is_told_that_no_more_replies_come_sees_the_end(port: ProxyPort) -> None:
    with connector(port) as client:
        client.sendall(b"ping")
        assert client.recv(16) == b"ping"
        port.half_close("replies")
        assert is_over(client)


def test_a_server_that_is_told_that_no_more_requests_come_ends_the_connection(
    port: ProxyPort,
) -> None:
    with connector(port) as client:
        client.sendall(b"ping")
        assert client.recv(16) == b"ping"
        port.half_close("requests")
        assert is_over(client)


def test_what_a_port_does_to_chunks_it_does_to_its_own(port: ProxyPort) -> None:
    port.set_state(ConnectionState(swallows=frozenset({"requests"})))
    with connector(port.proxy.port("b")) as client:
        client.sendall(b"ping")
        assert client.recv(16) == b"ping"


def test_while_there_is_no_server_connections_end_at_once(port: ProxyPort, echo: Echo) -> None:
    echo.close()
    with connector(port) as client:
        assert is_over(client)
