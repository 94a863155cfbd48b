"""One asyncio client in several event loops: each has its own, and leaves nothing when it ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from made_calls import a_call
from scripted_server import COMMANDS, ScriptedServer
from watch import Watch

from rqproc.calls.call import Call
from rqproc.calls.loops import EventLoops
from rqproc.errors import ConfigError, RedisUnavailable

LOOPS = 8
ENDED = "ignore::ResourceWarning"
"""Whoever closes a loop without a word to what is in it is warned by asyncio."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def loops(server: ScriptedServer) -> EventLoops:
    return EventLoops(server.connector(), COMMANDS)


async def ask(loops: EventLoops, call: Call) -> None:
    """Begin to ask in the loop that runs this."""
    await loops.ask(call)


def new(id: int = 1, *, timeout_s: float = 20.0) -> Call:
    return a_call(id, timeout_s=timeout_s, began=time.monotonic())


def test_loops_side_by_side_have_a_connection_each_and_their_own_answers(
    server: ScriptedServer, loops: EventLoops
) -> None:
    server.auto = "hit"
    asked, all_asked = [new(id) for id in range(LOOPS * 20)], threading.Barrier(LOOPS)

    async def ask_many(first: int) -> int:
        await asyncio.gather(*map(loops.ask, asked[first : first + 10]))
        all_asked.wait()
        connections = server.open
        all_asked.wait()
        for call in asked[first + 10 : first + 20]:
            await loops.ask(call)
        return connections

    with ThreadPoolExecutor(LOOPS) as pool:
        found = list(pool.map(lambda i: asyncio.run(ask_many(i * 20)), range(LOOPS)))
    assert set(found) == {LOOPS}
    assert [call.left for call in asked] == [0] * len(asked)
    server.until(lambda: not server.open)
    assert set(server.queued.values()) == {1}


def test_one_loop_after_the_other_begins_anew(server: ScriptedServer, loops: EventLoops) -> None:
    server.auto = "hit"
    for _ in range(3):
        asyncio.run(ask(loops, new()))
        server.until(lambda: not server.open)
    assert server.made == 3
    assert len({id.partition("-")[0] for id in server.queued}) == 3, "under a name of its own"


@pytest.mark.filterwarnings(ENDED)
def test_a_loop_that_is_closed_without_a_word_leaves_nothing(
    server: ScriptedServer, loops: EventLoops
) -> None:
    server.auto = "hit"
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask(loops, new()))
    assert server.open == 1
    loop.close()
    del loop
    gc.collect()
    server.until(lambda: not server.open)
    assert not len(loops._tasks)


@pytest.mark.filterwarnings(ENDED)
def test_a_loop_that_dies_with_a_call_under_way_holds_up_no_other(
    server: ScriptedServer, loops: EventLoops
) -> None:
    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(loops.ask(new(1)))
        await asyncio.to_thread(server.routed)
        return task

    dead = asyncio.new_event_loop()
    task = dead.run_until_complete(begin())
    dead.run_until_complete(dead.shutdown_default_executor())
    dead.close()
    server.auto = "hit"
    call = new(2)
    asyncio.run(ask(loops, call))
    assert not call.left
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what is wanted here
    del dead, task
    gc.collect()
    server.until(lambda: not server.open)


def test_no_call_of_any_loop_outlives_its_deadline(
    server: ScriptedServer, loops: EventLoops
) -> None:
    """Whether the server is silent, or the connection was cut while they waited."""

    async def timed(id: int, timeout_s: float) -> float:
        watch, call = Watch(), new(id, timeout_s=timeout_s)
        with suppress(RedisUnavailable):  # of who finds no connection any more
            await loops.ask(call)
        assert call.left
        return watch.stop() - timeout_s

    for turn, trouble in enumerate((server.cut, server.stall), start=1):
        with ThreadPoolExecutor(LOOPS) as pool:
            waiting = [
                pool.submit(asyncio.run, timed(turn * LOOPS + i, 2.0 + 0.1 * i))
                for i in range(LOOPS)
            ]
            server.routed(turn * LOOPS)
            trouble()
            assert max(each.result() for each in waiting) < 0.3
        server.until(lambda: not server.open)


def test_who_closes_in_one_loop_closes_what_the_others_have_when_they_need_it_no_more(
    server: ScriptedServer, loops: EventLoops
) -> None:
    server.auto = "hit"
    is_idle, may_end = threading.Event(), threading.Event()
    waiting = new(1)

    async def idle() -> None:
        await loops.ask(new(2))
        is_idle.set()
        await asyncio.to_thread(may_end.wait, 10)

    with ThreadPoolExecutor(3) as pool:
        one = pool.submit(asyncio.run, idle())
        is_idle.wait(10)
        server.auto = ""
        other = pool.submit(asyncio.run, ask(loops, waiting))
        (name,) = [id for id in server.routed(2) if id.endswith("-1")]
        asyncio.run(loops.close())
        server.until(lambda: server.open == 1)
        server.answer(name)
        other.result()
        server.until(lambda: not server.open)
        may_end.set()
        one.result()
    assert not waiting.left


def test_without_a_loop_of_asyncios_it_is_said_what_to_do(loops: EventLoops) -> None:
    """As trio drives coroutines."""
    for asking in (ask(loops, new()), loops.run(list)):
        with pytest.raises(ConfigError, match="to_thread"):
            asking.send(None)
    closing = loops.close()
    with pytest.raises(StopIteration):
        closing.send(None)
