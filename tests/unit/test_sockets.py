"""Sockets that are polled since no kernel keeps their time, and what is waited with."""

from __future__ import annotations

import queue
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from watch import Watch

from rqproc.runtime import MACHINE, Poller, patched_by, wait_for_file
from rqproc.transport.sockets import NOT_YET, Blocking, Polled, timed

LONG_S = 5.0


class Foreign(socket.socket):
    """One that is not Python's own."""


@pytest.fixture
def ends() -> Iterator[tuple[Polled, socket.socket]]:
    mine, theirs = socket.socketpair()
    with Foreign(fileno=mine.detach()) as foreign, theirs:
        found = timed(foreign)
        assert isinstance(found, Polled)
        yield found, theirs


@pytest.fixture(params=["poll", "select"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without what eventlet takes away."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")


def test_pythons_own_sockets_block() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        assert isinstance(timed(mine), Blocking)


@pytest.mark.usefixtures("how")
def test_nothing_is_read_that_does_not_come_in_time(ends: tuple[Polled, socket.socket]) -> None:
    polled, _ = ends
    watch = Watch()
    with pytest.raises(NOT_YET):
        polled.read(bytearray(10), 0.2)
    assert watch.stop() < 0.2 + 0.3
    assert watch.whole_s >= 0.2
    with pytest.raises(NOT_YET):
        polled.read_now(bytearray(10))


@pytest.mark.usefixtures("how")
def test_whoever_waits_has_taken_nothing_and_reads_what_comes(
    ends: tuple[Polled, socket.socket],
) -> None:
    polled, theirs = ends
    buffer, sizes = bytearray(10), []
    reading = threading.Thread(target=lambda: sizes.append(polled.read(buffer, LONG_S)))
    reading.start()
    while not polled.waits:
        assert reading.is_alive()
    assert not polled.has_unread(1)
    theirs.sendall(b"abc")
    reading.join(LONG_S)
    assert (sizes, buffer[:3]) == ([3], b"abc")
    assert not polled.waits


def test_what_was_not_read_is_seen_however_many_replies_it_may_be(
    ends: tuple[Polled, socket.socket],
) -> None:
    polled, theirs = ends
    theirs.sendall(b"abc")
    assert polled.has_unread(1)
    assert polled.has_unread(100)


@pytest.mark.usefixtures("how")
def test_a_packet_for_which_there_is_no_room_is_given_up_in_time(
    ends: tuple[Polled, socket.socket],
) -> None:
    polled, _ = ends
    watch = Watch()
    with pytest.raises(NOT_YET):
        polled.write(b"x" * 10_000_000, 0.2)
    assert watch.stop() < 0.2 + 0.3


@pytest.mark.usefixtures("how")
def test_a_packet_is_written_as_there_is_room(ends: tuple[Polled, socket.socket]) -> None:
    polled, theirs = ends
    packet = bytes(range(256)) * 20_000
    writing = threading.Thread(target=polled.write, args=(packet, LONG_S))
    writing.start()
    read = b""
    while len(read) < len(packet):
        read += theirs.recv(65536)
    writing.join(LONG_S)
    assert read == packet


@pytest.mark.usefixtures("how")
def test_a_file_is_waited_for() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        assert not wait_for_file(mine.fileno(), 0)
        assert wait_for_file(mine.fileno(), LONG_S, writable=True)
        poller = Poller(mine)
        assert poller.wait(0) == (False, False)
        theirs.sendall(b"x")
        assert wait_for_file(mine.fileno(), LONG_S)
        assert poller.wait(LONG_S) == (False, True)


def test_what_may_be_patched_late_is_looked_up_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(queue, "SimpleQueue", list)
    MACHINE.sleep(5.0)
    assert slept == [5.0]
    assert MACHINE.queue() == []


def test_what_stands_for_pythons_own_is_known_by_its_module() -> None:
    green = type("socket", (), {"__module__": "gevent._socket3"})
    assert patched_by(socket.socket) == patched_by() == ""
    assert patched_by(green) == "gevent"
    assert patched_by(Foreign) == ""
