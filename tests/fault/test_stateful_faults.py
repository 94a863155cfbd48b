"""Stateful ids on nodes that a test kills or pauses: what is lost of them, and what not."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from integration.test_stateful import Bank

BRISK = kit.BRISK


@pytest.fixture
def bank(cluster: Cluster, book: Book) -> Bank:
    return Bank(cluster, book)


def _pause(bank: Bank, name: str) -> None:
    """Stop a node until its lease has run out."""
    bank.cluster.nodes[name].signal(signal.SIGSTOP)
    kit.eventually(lambda: name not in bank.cluster.client.members(), within_s=10)


def _go_on(bank: Bank, name: str) -> None:
    bank.cluster.nodes[name].signal(signal.SIGCONT)
    kit.eventually(lambda: name in bank.cluster.client.members(), within_s=10)


def test_of_a_killed_node_all_is_lost_since_the_last_save(bank: Bank, ids: Fresh) -> None:
    bank.start("a", "b", options=kit.SHORT)
    saved, never = ids(2, of=0, modulo=2)
    bank.call(saved, "deposit_safely", 5)
    for id in (saved, never):
        bank.call(id, "deposit", 1)
    bank.cluster.nodes["a"].kill()
    assert bank.call(saved, "deposit", 0) == 5
    assert bank.call(never, "deposit", 0) == 0
    assert bank.log(saved) == [("made", "0", "a"), ("made", "5", "b")]


def test_a_node_with_idle_objects_that_dies_again_and_again_is_blamed_for_none(
    bank: Bank, ids: Fresh
) -> None:
    bank.start("a", "b", "c", "d", options=BRISK)
    (id,) = ids(1)
    for _ in range(3):
        bank.call(id, "deposit_safely", 1)
        kit.eventually(lambda: bank.cluster.client.locate([id], "Account")[0].holder)
        dead = bank.cluster.client.owner(id)
        bank.cluster.nodes[dead].kill()
        kit.eventually(lambda dead=dead: bank.cluster.client.owner(id) != dead, within_s=10)
    assert bank.call(id, "deposit_safely", 1) == 4


def test_a_paused_nodes_state_is_kept_where_nobody_has_taken_it_meanwhile(
    bank: Bank, ids: Fresh
) -> None:
    bank.start("a", "b", options=BRISK)
    (id,) = ids(1, of=0, modulo=2)
    bank.call(id, "deposit", 5)
    _pause(bank, "a")
    _go_on(bank, "a")
    bank.closed(id)
    assert bank.call(id, "deposit", 1) == 6


def test_a_paused_nodes_state_never_overwrites_that_of_the_next_owner(
    bank: Bank, ids: Fresh
) -> None:
    bank.start("a", "b", options=BRISK)
    (id,) = ids(1, of=0, modulo=2)
    bank.call(id, "deposit_safely", 5)
    bank.call(id, "deposit", 100)
    _pause(bank, "a")
    assert bank.call(id, "deposit", 1) == 6, "on b"
    _go_on(bank, "a")
    bank.cluster.nodes["a"].says("StateSuperseded")
    kit.eventually(lambda: ("closed", "105", "a") in bank.log(id))
    bank.closed(id, times=2)
    assert ("closed", "6", "b") in bank.log(id), "handed back to a"
    assert bank.call(id, "deposit", 1) == 7
    assert bank.log(id)[-1] == ("made", "6", "a")


def test_a_paused_method_cannot_save_what_the_next_owner_has_taken(
    bank: Bank, book: Book, ids: Fresh
) -> None:
    bank.start("a", "b", options=BRISK)
    (id,) = ids(1, of=0, modulo=2)
    bank.call(id, "deposit_safely", 5)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(bank.call, id, "deposit_at_the_gate", 100)
        kit.eventually(lambda: ("waits", "100", "a") in bank.log(id))
        _pause(bank, "a")
        kit.eventually(lambda: ("waits", "100", "b") in bank.log(id), what="the call on b")
        book.release("Account", id, on="b")
        assert asked.result() == 105
        _go_on(bank, "a")
        book.release("Account", id, on="a")
        bank.cluster.nodes["a"].says("StateSuperseded")
    bank.closed(id, times=2)
    assert bank.call(id, "deposit", 1) == 106


def test_a_node_that_cannot_close_in_time_when_it_drains_leaves_the_state_that_was_saved(
    bank: Bank, book: Book, ids: Fresh
) -> None:
    bank.start("a", "b", options=BRISK)
    (id,) = ids(1, of=0, modulo=2)
    bank.call(id, "deposit_safely", 5, of="Brief")
    bank.call(id, "close_like", "hangs", of="Brief")
    bank.cluster.nodes["a"].signal(signal.SIGTERM)
    bank.cluster.nodes["a"].says("is stuck")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(bank.call, id, "deposit", 1, of="Brief")
        kit.eventually(lambda: sum(n.queued for n in bank.cluster.client.membership().nodes))
        bank.cluster.nodes["a"].kill()
        assert asked.result() == 6
    assert bank.log(id, "Brief")[-1] == ("made", "5", "b")
