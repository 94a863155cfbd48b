"""One thread at a time, and a clock that passes when all of them wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rqproc.testing.memory import baton as module
from rqproc.testing.memory.baton import Baton
from rqproc.testing.memory.players import Group


@pytest.fixture
def baton() -> Iterator[Baton]:
    found = Baton()
    yield found
    found.close()


def sleeper(baton: Baton, told: list[str], name: str, *pauses_s: float) -> Callable[[], None]:
    def work() -> None:
        for pause_s in pauses_s:
            baton.sleep(pause_s)
            told.append(f"{name} {baton.now:g}")

    return work


def test_time_passes_only_while_a_guest_waits(baton: Baton) -> None:
    told: list[str] = []
    baton.start(sleeper(baton, told, "a", 1.0), name="a")
    time.sleep(0.05)
    assert told == []
    baton.sleep(2.0)
    assert told == ["a 1"]
    assert baton.now == 2.0


def test_a_day_takes_no_time(baton: Baton) -> None:
    began = time.monotonic()
    baton.sleep(86400.0)
    assert baton.now == 86400.0
    assert time.monotonic() - began < 5.0


def test_threads_go_on_in_the_order_of_their_moments(baton: Baton) -> None:
    told: list[str] = []
    baton.start(sleeper(baton, told, "a", 3.0, 1.0), name="a")
    baton.start(sleeper(baton, told, "b", 1.0, 1.0), name="b")
    baton.sleep(10.0)
    assert told == ["b 1", "b 2", "a 3", "a 4"]


def test_one_thread_plays_at_a_time(baton: Baton) -> None:
    playing: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            playing.append(1)
            most.append(len(playing))
            playing.pop()
            baton.sleep(0.0)

    for _ in range(10):
        baton.start(work, name="one")
    baton.sleep(1.0)
    assert len(most) == 200
    assert set(most) == {1}


def test_to_settle_is_to_wait_until_nobody_has_anything_to_do_now(baton: Baton) -> None:
    told: list[str] = []
    baton.start(sleeper(baton, told, "a", 0.0, 0.0, 5.0), name="a")
    baton.settle()
    assert told == ["a 0", "a 0"]
    assert baton.now == 0.0


def test_time_passes_to_the_next_thing_that_happens(baton: Baton) -> None:
    told: list[str] = []
    baton.start(sleeper(baton, told, "a", 1.5, 9.0), name="a")
    baton.settle()
    baton.let_time_pass()
    assert (told, baton.now) == (["a 1.5"], 1.5)


def test_where_nothing_will_ever_happen_waiting_fails(baton: Baton) -> None:
    baton.enlist()
    with pytest.raises(AssertionError, match="nothing will ever happen"):
        baton.park()
    with pytest.raises(AssertionError, match="nothing will ever happen"):
        baton.let_time_pass()


def test_an_alarm_that_is_taken_back_does_not_ring(baton: Baton) -> None:
    rung: list[float] = []
    baton.at(1.0, lambda: rung.append(baton.now)).cancel()
    baton.at(2.0, lambda: rung.append(baton.now))
    baton.sleep(3.0)
    assert rung == [2.0]


def test_a_paused_group_goes_on_where_it_was(baton: Baton) -> None:
    told: list[str] = []
    group = Group("node")
    baton.start(sleeper(baton, told, "a", 1.0, 1.0), name="a", group=group)
    baton.sleep(1.5)
    group.paused = True
    baton.sleep(10.0)
    assert told == ["a 1"]
    baton.resume(group)
    baton.settle()
    assert told == ["a 1", "a 11.5"]


def test_a_killed_group_plays_no_more(baton: Baton) -> None:
    told: list[str] = []
    group = Group("node")
    baton.start(sleeper(baton, told, "a", 1.0, 1.0), name="a", group=group)
    baton.sleep(1.5)
    baton.kill(group)
    baton.sleep(10.0)
    assert told == ["a 1"]


def test_threads_are_of_the_group_that_started_them(baton: Baton) -> None:
    found: list[str] = []
    group = Group("node")
    baton.start(
        lambda: baton.start(lambda: found.append(baton.group.name), name="child"),
        name="parent",
        group=group,
    )
    baton.settle()
    assert found == ["node"]
    assert baton.group.name == "client"


def test_a_closed_baton_leaves_no_thread_behind(baton: Baton) -> None:
    before = threading.active_count()
    for _ in range(5):
        baton.start(lambda: baton.sleep(100.0), name="a")
    baton.settle()
    assert threading.active_count() == before + 5
    baton.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="has ended"):
        baton.sleep(1.0)


def test_an_error_of_a_thread_is_kept(baton: Baton) -> None:
    def work() -> None:
        raise KeyError("lost")

    baton.start(work, name="a", group=Group("node"))
    baton.settle()
    ((name, error),) = baton.crashes
    assert name == "node"
    assert isinstance(error, KeyError)


def test_a_thread_that_blocks_unseen_is_named_with_its_stack(
    baton: Baton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STANDSTILL_S", 0.3)
    gate = threading.Event()
    baton.start(gate.wait, name="a", group=Group("node-7"))
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"(?s)a thread of node-7 has blocked.*self\._cond"):
        baton.settle()
    assert time.monotonic() - began < 5.0
    gate.set()


def test_time_waits_for_guests_that_are_at_work(
    baton: Baton, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. One waits for a minute. 2. Another is about to ask, and does so before time passes."""
    monkeypatch.setattr(module, "GUESTS_S", 1.0)
    baton.settle()
    asked_at: list[float] = []
    settled = threading.Event()

    def ask() -> None:
        baton.settle()
        settled.set()
        time.sleep(0.2)  # what the baton does not see
        baton.settle()
        asked_at.append(baton.now)

    other = threading.Thread(target=ask)
    other.start()
    assert settled.wait(5.0)
    baton.sleep(60.0)
    other.join()
    assert asked_at == [0.0]
