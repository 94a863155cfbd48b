"""The threads' driver: who reads, who sends, who is told what, and what a fault leaves."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from random import Random
from typing import Any

import pytest
from made_calls import a_call
from scripted_server import COMMANDS, SOON_S, ScriptedServer, name_of, sent_ids
from watch import Watch

from rqproc.calls.call import Call
from rqproc.calls.retry import GRACE_S, NUDGE_S, Look, first_look
from rqproc.calls.threads import Threads
from rqproc.errors import ConfigError, RedisUnavailable, RqprocError
from rqproc.model import OnLost
from rqproc.transport.connection import ConnectionLost


class Asked:
    """A call that a thread asks for."""

    def __init__(self, client: Threads, pool: ThreadPoolExecutor, call: Call) -> None:
        self.call = call
        self.done: Future[None] = pool.submit(client.ask, call)

    @property
    def id(self) -> str:
        return self.call.names[0]

    def value(self) -> Any:
        self.done.result(SOON_S)
        return self.call.value("shop")

    def is_lost_after_s(self) -> float:
        """Wait until it is told that Redis is not available; return how long that took."""
        watch = Watch()
        with pytest.raises(RedisUnavailable):
            self.done.result(SOON_S)
        return watch.stop()


class Client:
    """One client, its server, and threads that ask for one call each."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.threads = Threads(server.connector(), COMMANDS)
        self.pool = ThreadPoolExecutor(32)

    def begin(
        self, *ids: int, timeout_s: float = 20.0, on_lost: OnLost = "wait", **how: Any
    ) -> Asked:
        """Ask in a thread."""
        call = a_call(*ids, timeout_s=timeout_s, on_lost=on_lost, began=time.monotonic(), **how)
        return Asked(self.threads, self.pool, call)

    def ask(self, *ids: int, **how: Any) -> Asked:
        """Ask in a thread, and return when this call has been queued, whatever else arrives."""
        asked = self.begin(*ids, **how)
        self.server.until(lambda: set(asked.call.names) & set(self.server.queued))
        return asked

    def hit(self) -> None:
        """Ask and be answered."""
        asked = self.ask()
        self.server.answer(asked.id)
        assert asked.value() == 7

    def is_empty(self) -> bool:
        core = self.threads._core
        locks = (self.threads._reading, self.threads._sender)
        return not (
            core.pending.size or self.threads._sender.outbox
            or self.threads._to_close or any(lock.locked for lock in locks)
        )  # fmt: skip


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    client = Client(server)
    yield client
    server.auto = "hit"
    server.refuse.clear()
    server.go_on()
    server.cut()
    client.pool.shutdown()
    assert client.is_empty()
    client.threads.close()
    server.until(lambda: not server.open)


# --- who reads, who sends ---


def test_one_who_is_alone_sends_and_reads_over_one_connection(
    client: Client, server: ScriptedServer
) -> None:
    for _ in range(3):
        client.hit()
    assert server.made == 1


def test_all_who_ask_side_by_side_use_one_connection(
    client: Client, server: ScriptedServer
) -> None:
    asked = [client.ask() for _ in range(8)]
    for one in [*reversed(asked[1:]), asked[0]]:
        server.answer(one.id)
        assert one.value() == 7
    assert server.made == 1


def test_a_reader_with_its_own_answer_hands_its_place_on(
    client: Client, server: ScriptedServer
) -> None:
    asked = [client.ask() for _ in range(6)]
    for one in asked:
        server.answer(one.id)
        assert one.value() == 7


def test_the_place_is_not_left_by_one_whose_time_is_over(
    client: Client, server: ScriptedServer
) -> None:
    hasty = client.ask(timeout_s=0.1)
    patient = client.ask()
    hasty.done.result(SOON_S)
    assert hasty.call.left == 1
    server.answer(patient.id)
    assert patient.value() == 7


def test_one_who_waits_for_many_answers_goes_on_reading(
    client: Client, server: ScriptedServer
) -> None:
    many = client.begin(1, 2, 3)
    server.routed(3)
    one = client.ask(4)
    (group,) = many.call.groups
    server.answer_group(group, 0, 2)
    server.answer(one.id)
    assert one.value() == 7
    server.answer_group(group, 1, node="n2")
    many.done.result(SOON_S)
    assert many.call.left == 0


def test_an_answer_that_is_kept_is_fetched(client: Client, server: ScriptedServer) -> None:
    asked = client.ask()
    key = COMMANDS.keys.answer(asked.id)
    server.kept[key.encode()] = f"{asked.id} miss 0 0 1 n1 {'9' * 70_000}".encode()
    server.publish(f"{asked.id} kept 70050 {key}".encode())
    asked.done.result(SOON_S)
    assert asked.call.left == 0
    assert len(server.calls("GET")) == 1


def test_answers_of_runs_are_removed_at_the_server(client: Client, server: ScriptedServer) -> None:
    server.auto = "miss"
    for id in range(65):
        client.begin(id).value()
    server.until(lambda: len(server.kept) <= 1)
    assert len(server.calls("UNLINK")) == 1


# --- refusals ---


@pytest.mark.parametrize("reason", ["OOM no", "NOPERM no"])
def test_a_refusal_ends_its_call_alone(client: Client, server: ScriptedServer, reason: str) -> None:
    other = client.ask()
    server.refuse = [reason]
    with pytest.raises(RedisUnavailable, match=reason):
        client.begin().value()
    server.answer(other.id)
    assert other.value() == 7
    assert server.made == 1


def test_a_server_that_loads_is_waited_for(client: Client, server: ScriptedServer) -> None:
    server.refuse = ["LOADING wait", "LOADING wait"]
    server.auto = "hit"
    assert client.begin().value() == 7


def test_unknown_functions_are_loaded(client: Client, server: ScriptedServer) -> None:
    server.refuse = ["ERR Function not found"]
    client.hit()
    assert server.names() == ["route", "FUNCTION", "route"]


def test_a_server_that_is_no_primary_any_more_is_left_by_all(
    client: Client, server: ScriptedServer
) -> None:
    asked = [client.ask() for _ in range(3)]
    server.refuse = ["READONLY no"]
    server.auto = "miss"
    asked.append(client.begin())
    assert [one.value() for one in asked] == [7] * 4
    assert server.made >= 2
    assert set(server.queued.values()) == {1}


def test_a_server_that_is_too_old_is_told_to_whoever_asks(
    client: Client, server: ScriptedServer
) -> None:
    server.version = "6.2.0"
    with pytest.raises(ConfigError, match=r"6\.2\.0: rqproc needs Redis 7\.0"):
        client.begin().value()


# --- what goes wrong with the connection ---


def test_everyone_asks_again_after_a_cut_and_nothing_is_queued_twice(
    client: Client, server: ScriptedServer
) -> None:
    asked = [client.ask(id) for id in range(5)]
    ids = [one.id for one in asked]
    with server.changed:  # some may have asked again by themselves: a nudge
        server.log.clear()
        server.cut()
    server.until(lambda: len(_asked_again(server)) >= 5)
    assert sorted(_asked_again(server)) == sorted(ids)
    names = server.names()
    assert names.index("fence") < names.index("route")
    assert len(server.channels) == 2
    for id in ids:
        server.answer(id)
    assert [one.value() for one in asked] == [7] * 5
    assert set(server.queued.values()) == {1}


def _asked_again(server: ScriptedServer) -> list[str]:
    return [id for call in server.calls("route") if call[8] == b"again" for id in sent_ids(call)]


def test_a_packet_that_comes_late_is_not_queued_again(
    client: Client, server: ScriptedServer
) -> None:
    """Its connection is lost: what it carried was asked for again, and answered."""
    client.hit()
    server.stall()
    asked = client.begin(2)
    server.until(lambda: server.late)
    with server.changed:
        server.cut()
        server.go_on()
    server.routed(2)
    server.answer(asked.id)
    assert asked.value() == 7
    server.deliver_late()
    assert set(server.queued.values()) == {1}


def test_a_server_that_cannot_be_reached_at_first_is_connected_to_again(
    client: Client, server: ScriptedServer
) -> None:
    server.closes = 3
    server.auto = "hit"
    assert [one.value() for one in [client.begin() for _ in range(3)]] == [7] * 3


def test_a_call_that_no_connection_has_carried_is_sent_as_a_new_one(
    client: Client, server: ScriptedServer
) -> None:
    server.closes = 1
    client.hit()
    assert _asked_again(server) == []
    assert "fence" not in server.names()


def test_a_server_that_stands_still_is_noticed(client: Client, server: ScriptedServer) -> None:
    client.hit()
    server.stall()
    began = time.monotonic()
    asked = client.begin(2)
    server.until(lambda: server.made > 1)
    assert time.monotonic() - began >= GRACE_S * 0.9
    server.go_on()
    server.cut()
    server.auto = "hit"
    assert asked.value() == 7


def test_a_new_packet_after_a_long_rest_is_given_its_time(
    client: Client, server: ScriptedServer
) -> None:
    """Even where something else goes before it: that was not said before the rest either."""
    client.hit()
    client.threads._sender.silent_since -= 1000.0
    for _ in range(64):
        client.threads._core.pending.stored.has_read(b"x", 1)
    server.stall()
    began = time.monotonic()
    asked = client.begin(2, timeout_s=4.0)
    server.until(lambda: server.made > 1)
    assert time.monotonic() - began >= GRACE_S * 0.9
    server.go_on()
    server.cut()
    server.auto = "hit"
    assert asked.value() == 7


@pytest.mark.parametrize("readers", [0, 1])
def test_who_does_not_want_to_wait_notices_that_the_server_stands_still_by_itself(
    client: Client, server: ScriptedServer, readers: int
) -> None:
    """Whoever reads for it may have more patience."""
    client.hit()
    for _ in range(readers):
        client.ask(3)
    server.stall()
    hasty = client.begin(2, timeout_s=1.6, on_lost="error")
    assert hasty.is_lost_after_s() < 1.6 / 2 + 0.3


def test_who_does_not_want_to_wait_is_not_held_up_by_one_who_connects(
    client: Client, server: ScriptedServer
) -> None:
    server.stall()
    client.begin(3)
    server.until(lambda: server.made)
    hasty = client.begin(2, timeout_s=1.0, on_lost="error")
    assert hasty.is_lost_after_s() < 0.8


def test_who_does_not_want_to_wait_is_not_held_up_by_those_who_connect_again(
    client: Client, server: ScriptedServer
) -> None:
    client.hit()
    server.stall()
    for id in range(4, 12):  # one of them is likely to be the first
        client.begin(id)
    hasty = client.begin(2, timeout_s=1.6, on_lost="error")
    server.until(lambda: any(_asks_for(2, command) for command in server.late))
    server.cut()
    assert hasty.is_lost_after_s() < 1.6 / 2 + 0.3


def _asks_for(id: int, command: list[bytes]) -> bool:
    asked = sent_ids(command) if name_of(command) == "route" else ()
    return any(one.endswith(f"-{id}") for one in asked)


def test_a_reply_that_is_found_when_time_is_over_may_have_come_long_before(
    client: Client, server: ScriptedServer
) -> None:
    """It is too short to wake anybody: who is in a hurry knows no later for it."""
    client.hit()
    unread = a_call(3, timeout_s=20.0, began=time.monotonic())
    client.threads._core.pending.calls[unread] = sys._getframe()
    client.threads._sender.outbox[unread] = first_look(unread)
    client.threads._sender.flush(unread)
    server.routed(2)
    server.stall()
    hasty = client.begin(2, timeout_s=1.6, on_lost="error")
    assert hasty.is_lost_after_s() < 1.6 / 4 + 0.3
    client.threads._leave(unread)


def test_whose_time_is_over_before_it_may_send_is_told_so_in_time(
    client: Client, server: ScriptedServer
) -> None:
    server.stall()
    client.begin(3)
    server.until(lambda: server.made)
    watch = Watch()
    with pytest.raises(RqprocError):
        client.begin(2, timeout_s=0.1).value()
    assert watch.stop() < 0.5


# --- interrupted ---


@pytest.mark.parametrize("where", ["take", "send"])
def test_one_who_is_interrupted_leaves_the_others_answered(
    client: Client, server: ScriptedServer, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.hit()
    other = client.ask(2)
    while not client.threads._reading.locked:
        time.sleep(0.001)
    line = client.threads._sender.line
    assert line
    real: Callable[..., Any] = getattr(line.connection, where)

    def interrupted(*args: Any, **options: Any) -> Any:
        if threading.get_ident() == hit.get("thread"):
            raise KeyboardInterrupt
        return real(*args, **options)

    hit: dict[str, int] = {}
    monkeypatch.setattr(line[0], where, interrupted)

    def ask_here() -> None:
        hit["thread"] = threading.get_ident()
        client.threads.ask(a_call(3, timeout_s=20.0, began=time.monotonic()))

    asked = client.pool.submit(ask_here)
    if where == "take":
        server.routed(3)
        server.answer(other.id)  # it hands its place to the other one
        assert other.value() == 7
    with pytest.raises(KeyboardInterrupt):
        asked.result(SOON_S)
    server.auto = "miss"
    if where == "send":
        assert other.value() == 7
    assert client.begin(4).value() == 7
    server.until(lambda: server.open == 1)


# --- the end ---


def test_a_closed_client_has_no_connection_and_may_be_used_again(
    client: Client, server: ScriptedServer
) -> None:
    client.hit()
    client.threads.close()
    server.until(lambda: not server.open)
    client.hit()


def test_a_client_that_is_closed_in_use_closes_when_its_last_caller_has_gone(
    client: Client, server: ScriptedServer
) -> None:
    first, second = client.ask(1), client.ask(2)
    client.threads.close()
    server.answer(first.id)
    assert first.value() == 7
    assert server.open == 1
    server.answer(second.id)
    assert second.value() == 7
    server.until(lambda: not server.open)
    assert server.made == 1


def test_a_forked_child_begins_anew(client: Client, server: ScriptedServer) -> None:
    client.hit()
    parents = client.threads._sender.line
    assert parents
    client.threads._sender._lock.acquire()  # as another thread of the parent may have
    client.threads._reading.acquire()
    name = client.threads._core.channels()
    client.threads.forget_parent()
    client.hit()
    assert client.threads._core.channels() != name
    assert server.open == 2, "the parent's is left alone"
    parents.connection.close()


# --- many ---


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_left_waiting_without_a_reader(
    client: Client, server: ScriptedServer, seed: int
) -> None:
    """Calls are answered in any order, some of them together; nobody has to ask again."""
    stop = threading.Event()

    def serve() -> None:
        random = Random(seed)
        while not stop.is_set():
            with server.changed:
                server.changed.wait_for(lambda: stop.is_set() or server._known, 0.1)
                todo = random.sample(sorted(server._known), min(len(server._known), 3))
                server._known -= set(todo)
                for id in todo:
                    server.answer(id, source="miss")

    watch = Watch()

    def hammer(number: int) -> float:
        slowest_s = 0.0
        for _ in range(40):
            began = watch.s
            call = a_call(*range(1, 2 + number % 3), timeout_s=20.0, began=time.monotonic())
            client.threads.ask(call)
            assert call.left == 0
            slowest_s = max(slowest_s, watch.s - began)
        return slowest_s

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        slowest_s = max(client.pool.map(hammer, range(24)))
    finally:
        stop.set()
        serving.join()
        watch.stop()
    assert slowest_s < NUDGE_S * 0.9
    assert set(server.queued.values()) == {1}


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_cut_and_late_all_are_answered_and_nothing_is_queued_twice(
    client: Client, server: ScriptedServer, seed: int
) -> None:
    server.auto = "miss"
    stop = threading.Event()

    def harm() -> None:
        random = Random(seed)
        rest_s = 0.02
        for turn in count():
            if stop.wait(random.uniform(rest_s / 4, rest_s)):
                return
            rest_s *= 1.01  # on a busy machine, too, something gets through in the end
            if turn % 2:
                _something_gets_through(server, stop)
            server.stall()
            stop.wait(0.002)
            server.cut()
            server.go_on()
            server.deliver_late()

    def hammer(number: int) -> bool:
        for _ in range(15):
            call = a_call(number, timeout_s=20.0, began=time.monotonic())
            client.threads.ask(call)
            if call.left:
                return False
        return True

    harming = threading.Thread(target=harm)
    harming.start()
    try:
        assert all(client.pool.map(hammer, range(16)))
    finally:
        stop.set()
        harming.join()
    server.deliver_late()
    assert set(server.queued.values()) == {1}
    assert client.is_empty()


def _something_gets_through(server: ScriptedServer, stop: threading.Event) -> None:
    """Wait for that, but not for long: nobody may have anything to say just now."""
    with server.changed:
        before = len(server.log)
        server.changed.wait_for(lambda: stop.is_set() or len(server.log) > before, 0.5)


def test_thousands_of_calls_that_are_not_answered_leave_nothing(
    client: Client, server: ScriptedServer
) -> None:
    def hammer(number: int) -> None:
        for _ in range(40):
            client.threads.ask(a_call(number, timeout_s=0.002, began=time.monotonic()))

    list(client.pool.map(hammer, range(16)))
    assert client.is_empty()
    assert not client.threads._core.pending.stored.is_due
    client.hit()


def test_a_lost_connection_without_an_error_for_a_caller_is_told_by_its_reader(
    client: Client,
) -> None:
    """It must not look again and again for what cannot come."""
    call = a_call(began=time.monotonic())
    call.names = ("r0-c0-1-price-1",)  # it has been sent
    with pytest.raises(ConnectionLost):
        client.threads._look(call, Look(5.0, GRACE_S))
