"""What a hit and an array cost, counted: the same on any machine, however busy it is.

A change that makes the path longer is seen here. The limits leave a little room above what is
needed now; a heartbeat may fall among what is counted, which costs less than that.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import redis

from rqproc import App, Client
from rqproc.lab.servers import ServerProcess

HITS = 300
IDLE = {"lease_s": 600.0, "heartbeat_s": 200.0}
"""So that no heartbeat is counted."""

app = App()


@app.resource(ttl=3600)
def kept(id: int) -> dict[str, int]:
    return {"id": id}


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """One where nobody else has anything counted."""
    with ServerProcess() as running:
        yield running


@contextmanager
def nodes(url: str, *names: str) -> Iterator[Client]:
    """Nodes in threads of this process, and a client that asks them through the server."""
    apps = []
    try:
        for name in names:
            one = App(url, namespace="cost")
            one.resource(ttl=3600, name="kept")(kept.handler)
            inside = one.node(name=name, **IDLE)  # type: ignore[arg-type]  # its settings
            inside.__enter__()
            apps.append(inside)
        with Client(url, namespace="cost") as client:
            client.request_many(range(64), "kept")
            client.request_many(range(64), "kept")
            client.request(1, "kept")
            yield client
    finally:
        for inside in apps:
            inside.__exit__(None, None, None)


def commands_for(server: ServerProcess, work: Callable[[], object], *, times: int) -> float:
    """Return how many commands the server has run for each, those in functions included."""
    with server.client() as counting:
        counting.config_resetstat()
        for _ in range(times):
            work()
        counts = counting.info("commandstats")
    asked = ("cmdstat_info", "cmdstat_config|resetstat", "cmdstat_hello", "cmdstat_client|setinfo")
    return sum(found["calls"] for name, found in counts.items() if name not in asked) / times


def bytes_for(server: ServerProcess, work: Callable[[], object], *, times: int) -> float:
    with server.client() as counting:
        before = _network(counting)
        for _ in range(times):
            work()
        return (_network(counting) - before) / times


def _network(counting: redis.Redis) -> int:
    return int(counting.info("stats")["total_net_input_bytes"])


class Calls:
    """Counts calls of Python functions by thread, from ``begin`` on."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._counting = False

    def begin(self) -> None:
        self._counts.clear()
        self._counting = True

    def end(self, threads: str) -> int:
        """Return how many there were, in threads whose names begin so."""
        self._counting = False
        return sum(count for name, count in self._counts.items() if name.startswith(threads))

    def hear(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and self._counting:
            name = threading.current_thread().name
            self._counts[name] = self._counts.get(name, 0) + 1


@pytest.fixture
def calls() -> Iterator[Calls]:
    """Threads that are started from now on are counted, and this one."""
    counter = Calls()
    threading.setprofile(counter.hear)
    sys.setprofile(counter.hear)
    try:
        yield counter
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # nobody


def test_a_hit_takes_the_server_at_most_sixteen_commands(server: ServerProcess) -> None:
    with nodes(server.url, "a") as client:
        assert commands_for(server, lambda: client.request(7, "kept"), times=HITS) <= 16


def test_a_hit_takes_caller_and_node_at_most_700_bytes_to_send(server: ServerProcess) -> None:
    with nodes(server.url, "a") as client:
        assert bytes_for(server, lambda: client.request(7, "kept"), times=HITS) <= 700


def test_a_hit_takes_at_most_80_python_calls_in_the_caller_and_80_in_the_node(
    server: ServerProcess, calls: Calls
) -> None:
    with nodes(server.url, "a") as client:
        calls.begin()
        for _ in range(HITS):
            client.request(7, "kept")
        caller = calls.end(threading.current_thread().name) / HITS
        calls.begin()
        for _ in range(HITS):
            client.request(7, "kept")
        node = calls.end("rqproc-handler") / HITS
    assert 10 < caller <= 80
    assert 10 < node <= 80


def test_an_array_of_64_on_one_owner_takes_the_server_at_most_twenty_commands(
    server: ServerProcess,
) -> None:
    with nodes(server.url, "a") as client:
        per_array = commands_for(server, lambda: client.request_many(range(64), "kept"), times=100)
    assert per_array <= 20


def test_an_array_of_64_on_three_owners_takes_the_server_at_most_fifty_commands(
    server: ServerProcess,
) -> None:
    with nodes(server.url, "a", "b", "c") as client:
        per_array = commands_for(server, lambda: client.request_many(range(64), "kept"), times=100)
    assert per_array <= 50


def test_what_is_counted_are_hits(server: ServerProcess) -> None:
    with nodes(server.url, "a") as client:
        assert client.reply(7, "kept").source == "hit"
        found = client.reply_many(range(64), "kept").values()
        assert {getattr(reply, "source", reply) for reply in found} == {"hit"}
