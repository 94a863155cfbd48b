"""One thread at a time, and a clock that passes when all of them wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rqproc.testing.memory import simulation as module
from rqproc.testing.memory.participants import Group
from rqproc.testing.memory.simulation import Simulation


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    found = Simulation()
    yield found
    found.close()


def sleeper(
    simulation: Simulation, told: list[str], name: str, *pauses_s: float
) -> Callable[[], None]:
    def work() -> None:
        for pause_s in pauses_s:
            simulation.sleep(pause_s)
            told.append(f"{name} {simulation.now:g}")

    return work


def test_time_passes_only_while_a_guest_waits(simulation: Simulation) -> None:
    told: list[str] = []
    simulation.start(sleeper(simulation, told, "a", 1.0), name="a")
    time.sleep(0.05)
    assert told == []
    simulation.sleep(2.0)
    assert told == ["a 1"]
    assert simulation.now == 2.0


def test_a_day_takes_no_time(simulation: Simulation) -> None:
    began = time.monotonic()
    simulation.sleep(86400.0)
    assert simulation.now == 86400.0
    assert time.monotonic() - began < 5.0


def test_threads_go_on_in_the_order_of_their_moments(simulation: Simulation) -> None:
    told: list[str] = []
    simulation.start(sleeper(simulation, told, "a", 3.0, 1.0), name="a")
    simulation.start(sleeper(simulation, told, "b", 1.0, 1.0), name="b")
    simulation.sleep(10.0)
    assert told == ["b 1", "b 2", "a 3", "a 4"]


def test_one_thread_plays_at_a_time(simulation: Simulation) -> None:
    playing: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            playing.append(1)
            most.append(len(playing))
            playing.pop()
            simulation.sleep(0.0)

    for _ in range(10):
        simulation.start(work, name="one")
    simulation.sleep(1.0)
    assert len(most) == 200
    assert set(most) == {1}


def test_to_settle_is_to_wait_until_nobody_has_anything_to_do_now(simulation: Simulation) -> None:
    told: list[str] = []
    simulation.start(sleeper(simulation, told, "a", 0.0, 0.0, 5.0), name="a")
    simulation.settle()
    assert told == ["a 0", "a 0"]
    assert simulation.now == 0.0


def test_time_passes_to_the_next_thing_that_happens(simulation: Simulation) -> None:
    told: list[str] = []
    simulation.start(sleeper(simulation, told, "a", 1.5, 9.0), name="a")
    simulation.settle()
    simulation.let_time_pass()
    assert (told, simulation.now) == (["a 1.5"], 1.5)


def test_where_nothing_will_ever_happen_waiting_fails(simulation: Simulation) -> None:
    simulation.enlist()
    with pytest.raises(AssertionError, match="nothing will ever happen"):
        simulation.park()
    with pytest.raises(AssertionError, match="nothing will ever happen"):
        simulation.let_time_pass()


def test_an_alarm_that_is_taken_back_does_not_ring(simulation: Simulation) -> None:
    fired: list[float] = []
    simulation.at(1.0, lambda: fired.append(simulation.now)).cancel()
    simulation.at(2.0, lambda: fired.append(simulation.now))
    simulation.sleep(3.0)
    assert fired == [2.0]


def test_a_paused_group_goes_on_where_it_was(simulation: Simulation) -> None:
    told: list[str] = []
    group = Group("node")
    simulation.start(sleeper(simulation, told, "a", 1.0, 1.0), name="a", group=group)
    simulation.sleep(1.5)
    group.paused = True
    simulation.sleep(10.0)
    assert told == ["a 1"]
    simulation.resume(group)
    simulation.settle()
    assert told == ["a 1", "a 11.5"]


def test_a_killed_group_plays_no_more(simulation: Simulation) -> None:
    told: list[str] = []
    group = Group("node")
    simulation.start(sleeper(simulation, told, "a", 1.0, 1.0), name="a", group=group)
    simulation.sleep(1.5)
    simulation.kill(group)
    simulation.sleep(10.0)
    assert told == ["a 1"]


def test_threads_are_of_the_group_that_started_them(simulation: Simulation) -> None:
    found: list[str] = []
    group = Group("node")
    simulation.start(
        lambda: simulation.start(lambda: found.append(simulation.group.name), name="child"),
        name="parent",
        group=group,
    )
    simulation.settle()
    assert found == ["node"]
    assert simulation.group.name == "client"


def test_a_closed_simulation_leaves_no_thread_behind(simulation: Simulation) -> None:
    before = set(threading.enumerate())
    for _ in range(5):
        simulation.start(lambda: simulation.sleep(100.0), name="a")
    simulation.settle()
    started = set(threading.enumerate()) - before
    assert len(started) == 5
    simulation.close()
    for thread in started:
        thread.join(5.0)
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(RuntimeError, match="has ended"):
        simulation.sleep(1.0)


def test_an_error_of_a_thread_is_kept(simulation: Simulation) -> None:
    def work() -> None:
        raise KeyError("lost")

    simulation.start(work, name="a", group=Group("node"))
    simulation.settle()
    ((name, error),) = simulation.crashes
    assert name == "node"
    assert isinstance(error, KeyError)


def test_a_thread_that_blocks_unseen_is_named_with_its_stack(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STANDSTILL_S", 0.3)
    gate = threading.Event()
    simulation.start(gate.wait, name="a", group=Group("node-7"))
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"(?s)a thread of node-7 has blocked.*self\._cond"):
        simulation.settle()
    assert time.monotonic() - began < 5.0
    gate.set()


def test_time_waits_for_guests_that_are_at_work(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. One waits for a minute. 2. Another is about to ask, and does so before time passes."""
    monkeypatch.setattr(module, "GUESTS_S", 2.5)
    simulation.settle()
    asked_at: list[float] = []
    settled = threading.Event()

    def ask() -> None:
        simulation.settle()
        settled.set()
        time.sleep(0.2)  # what the simulation does not see
        simulation.settle()
        asked_at.append(simulation.now)

    other = threading.Thread(target=ask)
    other.start()
    assert settled.wait(5.0)
    simulation.sleep(60.0)
    other.join()
    assert asked_at == [0.0]


def test_guests_that_wait_for_each_other_are_told_of_the_end(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GUESTS_S", 1000.0)
    told: list[str] = []
    both = threading.Barrier(2)

    def ask() -> None:
        simulation.me()
        both.wait(5.0)
        with pytest.raises(RuntimeError, match="has ended"):
            simulation.sleep(60.0)
        told.append("ended")

    guests = [threading.Thread(target=ask) for _ in range(2)]
    for guest in guests:
        guest.start()
    while simulation._waiting_guests < 2:
        time.sleep(0.001)
    assert told == []
    simulation.close()
    for guest in guests:
        guest.join(5.0)
    assert told == ["ended", "ended"]


def test_a_look_that_comes_late_is_no_proof_that_guests_are_quiet(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Guests have been seen. 2. The machine does something else for a while, then all go on."""
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    seen = [threading.Thread(target=simulation.settle) for _ in range(2)]
    for guest in seen:
        guest.start()
    for guest in seen:
        guest.join()
    simulation._guests = [threading.current_thread()] * 2
    time.sleep(2 * module.GUESTS_S)
    assert not simulation._may_pass_time()
