"""One connection that is pushed to: what is taken, when whoever waits is woken, and two threads."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
from scripted_server import SOON_S, ScriptedServer, push
from watch import Watch

from rqproc.errors import ConfigError
from rqproc.transport.connection import PUSH_LOW_WATER, Connection, ConnectionLost, Refused
from rqproc.transport.connector import check_server

SUBSCRIBED = b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
LONG_S = 5.0


class Plug:
    """What redis-py makes of a socket."""

    def __init__(self, made: socket.socket) -> None:
        self._sock = made

    def disconnect(self) -> None:
        self._sock.close()


def pair(family: str) -> tuple[socket.socket, socket.socket]:
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as door:
        mine = socket.create_connection(door.getsockname())
        theirs, _ = door.accept()
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return mine, theirs


@pytest.fixture(params=["unix", "tcp"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Connection, socket.socket]]:
    mine, theirs = pair(request.param)
    connection = listening(mine, theirs)
    yield connection, theirs
    connection.close()
    theirs.close()


def listening(mine: socket.socket, theirs: socket.socket) -> Connection:
    connection = Connection(Plug(mine))
    theirs.sendall(SUBSCRIBED)
    connection.listen(["c"], timeout_s=LONG_S)
    return connection


def taken(connection: Connection) -> tuple[threading.Thread, list[Any]]:
    """Take in a thread until something whole has come."""
    found: list[Any] = []

    def take() -> None:
        while not found:
            found.extend(connection.take(LONG_S))

    thread = threading.Thread(target=take)
    thread.start()
    return thread, found


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_message_whose_end_is_short_is_not_late(
    ends: tuple[Connection, socket.socket], size: int
) -> None:
    """Whoever waits is not woken for three bytes alone: a message may end in so few."""
    connection, theirs = ends
    message = push(b"c", b"id hit 0 0 0 n 1")
    watch = Watch()
    for cut in range(1, 13):
        thread, found = taken(connection)
        theirs.sendall(message[:-cut])
        for i in range(len(message) - cut, len(message), size):
            theirs.sendall(message[i : i + size])
        thread.join(LONG_S)
        assert [reply[2] for reply in found] == [b"id hit 0 0 0 n 1"]
    assert watch.stop() < LONG_S / 2


def test_the_reply_to_a_call_that_was_queued_wakes_nobody_and_is_not_lost(
    ends: tuple[Connection, socket.socket],
) -> None:
    connection, theirs = ends
    theirs.sendall(b"_\r\n")
    assert connection.has_unread()
    began = time.monotonic()
    assert connection.take(0.1) == [None]
    assert time.monotonic() - began >= 0.1 * 0.9
    assert not connection.has_unread()
    theirs.sendall(b"_\r\n" + push(b"c", b"x"))
    assert connection.take(LONG_S)[0] is None


def test_a_connection_that_rests_is_cut_once_the_other_end_has_closed_it(
    ends: tuple[Connection, socket.socket],
) -> None:
    connection, theirs = ends
    assert not connection.is_cut()
    theirs.close()
    assert connection.is_cut()


def test_where_nothing_comes_in_time_nothing_is_taken(
    ends: tuple[Connection, socket.socket],
) -> None:
    connection, _ = ends
    assert connection.take(0.05) == []


def test_replies_errors_and_pushes_are_taken_in_the_order_of_the_server(
    ends: tuple[Connection, socket.socket],
) -> None:
    connection, theirs = ends
    theirs.sendall(b"-OOM no\r\n:1\r\n" + push(b"c", b"x"))
    error, one, message = connection.take(LONG_S)
    assert isinstance(error, hiredis.ReplyError)
    assert one == 1
    assert isinstance(message, hiredis.PushNotification)


def test_what_is_no_redis_is_told_so(ends: tuple[Connection, socket.socket]) -> None:
    connection, theirs = ends
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(ConnectionLost, match="no Redis"):
        connection.take(LONG_S)


def test_a_read_that_blocks_can_be_interrupted(ends: tuple[Connection, socket.socket]) -> None:
    connection, _ = ends
    told: list[Exception] = []

    def take() -> None:
        try:
            connection.take(60.0)
        except ConnectionLost as error:
            told.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    connection.interrupt()
    thread.join(LONG_S)
    assert told


def test_one_who_cannot_send_leaves_what_has_come_to_the_one_who_takes(
    ends: tuple[Connection, socket.socket],
) -> None:
    """Else a reply were missing there, and all later ones taken for another command's."""
    connection, theirs = ends
    theirs.sendall(b":1\r\n")
    while not connection.has_unread():
        pass
    connection._socket.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLost):
        connection.send(b"x", timeout_s=1.0)
    assert connection.take(LONG_S) == [1]


def test_one_who_sends_does_not_change_how_long_another_waits(
    ends: tuple[Connection, socket.socket],
) -> None:
    connection, _ = ends
    connection.take(0.05)
    connection.send(b"x", timeout_s=60.0)
    option = connection._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
    assert int.from_bytes(option[:8], "little") == 0, "seconds"


def test_a_subscription_that_is_refused_is_told() -> None:
    mine, theirs = socket.socketpair()
    connection = Connection(Plug(mine))
    theirs.sendall(b"-NOPERM no\r\n")
    with pytest.raises(Refused, match="NOPERM"):
        connection.listen(["c"], timeout_s=LONG_S)
    assert mine.fileno() == -1
    theirs.close()


def test_a_subscription_that_is_not_answered_is_given_up() -> None:
    mine, theirs = socket.socketpair()
    connection = Connection(Plug(mine))
    with pytest.raises(ConnectionLost, match="does not answer"):
        connection.listen(["c"], timeout_s=0.05)
    assert mine.fileno() == -1
    theirs.close()


@pytest.mark.parametrize(("version", "old"), [("6.2.14", True), ("7.0.0", False), ("", False)])
def test_a_server_without_functions_is_told_apart(version: str, old: bool) -> None:
    about = {b"version": version.encode()} if version else None
    if not old:
        check_server("there", about)
        return
    with pytest.raises(ConfigError, match=r"there is version 6\.2\.14: rqproc needs Redis 7\.0"):
        check_server("there", about)


def test_a_connection_for_pushes_is_made_in_resp3() -> None:
    with ScriptedServer() as server:
        connection = server.connector().connect(pushes=True)
        connection.listen(["a", "b"], timeout_s=SOON_S)
        assert server.channels == [b"a", b"b"]
        server.publish(b"r1 no channel of this name")
        connection.close()


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate in one file."""
    import subprocess

    file = tmp_path_factory.mktemp("tls") / "both.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*make.split(), "-keyout", str(file), "-out", str(file) + ".c"],
        check=True, capture_output=True,
    )  # fmt: skip
    file.write_text(file.read_text() + Path(str(file) + ".c").read_text())
    return file


@pytest.fixture
def tls(certificate: Path) -> Iterator[tuple[Connection, ssl.SSLSocket]]:
    mine, theirs = pair("tcp")
    served, asked = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )  # fmt: skip
    served.load_cert_chain(certificate)
    asked.check_hostname, asked.verify_mode = False, ssl.CERT_NONE
    server: list[ssl.SSLSocket] = []
    shaking = threading.Thread(
        target=lambda: server.append(served.wrap_socket(theirs, server_side=True))
    )
    shaking.start()
    secure = asked.wrap_socket(mine)
    shaking.join(SOON_S)
    connection = listening(secure, server[0])
    yield connection, server[0]
    connection.close()
    server[0].close()


def test_over_tls_there_is_no_low_water_mark(tls: tuple[Connection, ssl.SSLSocket]) -> None:
    """It counts bytes of TLS, of which each reply has more: one would not be woken in time."""
    connection, theirs = tls
    theirs.sendall(push(b"c", b"x"))
    assert connection.take(LONG_S)
    low_water = connection._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
    assert low_water == 1 < PUSH_LOW_WATER
    theirs.sendall(b"_\r\n")
    began = time.monotonic()
    assert connection.take(LONG_S) == [None]
    assert time.monotonic() - began < LONG_S / 2
    assert connection.take(0.05) == []


def test_over_tls_one_sends_while_another_takes(tls: tuple[Connection, ssl.SSLSocket]) -> None:
    """And neither changes how long the other waits."""
    connection, theirs = tls
    thread, found = taken(connection)
    sent, total = b"x" * 1000, 0
    for _ in range(50):
        connection.send(sent, timeout_s=0.5)
    while total < 50 * len(sent):
        total += len(theirs.recv(65536))
    theirs.sendall(push(b"c", b"y" * 100_000))
    thread.join(LONG_S)
    assert len(found[0][2]) == 100_000


def test_over_tls_one_who_finds_no_room_to_send_keeps_nobody_from_taking(
    tls: tuple[Connection, ssl.SSLSocket],
) -> None:
    connection, theirs = tls
    told: list[Exception] = []

    def send() -> None:
        try:
            connection.send(b"x" * 50_000_000, timeout_s=1.0)
        except ConnectionLost as error:
            told.append(error)

    sending = threading.Thread(target=send)
    sending.start()
    for _ in range(20):
        theirs.sendall(push(b"c", b"y"))
        assert connection.take(LONG_S)
    sending.join(LONG_S)
    assert "does not answer" in str(told[0])


def test_over_tls_a_read_that_blocks_can_be_interrupted(
    tls: tuple[Connection, ssl.SSLSocket],
) -> None:
    connection, _ = tls
    told: list[Exception] = []

    def take() -> None:
        try:
            connection.take(60.0)
        except ConnectionLost as error:
            told.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    connection.interrupt()
    thread.join(LONG_S)
    assert told
