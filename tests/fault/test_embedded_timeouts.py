"""Who asks by way of the embedded server is told in time that it is silent, or not there yet."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watch import Watch

import rqproc
from rqproc import AsyncClient, Client
from rqproc.calls.functions import START_S
from rqproc.calls.retry import OUTAGE_S
from rqproc.connect import ServerBackend
from rqproc.errors import EmbeddedUnavailable, NoLiveNode, RedisUnavailable, RequestTimeout
from rqproc.protocol.keys import Keys
from rqproc.server import Embedded, Places, locks
from rqproc.server.binary import find_binary
from rqproc.transport.connection import ConnectionLost
from rqproc.transport.connector import Connector

SLACK_S = 0.5

PROGRAM = """
import asyncio, sys
from rqproc import AsyncClient, Client
async def ask():
    async with AsyncClient(timeout=2) as client:
        await client.request(1)
print("asking", flush=True)
try:
    asyncio.run(ask()) if sys.argv[1] == "asyncio" else Client(timeout=2).request(1)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    found = Places.private(tmp_path)
    yield found
    Embedded(found).stop(force=True)


def way_to(server: Embedded) -> Connector:
    return Connector(server.url(), revive=server.ensure_within)


def stopped(server: Embedded) -> int:
    server.ensure()
    pid = server.status().pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    return pid


def by_thread(server: Embedded) -> None:
    Client(ServerBackend(way_to(server), Keys("late")), timeout=2).request(1)


def by_task(server: Embedded) -> None:
    async def ask() -> None:
        async with AsyncClient(ServerBackend(way_to(server), Keys("late")), timeout=2) as client:
            await client.request(1)

    asyncio.run(ask())


@pytest.mark.parametrize("ask", [by_thread, by_task])
def test_a_stopped_server_is_told_as_soon_as_where_there_is_a_url(
    places: Places, ask: Callable[[Embedded], None]
) -> None:
    server = Embedded(places)
    pid = stopped(server)
    watch = Watch()
    with pytest.raises((RedisUnavailable, RequestTimeout), match=r"does not answer|not to be"):
        ask(server)
    assert watch.stop() < OUTAGE_S + SLACK_S
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(NoLiveNode):
        ask(server)


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_making_a_client_takes_no_time_of_its_own_for_a_stopped_server(
    tmp_path: Path, kind: str
) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.endswith("REDIS_URL")}
    environ |= {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    environ["PYTHONPATH"] = str(Path(rqproc.__file__).parents[1])
    server = Embedded(Places.of_user(environ))
    pid = stopped(server)
    try:
        with subprocess.Popen(
            (sys.executable, "-c", PROGRAM, kind), env=environ, stdout=subprocess.PIPE, text=True
        ) as asking:
            assert asking.stdout
            assert asking.stdout.readline() == "asking\n"
            watch = Watch()
            found = asking.stdout.readline()
            assert watch.stop() < START_S + OUTAGE_S + 1
        assert found.startswith(("RedisUnavailable", "RequestTimeout"))
    finally:
        os.kill(pid, signal.SIGCONT)
        server.stop(force=True)


def slow_program(tmp_path: Path, seconds: float) -> Path:
    return program_after(tmp_path, f"sleep {seconds}")


def program_after(tmp_path: Path, before: str) -> Path:
    """Return a server's program that does something first."""
    program = tmp_path / "slow"
    program.write_text(f'#!/bin/sh\n{before}\nexec {find_binary()} "$@"\n')
    program.chmod(0o700)
    return program


def test_a_start_that_takes_longer_than_its_caller_has_goes_on_for_the_next(
    places: Places, tmp_path: Path
) -> None:
    way = way_to(Embedded(places, program=slow_program(tmp_path, 1.0)))
    watch = Watch()
    with pytest.raises(ConnectionLost, match="not ready yet: nobody listens") as caught:
        way.connect(timeout_s=0.4)
    assert watch.stop() < 0.4 + SLACK_S
    assert "start goes on" in caught.value.advice
    assert locks.held(places.server_lock)
    way.connect(timeout_s=10).close()


def test_the_loop_is_free_while_a_server_starts(places: Places, tmp_path: Path) -> None:
    """It does not become ready before the loop has turned so often."""
    go = tmp_path / "go"
    waits = f"while [ ! -e {go} ]; do sleep 0.05; done"
    server = Embedded(places, program=program_after(tmp_path, waits))

    async def ask() -> int:
        async with AsyncClient(ServerBackend(way_to(server), Keys("late")), timeout=10) as client:
            asking = asyncio.create_task(client.request(1))
            turns = 0
            while not asking.done():
                await asyncio.sleep(0.01)
                turns += 1
                if turns == 11:
                    go.touch()
            with pytest.raises(NoLiveNode):
                await asking
            return turns

    try:
        assert asyncio.run(ask()) > 10
    finally:
        go.touch()  # it waits for it, whatever came of the test


def test_who_waits_for_a_start_that_fails_is_told_its_reason(
    places: Places, tmp_path: Path
) -> None:
    way = way_to(Embedded(places, program=tmp_path / "nothing"))
    with pytest.raises(EmbeddedUnavailable, match="No such file"):
        way.connect(timeout_s=5)


def test_who_was_told_that_a_server_is_silent_keeps_it_when_it_answers_again(
    places: Places,
) -> None:
    first = Embedded(places)
    pid = stopped(first)
    other = Embedded(places)
    with pytest.raises(EmbeddedUnavailable):
        other.ensure_within(20)
    os.kill(pid, signal.SIGCONT)
    first.release()
    way_to(other).connect(timeout_s=5).close()
    assert (other.status().pid, other.status().in_use) == (pid, True)
    other.release()
    deadline = time.monotonic() + 20
    while locks.held(places.server_lock):
        assert time.monotonic() < deadline
        time.sleep(0.01)
