"""Locks, events, executors and event loops on the baton's clock."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rqproc.testing.memory.baton import Baton
from rqproc.testing.memory.ground import StillGround
from rqproc.testing.memory.players import Group


@pytest.fixture
def baton() -> Iterator[Baton]:
    found = Baton()
    yield found
    found.close()


@pytest.fixture
def ground(baton: Baton) -> StillGround:
    return StillGround(baton)


def start(ground: StillGround, *works: Callable[[], object]) -> None:
    for work in works:
        ground.thread(work, name="one").start()


def in_loop(ground: StillGround, work: Callable[[], Any]) -> Any:
    """Return what a coroutine function gives in an event loop of the ground, on its own thread."""
    found: list[Any] = []

    def run() -> None:
        loop = ground.event_loop()
        try:
            found.append(loop.run_until_complete(work()))
        finally:
            loop.close()

    thread = ground.thread(run, name="loop")
    thread.start()
    thread.join()
    return found[0]


def test_a_lock_is_one_threads_at_a_time(baton: Baton, ground: StillGround) -> None:
    lock, told = ground.lock(), []

    def work() -> None:
        lock.acquire()
        began = ground.monotonic()
        ground.sleep(2.0)
        told.append((began, ground.monotonic()))
        lock.release()

    start(ground, work, work, work)
    baton.sleep(10.0)
    assert told == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    assert not lock.locked()


def test_a_lock_is_waited_for_no_longer_than_said(ground: StillGround) -> None:
    lock = ground.lock()
    assert lock.acquire()
    assert not lock.acquire(blocking=False)
    assert not lock.acquire(timeout=3.0)
    assert ground.monotonic() == 3.0


def test_an_event_wakes_all_who_wait(baton: Baton, ground: StillGround) -> None:
    event, told = ground.event(), []
    start(ground, *[lambda: told.append((event.wait(), ground.monotonic()))] * 3)
    baton.sleep(1.0)
    event.set()
    baton.settle()
    assert told == [(True, 1.0)] * 3


def test_an_event_that_does_not_come_is_false_in_time(ground: StillGround) -> None:
    assert ground.event().wait(2.5) is False
    assert ground.monotonic() == 2.5


def test_a_thread_is_joined_when_it_ends(ground: StillGround) -> None:
    thread = ground.thread(lambda: ground.sleep(4.0), name="one")
    assert not thread.is_alive()
    thread.start()
    thread.join(1.0)
    assert thread.is_alive()
    thread.join()
    assert not thread.is_alive()
    assert ground.monotonic() == 4.0


def test_an_executor_gives_results_and_errors(baton: Baton, ground: StillGround) -> None:
    with ground.threads(1, name="pool") as pool:
        value, error = pool.submit(lambda: 42), pool.submit(lambda: 1 // 0)
    assert value.result(0) == 42
    assert isinstance(error.exception(0), ZeroDivisionError)


def test_a_bell_that_was_rung_before_is_heard(ground: StillGround) -> None:
    bell = ground.bell()
    bell.ring()
    bell.wait(5.0)
    assert ground.monotonic() == 0.0
    bell.wait(5.0)
    assert ground.monotonic() == 5.0


def test_coroutines_sleep_by_the_cluster_s_clock(ground: StillGround) -> None:
    async def work() -> float:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(1800))
        return asyncio.get_running_loop().time()

    assert in_loop(ground, work) == 3600.0


def test_a_timeout_of_asyncio_is_the_cluster_s_time(ground: StillGround) -> None:
    async def work() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()
        return ground.monotonic()

    assert in_loop(ground, work) == 7.0


def test_what_a_coroutine_gives_to_a_thread_may_sleep(ground: StillGround) -> None:
    async def work() -> tuple[int, float]:
        def slow() -> int:
            ground.sleep(2.0)
            return 42

        return await asyncio.to_thread(slow), ground.monotonic()

    assert in_loop(ground, work) == (42, 2.0)


def test_a_loop_of_a_killed_node_leaves_no_word(
    baton: Baton, ground: StillGround, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        await asyncio.get_running_loop().create_future()

    group = Group("node")

    def run() -> None:
        loop = ground.event_loop()
        loop.create_task(work())
        try:
            loop.run_forever()
        finally:
            loop.close()

    baton.start(run, name="loop", group=group)
    baton.settle()
    baton.kill(group)
    baton.close()
    gc.collect()
    assert caplog.records == []


def test_chance_is_the_same_in_every_run(baton: Baton) -> None:
    drawn = [[StillGround(baton, seed=seed).chance() for _ in range(3)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_clock_begins_at_a_whole_second(baton: Baton, ground: StillGround) -> None:
    assert ground.now().is_integer()
    baton.sleep(0.25)
    assert ground.now() % 1 == 0.25
