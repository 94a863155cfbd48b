"""A node inside a program, where its lease may not be relied on: its entries are no answer then."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from integration import kit
from integration.program import House
from watch import Watch

from rqproc.errors import RedisUnavailable, RequestTimeout
from rqproc.lab.servers import ServerProcess
from rqproc.node.executor import Executor
from rqproc.node.runs import HandlerRun
from rqproc.node.session import Session
from rqproc.transport.connection import ConnectionLost

LEASE_S, BEAT_S = 1.0, 0.2
TRUST_S = 0.8 * LEASE_S
HASTE_S = 0.05


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


def _answers_until_refused(house: House) -> float:
    """Ask again and again; return when the last request began that was answered."""
    brisk = house.price.with_options(timeout=0.3)
    answered_at = 0.0
    while True:
        asked_at = time.monotonic()
        try:
            assert brisk.reply(1).source == "hit"
        except (RequestTimeout, RedisUnavailable):
            return answered_at
        answered_at = asked_at


def test_it_answers_while_its_lease_is_sure_though_the_server_is_away(
    server: ServerProcess,
) -> None:
    house = House(server.url, "t")
    with closing(house), house.app.node(name="a", lease_s=LEASE_S, heartbeat_s=BEAT_S):
        watch = Watch()
        first = house.price.request(1)
        kit.settle(house.app.client)
        server.pause()
        paused_at = time.monotonic()
        answered_s = _answers_until_refused(house) - paused_at
        server.go_on()
        late_s = watch.whole_s - watch.stop()
        # The last beat that was answered was sent up to a heartbeat before.
        assert TRUST_S - BEAT_S - HASTE_S * 4 - late_s < answered_s < TRUST_S + HASTE_S
        kit.eventually(lambda: house.price.reply(1).source == "hit")
        assert house.price.request(1)["n"] > first["n"], "what was kept is forgotten"


PROGRAM = """
import os, signal
from rqproc import App

app = App()

@app.resource(ttl=60)
def price(id):
    return 0

with app.node(name="a", lease_s=1, heartbeat_s=0.2):
    assert [price.reply(1).source for _ in range(2)] == ["miss", "hit"]
    print("stops", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    print(price.reply(1).node, flush=True)
app.client.close()
"""


def test_a_program_that_was_stopped_past_its_lease_does_not_answer_itself(
    shop_server: ServerProcess,
) -> None:
    house = House(shop_server.url, "stopped")
    env = kit.environ(shop_server.url, "stopped")
    with (
        closing(house),
        house.app.node(name="b", lease_s=10.0, heartbeat_s=BEAT_S),
        kit.Running((sys.executable, "-W", "error", "-c", PROGRAM), env=env) as program,
    ):
        kit.eventually(lambda: "stops\n" in program.out)
        kit.eventually(lambda: house.app.client.members() == ("b",))
        house.price.request(1)
        program.signal(signal.SIGCONT)
        assert program.wait() == 0, program.stderr
    assert program.out[-1] == "b\n"


def test_what_has_begun_runs_though_its_connection_breaks_at_that_moment(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, broken = threading.Event(), threading.Event()
    start_runs, pop = Executor.start_runs, Session.pop

    def leave_one(executor: Executor, **options: bool) -> HandlerRun | None:
        run = start_runs(executor, **options)
        if run:
            left.set()
        return run

    def break_once(session: Session, most: int) -> None:
        if left.is_set() and not broken.is_set():
            broken.set()
            raise ConnectionLost("it breaks")
        pop(session, most)

    monkeypatch.setattr(Executor, "start_runs", leave_one)
    monkeypatch.setattr(Session, "pop", break_once)
    house = House(server.url, "t")
    with closing(house), house.app.node(name="a", lease_s=LEASE_S, heartbeat_s=BEAT_S):
        assert house.price.with_options(timeout=10).request(1)["n"] == 1
        assert broken.is_set()
