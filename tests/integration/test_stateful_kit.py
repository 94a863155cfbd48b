"""Stateful ids in the test kit, by its clock, and without a server."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from integration.kit import eventually

from rqproc import App, asave, current, save
from rqproc.errors import ConfigError, HandlerFailed
from rqproc.testing import LocalCluster

app = App()
closed: list[tuple[Any, Any]] = []


@app.stateful(idle=30)
class Account:
    def __init__(self, id: Any, state: Any = None) -> None:
        self.id = id
        self.balance: int = state or 0

    def deposit(self, amount: int, *, keep: bool = False) -> int:
        self.balance += amount
        if keep:
            save(self.balance)
        return self.balance

    def where(self) -> str:
        return current().node

    def close(self) -> int:
        closed.append((self.id, self.balance))
        return self.balance


@app.stateful(idle=30)
class Counter:
    def __init__(self, id: Any, state: int | None = None) -> None:
        self.count = state or 0

    async def add(self, *, keep: bool = False) -> int:
        self.count += 1
        await asyncio.sleep(0.5)
        if keep:
            await asave(self.count)
        return self.count

    async def close(self) -> int:
        await asyncio.sleep(0.5)
        return self.count


@pytest.fixture(autouse=True)
def nothing_closed() -> None:
    closed.clear()


def test_an_object_is_closed_when_it_was_idle_and_no_sooner() -> None:
    with LocalCluster(app, nodes=1) as cluster:
        assert Account.at(42).deposit(5) == 5
        cluster.advance(29)
        assert Account.at(42).deposit(1) == 6
        cluster.advance(29)
        assert closed == []
        cluster.advance(2)
        assert closed == [(42, 6)]
        assert cluster.request(Account, 42, "deposit", 1) == 7
        cluster.assert_serial()


def test_a_state_moves_with_its_id() -> None:
    with LocalCluster(app, nodes=2) as cluster:
        for amount in (5, 1):
            Account.at(42).deposit(amount)
        cluster.leave(Account.at(42).where())
        assert closed == [(42, 6)]
        assert Account.at(42).deposit(1) == 7
        for _ in range(2):
            cluster.join()
        cluster.advance(1)
        assert Account.at(42).deposit(1) == 8
        cluster.assert_serial()


def test_of_a_killed_node_all_is_lost_since_the_last_save() -> None:
    with LocalCluster(app, nodes=2) as cluster:
        Account.at(42).deposit(5, keep=True)
        Account.at(42).deposit(1)
        cluster.kill(Account.at(42).where())
        assert Account.at(42).deposit(0) == 5


def test_a_paused_nodes_state_never_overwrites_that_of_the_next_owner() -> None:
    with LocalCluster(app, nodes=2) as cluster:
        Account.at(42).deposit(5, keep=True)
        Account.at(42).deposit(100)
        paused = Account.at(42).where()
        cluster.pause(paused)
        cluster.advance(6)
        assert Account.at(42).deposit(1) == 6
        cluster.resume(paused)
        cluster.advance(6)
        assert (42, 105) in closed
        assert Account.at(42).deposit(1) == 7


def test_a_state_survives_a_server_that_is_out_when_an_object_is_closed() -> None:
    with LocalCluster(app, nodes=1) as cluster:
        Account.at(42).deposit(5)
        with cluster.hold(Account, 42) as held:
            cluster.advance(31)
            held.wait()
            cluster.redis_down()
        cluster.advance(3)
        assert closed == [(42, 5)]
        cluster.redis_up()
        cluster.advance(3)
        assert Account.at(42).deposit(1) == 6


def test_lost_replies_lose_no_call_and_run_none_twice() -> None:
    with LocalCluster(app, nodes=2) as cluster:
        total = 0
        for turn in range(12):
            owner = cluster.owner(42)
            assert owner
            for name in ("client", owner):
                cluster.lose_reply(name)
                total += 1
                assert Account.at(42).deposit(1) == total
            if turn % 4 == 3:
                cluster.leave(owner)
                cluster.join()
        cluster.assert_serial()


def test_past_their_number_the_least_recently_used_object_is_closed() -> None:
    with LocalCluster(app, nodes=1, max_entries=2) as cluster:
        for id in (1, 2, 1, 3):
            Account.at(id).deposit(id)
        cluster.advance(0.5)
        assert closed == [(2, 2)]
        assert Account.at(2).deposit(0) == 2


def test_coroutines_have_states_too() -> None:
    with LocalCluster(app, nodes=2) as cluster:
        assert asyncio.run(Counter.acall(1, "add")) == 1
        assert Counter.call(1, "add", keep=True) == 2
        assert Counter.call(1, "add") == 3
        cluster.advance(31)
        assert Counter.call(1, "add") == 4
        owner = cluster.owner(1)
        assert owner
        cluster.kill(owner)
        assert Counter.call(1, "add") == 4, "what was kept when it was idle, and one"
        cluster.assert_serial()


# --- without a server ---


def test_without_a_server_a_state_lives_as_long_as_its_place() -> None:
    with app.at("local://"):
        assert [Account.at(42).deposit(5) for _ in range(2)] == [5, 10]
        assert Account.call(42, "close") == 10
        assert Account.at(42).deposit(1) == 11
        assert asyncio.run(Counter.acall(1, "add")) == 1
    assert closed == [(42, 10), (42, 11)], "its end closes what is open"
    with app.at("local://"):
        assert Account.at(42).deposit(1) == 1


def test_without_a_server_an_idle_object_is_closed() -> None:
    brief = App()
    gone = threading.Event()

    @brief.stateful(idle=0.1)
    class Brief:
        def __init__(self, id: Any, state: Any = None) -> None:
            self.state = state

        def get(self) -> Any:
            return self.state

        def close(self) -> str:
            gone.set()
            return "kept"

    with brief.at("local://"):
        assert Brief.at(1).get() is None
        assert gone.wait(10)
        eventually(lambda: Brief.at(1).get() == "kept")


# --- declaring ---


def test_called_directly_a_class_makes_an_ordinary_object() -> None:
    account = Account(42, 7)
    assert account.deposit(1) == 8
    assert Account(42).balance == 0
    with pytest.raises(LookupError, match="methods of stateful ids"):
        account.deposit(1, keep=True)


def test_what_is_no_method_is_refused_before_it_is_sent() -> None:
    for name in ("balance", "_secret", "depositt"):
        with pytest.raises(AttributeError, match="close, deposit, where"):
            getattr(Account.at(42), name)


class NoState:
    def __init__(self, id: Any) -> None: ...
    def get(self) -> None: ...


class NoMethods:
    def __init__(self, id: Any, state: Any = None) -> None: ...


class OddClose:
    def __init__(self, id: Any, state: Any = None) -> None: ...
    def close(self, how: str) -> None: ...


@pytest.mark.parametrize(
    ("cls", "options", "says"),
    [
        (NoState, {"idle": 1}, "__init__"),
        (NoMethods, {"idle": 1}, "no methods"),
        (OddClose, {"idle": 1}, "close"),
        (Account.kind.cls, {"idle": 0}, "idle=0"),
        (Account.kind.cls, {"idle": 604801}, "up to a week"),
        (Account.kind.cls, {"idle": 1, "name": "no name"}, "no name"),
        (Account.kind.cls, {"idle": 1, "timeout": 0}, "timeout"),
        (Account.kind.cls, {"idle": 1, "on_lost": "local"}, "one object each"),
        (len, {"idle": 1}, "not a class"),
    ],
)
def test_a_class_that_cannot_be_served_is_refused(
    cls: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        App().stateful(**options)(cls)


def test_no_caller_makes_an_object_of_its_own_where_no_node_can_answer() -> None:
    with LocalCluster(app, nodes=0), pytest.raises(ConfigError, match="one object"):
        Account.with_options(on_lost="local").at(42).deposit(5)


def test_an_error_of_a_method_is_its_callers() -> None:
    with LocalCluster(app, nodes=1), pytest.raises(HandlerFailed, match="TypeError"):
        Account.call(42, "deposit")
