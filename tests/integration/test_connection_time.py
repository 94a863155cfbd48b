"""How long a connection waits for a reply: in all, not for each part of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from watch import Watch

from rqproc.transport.connection import FLOW_S, Connection, ConnectionLost
from rqproc.transport.connector import Connector

PONG = b"+PONG\r\n"

Script = Callable[[socket.socket, threading.Event], None]


@pytest.fixture(params=["tcp", "unix"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX if request.param == "unix" else socket.AF_INET) as listening:
        listening.bind(str(tmp_path / "s") if request.param == "unix" else ("127.0.0.1", 0))
        listening.listen()
        yield listening


@pytest.fixture
def linked(listener: socket.socket) -> Iterator[Callable[[Script], Connection]]:
    """A connection to a peer that answers the first PING, then the next packet as the test says."""
    with ExitStack() as stack:
        over = threading.Event()

        def connect(script: Script) -> Connection:
            def serve() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(1000)
                    peer.sendall(PONG)
                    peer.recv(1000)
                    script(peer, over)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(over.set)
            where = listener.getsockname()
            url = f"unix://{where}" if isinstance(where, str) else f"redis://127.0.0.1:{where[1]}"
            connection = Connector(url).connect()
            stack.callback(connection.close)
            return connection

        yield connect


def test_a_server_that_falls_silent_after_the_first_reply_is_noticed_in_time(
    linked: Callable[[Script], Connection],
) -> None:
    def fall_silent(peer: socket.socket, over: threading.Event) -> None:
        peer.sendall(PONG)
        over.wait(10)

    connection = linked(fall_silent)
    watch, began = Watch(), time.monotonic()
    with pytest.raises(ConnectionLost) as lost:
        connection.exchange((("PING",), ("PING",)), timeout_s=0.5, prelude_bytes=len(PONG))
    took_s = time.monotonic() - began
    own_s = watch.stop()
    assert took_s >= 0.5
    assert own_s < 0.5 + FLOW_S + 0.2
    assert lost.value.spent_s == pytest.approx(took_s, abs=0.05 + took_s - own_s)


def test_a_reply_that_is_late_but_flows_is_received(
    linked: Callable[[Script], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may hold the peer up before any part.
    monkeypatch.setattr("rqproc.transport.connection.FLOW_S", 1.0)

    def flow(peer: socket.socket, over: threading.Event) -> None:
        peer.sendall(b"$30\r\n")
        for _ in range(30):
            over.wait(0.08)
            peer.sendall(b"x")
        peer.sendall(b"\r\n")

    began = time.monotonic()
    assert linked(flow).exchange((("GET", "x"),), timeout_s=1.0) == [b"x" * 30]
    assert time.monotonic() - began > 2.0, "longer than the timeout and one part's time together"
