"""Stateful ids on real nodes: one object per id, one call at a time, its state handed on."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from rq import Queue

from rqproc.errors import HandlerFailed, HandlerTimeout

BANK = "bank:app"


class Bank:
    """What tests ask of the app's classes."""

    def __init__(self, cluster: Cluster, book: Book) -> None:
        self.cluster = cluster
        self._book = book

    def start(self, *names: str, options: tuple[str, ...] = kit.PATIENT) -> None:
        self.cluster.start(*names, options=options, app=BANK)

    def call(self, id: int, method: str, *args: Any, of: str = "Account") -> Any:
        return self.cluster.client.request(id, of, args=(method, *args))

    def log(self, id: int, of: str = "Account") -> list[tuple[str, ...]]:
        return [tuple(entry) for entry in self._book.log(of, id)]

    def closed(self, id: int, of: str = "Account", *, times: int = 1) -> None:
        """Wait until its object was closed, and its id is let go."""

        def holder() -> str | None:
            (found,) = self.cluster.client.locate([id], of)
            return found.holder

        def is_closed() -> bool:
            closed = [what for what, *_ in self.log(id, of) if what == "closed"]
            return len(closed) >= times and holder() is None

        kit.eventually(is_closed, what="an object that is closed")


@pytest.fixture
def bank(cluster: Cluster, book: Book) -> Bank:
    return Bank(cluster, book)


def test_one_object_has_all_calls_of_an_id_one_at_a_time(bank: Bank, ids: Fresh) -> None:
    bank.start("a", "b", "c")
    asked = ids(3)
    with ThreadPoolExecutor(12) as pool:
        told = {id: [pool.submit(bank.call, id, "deposit", 1) for _ in range(20)] for id in asked}
    for id, calls in told.items():
        assert sorted(call.result() for call in calls) == list(range(1, 21)), "each call runs once"
        assert [what for what, *_ in bank.log(id)] == ["made"]


def test_an_object_that_is_idle_is_closed_and_the_next_one_has_its_state(
    bank: Bank, ids: Fresh
) -> None:
    bank.start("a")
    (id,) = ids(1)
    assert bank.call(id, "deposit", 5, of="Brief") == 5
    bank.closed(id, "Brief")
    assert bank.call(id, "deposit", 1, of="Brief") == 6
    assert bank.log(id, "Brief")[:3] == [
        ("made", "0", "a"),
        ("closed", "5", "a"),
        ("made", "5", "a"),
    ]


def test_calls_keep_an_object_from_being_idle(bank: Bank, ids: Fresh) -> None:
    bank.start("a")
    (id,) = ids(1)
    for total in range(1, 40):
        assert bank.call(id, "deposit", 1, of="Brief") == total
    made = [what for what, *_ in bank.log(id, "Brief")]
    assert made.count("closed") <= 1, "unless this machine slept for that long"


def test_a_node_that_joins_takes_over_ids_with_their_state(bank: Bank, ids: Fresh) -> None:
    bank.start("a")
    moves, stays = ids(1, of=1, modulo=2) + ids(1, of=0, modulo=2)
    for id in (moves, stays):
        assert bank.call(id, "deposit", 5) == 5
    bank.start("b")
    bank.closed(moves)
    assert bank.call(moves, "deposit", 1) == bank.call(stays, "deposit", 1) == 6
    assert bank.log(moves) == [("made", "0", "a"), ("closed", "5", "a"), ("made", "5", "b")]
    assert bank.log(stays) == [("made", "0", "a")]


def test_no_deposit_is_lost_while_members_come_and_go(bank: Bank, ids: Fresh) -> None:
    bank.start("a", "b")
    asked = ids(6)
    with ThreadPoolExecutor(6) as pool:

        def deposit(id: int) -> list[int]:
            return [bank.call(id, "deposit", 1) for _ in range(60)]

        running = {id: pool.submit(deposit, id) for id in asked}
        bank.start("c")
        assert bank.cluster.nodes["a"].stop() == 0
        told = {id: run.result() for id, run in running.items()}
    assert told == {id: list(range(1, 61)) for id in asked}


def test_a_node_that_drains_closes_its_objects_before_it_leaves(bank: Bank, ids: Fresh) -> None:
    bank.start("a")
    asked = ids(40)
    for id in asked:
        bank.call(id, "deposit", id)
    assert bank.cluster.nodes["a"].stop() == 0
    bank.start("b")
    assert [bank.call(id, "deposit", 1) for id in asked] == [id + 1 for id in asked]
    assert bank.cluster.client.locate([asked[0]], "Account")[0].holder == "b"


def test_the_token_rises_through_a_close(bank: Bank, ids: Fresh) -> None:
    bank.start("a")
    (id,) = ids(1)
    bank.call(id, "close_like", "token", of="Brief")
    last = bank.call(id, "token", of="Brief")
    bank.closed(id, "Brief")
    assert bank.call(id, "deposit", 0, of="Brief") >= last, "what close has as its state"
    assert bank.call(id, "token", of="Brief") > last


def test_a_caller_may_close_an_object_and_the_next_call_makes_another(
    bank: Bank, ids: Fresh
) -> None:
    bank.start("a", "b")
    (id,) = ids(1)
    assert bank.call(id, "close") is None, "there is none"
    bank.call(id, "deposit", 5)
    with ThreadPoolExecutor(2) as pool:
        closed = pool.submit(bank.call, id, "close")
        later = pool.submit(bank.call, id, "deposit", 1)
        assert {closed.result(), later.result()} <= {5, 6}
    assert bank.call(id, "deposit", 1) == 7


@pytest.mark.parametrize(("kind", "says"), [("text", "not JSON"), ("large", "over 1048576")])
def test_a_state_that_cannot_be_kept_is_refused_and_the_old_one_stays(
    bank: Bank, ids: Fresh, kind: str, says: str
) -> None:
    bank.start("a")
    (id,) = ids(1)
    bank.call(id, "deposit_safely", 5, of="Brief")
    with pytest.raises(HandlerFailed, match=f"the state.*{says}"):
        bank.call(id, "save_this", kind, of="Brief")
    bank.call(id, "deposit", 1, of="Brief")
    bank.call(id, "close_like", kind, of="Brief")
    bank.cluster.nodes["a"].says("the handler has failed", since=0)
    bank.closed(id, "Brief")
    assert bank.call(id, "deposit", 0, of="Brief") == 5, "the object is gone with what it did since"


def test_a_state_can_be_taken_back(bank: Bank, ids: Fresh) -> None:
    bank.start("a")
    (id,) = ids(1)
    bank.call(id, "deposit_safely", 5)
    bank.call(id, "save_this", "none")
    bank.cluster.nodes["a"].kill()
    bank.cluster.client.report_death("a", pid=bank.cluster.nodes["a"].pid, host=_host())
    bank.start("b")
    assert bank.call(id, "deposit", 1) == 1


def test_a_close_that_raises_loses_what_came_since_the_last_save_and_nothing_else(
    bank: Bank, ids: Fresh
) -> None:
    bank.start("a")
    (id,) = ids(1)
    bank.call(id, "deposit_safely", 5, of="Brief")
    bank.call(id, "deposit", 1, of="Brief")
    bank.call(id, "close_like", "raises", of="Brief")
    bank.cluster.nodes["a"].says(rf"a Brief {id}: the handler has failed")
    bank.closed(id, "Brief")
    assert bank.call(id, "deposit", 0, of="Brief") == 5


def test_an_id_whose_close_hangs_is_refused_until_it_ends(
    bank: Bank, book: Book, ids: Fresh
) -> None:
    bank.start("a")
    stuck, other = ids(2)
    bank.call(stuck, "deposit", 5, of="Brief")
    bank.call(stuck, "close_like", "hangs", of="Brief")
    bank.cluster.nodes["a"].says("is stuck: it runs for more than 1.5 s")
    with pytest.raises(HandlerTimeout) as caught:
        bank.call(stuck, "deposit", 1, of="Brief")
    assert caught.value.stuck
    assert bank.call(other, "deposit", 1, of="Brief") == 1
    book.release("Brief", stuck)
    bank.closed(stuck, "Brief")
    assert bank.call(stuck, "deposit", 1, of="Brief") == 6


def test_a_coroutine_that_hangs_in_close_is_cancelled(bank: Bank, ids: Fresh) -> None:
    bank.start("a")
    (id,) = ids(1)
    assert [bank.call(id, "add", of="Counter") for _ in range(3)] == [1, 2, 3]
    bank.call(id, "keep", of="Counter")
    bank.call(id, "add", of="Counter")
    bank.call(id, "hang", of="Counter")
    bank.cluster.nodes["a"].says("cancelled while it was closed: its state is lost")
    bank.closed(id, "Counter")
    assert bank.call(id, "add", of="Counter") == 4


def test_coroutines_of_an_object_run_one_at_a_time_and_keep_its_state(
    bank: Bank, ids: Fresh
) -> None:
    bank.start("a", "b")
    (id,) = ids(1)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: bank.call(id, "add", of="Counter"), range(16)))
    assert sorted(told) == list(range(1, 17))
    bank.closed(id, "Counter")
    assert bank.call(id, "add", of="Counter") == 17


def test_an_object_that_cannot_be_made_fails_its_call_and_is_made_by_a_later_one(
    bank: Bank, book: Book, ids: Fresh
) -> None:
    bank.start("a")
    (id,) = ids(1)
    book.redis.set(f"test:broken:{id}", 1)
    for _ in range(2):
        with pytest.raises(HandlerFailed, match="it cannot be made"):
            bank.call(id, "deposit", 1, of="Picky")
    kit.eventually(lambda: bank.cluster.client.locate([id], "Picky")[0].holder is None)
    book.redis.delete(f"test:broken:{id}")
    assert bank.call(id, "deposit", 1, of="Picky") == 1


def test_a_method_that_raises_leaves_the_object_as_it_is(bank: Bank, ids: Fresh) -> None:
    bank.start("a")
    (id,) = ids(1)
    bank.call(id, "deposit", 5)
    with pytest.raises(HandlerFailed, match="ValueError: no"):
        bank.call(id, "fail")
    with pytest.raises(HandlerFailed, match="no method '_private'"):
        bank.call(id, "_private")
    with pytest.raises(HandlerFailed, match="TypeError"):
        bank.cluster.client.request(id, "Account")
    assert bank.call(id, "deposit", 1) == 6


def test_jobs_call_methods_too_between_the_calls(bank: Bank, queue: Queue, ids: Fresh) -> None:
    bank.start("a", "b")
    (id,) = ids(1)
    assert bank.call(id, "deposit", 1) == 1
    by_path = queue.enqueue("bank.Account", id, "deposit", 5)
    kit.ended(by_path)
    assert by_path.return_value() == 6
    by_name = bank.cluster.client.enqueue(id, "Account", args=("deposit", 1))
    kit.ended(by_name)
    assert by_name.return_value() == bank.call(id, "deposit", 0) == 7


def test_calls_from_an_event_loop_meet_in_the_same_object(bank: Bank, ids: Fresh) -> None:
    bank.start("a", "b")
    (id,) = ids(1)

    async def deposit_all() -> list[int]:
        from rqproc import AsyncClient

        async with AsyncClient(bank.cluster.url, namespace=bank.cluster.namespace) as client:
            calls = [client.request(id, "Account", args=("deposit", 1)) for _ in range(20)]
            return list(await asyncio.gather(*calls))

    assert sorted(asyncio.run(deposit_all())) == list(range(1, 21))


def _host() -> str:
    import socket

    return socket.gethostname()
