"""Locks, events, executors and event loops on the simulation's clock."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import pytest

from rqproc.testing.memory.participants import Group
from rqproc.testing.memory.runtime import SimRuntime
from rqproc.testing.memory.simulation import Simulation


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    found = Simulation()
    yield found
    found.close()


@pytest.fixture
def runtime(simulation: Simulation) -> SimRuntime:
    return SimRuntime(simulation)


def start(runtime: SimRuntime, *works: Callable[[], object]) -> None:
    for work in works:
        runtime.thread(work, name="one").start()


def in_loop(runtime: SimRuntime, work: Callable[[], Any]) -> Any:
    """Return what a coroutine function gives in an event loop of the runtime, on its own thread."""
    found: list[Any] = []

    def run() -> None:
        loop = runtime.event_loop()
        try:
            found.append(loop.run_until_complete(work()))
        finally:
            loop.close()

    thread = runtime.thread(run, name="loop")
    thread.start()
    thread.join()
    return found[0]


def test_a_lock_is_one_threads_at_a_time(simulation: Simulation, runtime: SimRuntime) -> None:
    lock, told = runtime.lock(), []

    def work() -> None:
        lock.acquire()
        began = runtime.monotonic()
        runtime.sleep(2.0)
        told.append((began, runtime.monotonic()))
        lock.release()

    start(runtime, work, work, work)
    simulation.sleep(10.0)
    assert told == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    assert not lock.locked()


def test_a_lock_is_waited_for_no_longer_than_said(runtime: SimRuntime) -> None:
    lock = runtime.lock()
    assert lock.acquire()
    assert not lock.acquire(blocking=False)
    assert not lock.acquire(timeout=3.0)
    assert runtime.monotonic() == 3.0


def test_an_event_wakes_all_who_wait(simulation: Simulation, runtime: SimRuntime) -> None:
    event, told = runtime.event(), []
    start(runtime, *[lambda: told.append((event.wait(), runtime.monotonic()))] * 3)
    simulation.sleep(1.0)
    event.set()
    simulation.settle()
    assert told == [(True, 1.0)] * 3


def test_an_event_that_does_not_come_is_false_in_time(runtime: SimRuntime) -> None:
    assert runtime.event().wait(2.5) is False
    assert runtime.monotonic() == 2.5


def test_a_thread_is_joined_when_it_ends(runtime: SimRuntime) -> None:
    thread = runtime.thread(lambda: runtime.sleep(4.0), name="one")
    assert not thread.is_alive()
    thread.start()
    thread.join(1.0)
    assert thread.is_alive()
    thread.join()
    assert not thread.is_alive()
    assert runtime.monotonic() == 4.0


def test_an_executor_gives_results_and_errors(simulation: Simulation, runtime: SimRuntime) -> None:
    with runtime.threads(1, name="pool") as pool:
        value, error = pool.submit(lambda: 42), pool.submit(lambda: 1 // 0)
    assert value.result(0) == 42
    assert isinstance(error.exception(0), ZeroDivisionError)


def test_a_bell_that_was_rung_before_is_heard(runtime: SimRuntime) -> None:
    waker = runtime.waker()
    waker.wake()
    waker.wait(5.0)
    assert runtime.monotonic() == 0.0
    waker.wait(5.0)
    assert runtime.monotonic() == 5.0


def test_coroutines_sleep_by_the_cluster_s_clock(runtime: SimRuntime) -> None:
    async def work() -> float:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(1800))
        return asyncio.get_running_loop().time()

    assert in_loop(runtime, work) == 3600.0


def test_a_timeout_of_asyncio_is_the_cluster_s_time(runtime: SimRuntime) -> None:
    async def work() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()
        return runtime.monotonic()

    assert in_loop(runtime, work) == 7.0


def test_what_a_coroutine_gives_to_a_thread_may_sleep(runtime: SimRuntime) -> None:
    async def work() -> tuple[int, float]:
        def slow() -> int:
            runtime.sleep(2.0)
            return 42

        return await asyncio.to_thread(slow), runtime.monotonic()

    assert in_loop(runtime, work) == (42, 2.0)


def test_a_loop_of_a_killed_node_leaves_no_word(
    simulation: Simulation, runtime: SimRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # what earlier tests have left to be told
    caplog.clear()

    async def work() -> None:
        await asyncio.get_running_loop().create_future()

    group = Group("node")

    def run() -> None:
        loop = runtime.event_loop()
        task = loop.create_task(work())  # held: a loop holds none that waits
        try:
            loop.run_forever()
        finally:
            loop.close()
            assert not task.done()

    simulation.start(run, name="loop", group=group)
    simulation.settle()
    simulation.kill(group)
    simulation.close()
    gc.collect()
    assert caplog.records == []


def test_chance_is_the_same_in_every_run(simulation: Simulation) -> None:
    drawn = [[SimRuntime(simulation, seed=seed).chance() for _ in range(3)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_clock_begins_at_a_whole_second(simulation: Simulation, runtime: SimRuntime) -> None:
    assert runtime.now().is_integer()
    simulation.sleep(0.25)
    assert runtime.now() % 1 == 0.25


def test_a_queue_is_waited_for_until_something_comes_or_time_is_over(
    simulation: Simulation, runtime: SimRuntime
) -> None:
    queue, told = runtime.queue(), []

    def take() -> None:
        told.append((queue.get(), runtime.monotonic()))
        with pytest.raises(Empty):
            queue.get(timeout=3.0)
        told.append((queue.get(timeout=3.0), runtime.monotonic()))
        told.append((queue.get(timeout=0.0), runtime.monotonic()))

    def put() -> None:
        runtime.sleep(2.0)
        queue.put("first")
        runtime.sleep(4.0)
        queue.put("second")
        queue.put("third")

    start(runtime, take, put)
    simulation.sleep(10.0)
    assert told == [("first", 2.0), ("second", 6.0), ("third", 6.0)]
