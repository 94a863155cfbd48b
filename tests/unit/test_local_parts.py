"""Whose handler waits for whom; and threads that let their process end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from rqproc.local.waits import Waits
from rqproc.node.daemon_threads import DaemonThreads

WITHIN_S = 10.0


def test_a_run_may_not_wait_for_itself() -> None:
    waits = Waits()
    assert waits.add("a", "1", "a") == ["a"]
    assert len(waits) == 0


def test_the_way_back_goes_over_all_who_wait() -> None:
    waits = Waits()
    for parent, job, address in [("a", "1", "b"), ("a", "2", "x"), ("b", "3", "c")]:
        assert waits.add(parent, job, address) == []
    assert waits.add("c", "4", "a") == ["a", "b", "c"]
    assert waits.add("c", "5", "x") == []


def test_a_wait_that_has_ended_closes_no_circle() -> None:
    waits = Waits()
    waits.add("a", "1", "b")
    waits.add("a", "2", "b")
    waits.end("a", "1")
    assert waits.add("b", "3", "a") == ["a", "b"]
    waits.end("a", "2")
    waits.end("a", "2")
    waits.end("", "unknown")
    assert waits.add("b", "3", "a") == []


def test_a_way_longer_than_the_interpreters_stack_is_found() -> None:
    waits = Waits()
    for n in range(5000):
        assert waits.add(str(n), "job", str(n + 1)) == []
    assert len(waits.add("5000", "job", "0")) == 5001


def test_each_address_is_looked_at_once_however_many_ways_lead_there() -> None:
    waits = Waits()
    for layer in range(60):
        for here in "ab":
            for there in "ab":
                waits.add(f"{here}{layer}", f"{here}{there}", f"{there}{layer + 1}")
    assert waits.add("elsewhere", "job", "a0") == []


@pytest.fixture
def threads() -> Iterator[DaemonThreads]:
    threads = DaemonThreads(3, name="tried")
    yield threads
    threads.shutdown()


def _alive() -> int:
    return sum(thread.name.startswith("tried") for thread in threading.enumerate())


def test_work_is_done_and_its_error_is_told(threads: DaemonThreads) -> None:
    assert threads.submit(divmod, 7, 2).result(WITHIN_S) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        threads.submit(divmod, 7, 0).result(WITHIN_S)


def test_there_are_as_many_threads_as_work_up_to_a_limit(threads: DaemonThreads) -> None:
    begun, gate = threading.Semaphore(0), threading.Event()

    def work() -> str:
        begun.release()
        assert gate.wait(WITHIN_S)
        return threading.current_thread().name

    found = [threads.submit(work) for _ in range(5)]
    for _ in range(3):
        assert begun.acquire(timeout=WITHIN_S)
    assert _alive() == 3
    gate.set()
    assert len({one.result(WITHIN_S) for one in found}) <= 3
    assert all(thread.daemon for thread in threading.enumerate() if "tried" in thread.name)


def test_two_that_need_each_other_do_not_wait_for_one_idle_thread() -> None:
    for _ in range(20):
        threads = DaemonThreads(3, name="tried")
        threads.submit(int).result(WITHIN_S)
        both = threading.Barrier(2, timeout=WITHIN_S)
        found = [threads.submit(both.wait) for _ in range(2)]
        assert sorted(one.result(WITHIN_S) for one in found) == [0, 1]
        threads.shutdown()


def test_what_is_left_of_the_work_may_be_dropped(threads: DaemonThreads) -> None:
    begun, gate = threading.Semaphore(0), threading.Event()
    done: list[int] = []

    def work(n: int) -> None:
        begun.release()
        gate.wait(WITHIN_S)
        done.append(n)

    for n in range(5):
        threads.submit(work, n)
    for _ in range(3):
        assert begun.acquire(timeout=WITHIN_S)
    threads.shutdown(wait=False, cancel_futures=True)
    gate.set()
    threads.shutdown()
    assert sorted(done) == [0, 1, 2]
    assert _alive() == 0
