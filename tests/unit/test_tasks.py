"""The asyncio driver: what goes out together, who is told what, what a cancelled task leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from made_calls import a_call
from scripted_server import COMMANDS, ScriptedServer, sent_ids
from watch import Watch

from rqproc.calls.call import Call
from rqproc.calls.retry import GRACE_S, NUDGE_S, OUTAGE_S, Look
from rqproc.calls.tasks import Tasks
from rqproc.calls.timers import TICK_S
from rqproc.errors import ConfigError, RedisUnavailable
from rqproc.model import OnLost
from rqproc.transport.connection import ConnectionLost

Play = Callable[[Tasks], Awaitable[None]]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def play(server: ScriptedServer, story: Play) -> Tasks:
    """Tell a story in an event loop of its own; at its end nothing is left."""

    async def told() -> Tasks:
        tasks = Tasks(server.connector(), COMMANDS, asyncio.get_running_loop())
        await story(tasks)
        return tasks

    tasks = asyncio.run(told())
    core = tasks._core
    assert [*core.pending.calls, *core.pending.places, *core.pending.groups, *tasks._outbox] == []
    server.go_on()
    server.until(lambda: not server.open)
    return tasks


def new(*ids: int, timeout_s: float = 20.0, on_lost: OnLost = "wait", **how: Any) -> Call:
    return a_call(*ids, timeout_s=timeout_s, on_lost=on_lost, began=time.monotonic(), **how)


def begin(tasks: Tasks, *calls: Call) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(tasks.ask(call)) for call in calls]


async def until(server: ScriptedServer, happened: Callable[[], object]) -> None:
    await asyncio.to_thread(server.until, happened)


def test_calls_of_one_tick_go_out_as_one_group_and_other_resources_apart(
    server: ScriptedServer,
) -> None:
    async def story(tasks: Tasks) -> None:
        for _ in range(2):  # with and without a connection before
            server.log.clear()
            calls = [new(id) for id in range(5)] + [new(9, resource="cost")]
            await asyncio.gather(*begin(tasks, *calls))
            assert [call.value("shop") for call in calls] == [7] * 6
            assert server.names() == ["scatter", "route"]
            assert len(sent_ids(server.log[0])) == 5

    server.auto = "hit"
    play(server, story)
    assert server.made == 1


def test_answers_come_by_id_in_any_order(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        calls = [new(kind="a", args=(5,)) for _ in range(4)]
        asked = begin(tasks, *calls)
        await until(server, lambda: len(server.queued) == 4)
        for place in (2, 0, 3, 1):
            server.answer(calls[place].names[0], place)
            await asked[place]
            assert calls[place].value("shop") == place

    play(server, story)


def test_an_answer_that_is_kept_is_fetched(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        call = new()
        (asked,) = begin(tasks, call)
        await until(server, lambda: server.queued)
        key = COMMANDS.keys.answer(call.names[0])
        server.kept[key.encode()] = f"{call.names[0]} miss 0 0 1 n1 {'9' * 70_000}".encode()
        server.publish(f"{call.names[0]} kept 70050 {key}".encode())
        await asked
        assert call.left == 0

    play(server, story)
    assert len(server.calls("GET")) == 1


def test_a_cancelled_task_leaves_nothing_behind_and_disturbs_nobody(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        gone, other = new(1), new(2)
        first, second = begin(tasks, gone, other)
        await until(server, lambda: len(server.queued) == 2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert list(tasks._core.pending.calls) == [other]
        server.answer_group(other.groups[0], 0, 1)
        await second
        assert other.value("shop") == 1

    play(server, story)


def test_what_was_cancelled_before_it_was_sent_is_not_sent(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        gone, other = new(1), new(2)
        first, second = begin(tasks, gone, other)
        await asyncio.sleep(0)
        first.cancel()
        await until(server, lambda: server.queued)
        server.answer(other.names[0])
        await second

    play(server, story)
    assert len(server.queued) == 1


def test_a_call_that_asks_again_before_there_is_a_connection_is_sent_once(
    server: ScriptedServer,
) -> None:
    """Else it would be two calls, and two runs."""

    async def story(tasks: Tasks) -> None:
        server.stall()
        call = new(timeout_s=1.2)  # whoever asks for it asks again after 0.3 s
        call.deadline += 20.0  # but has more time than that
        (asked,) = begin(tasks, call)
        await until(server, lambda: server.late)
        while not (tasks._outbox and tasks._outbox[call].again):
            await asyncio.sleep(TICK_S)
        hello, server.late = server.late, []
        server.go_on()
        with server.changed:
            connection = server._open[0]
        for command in hello:
            server.take(connection, command)
        await until(server, lambda: server.queued)
        server.answer(call.names[0])
        await asked
        assert call.value("shop") == 7

    play(server, story)
    assert list(server.queued.values()) == [1]


def test_what_was_answered_before_it_could_ask_again_asks_nothing(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        call, other = new(1, 2), new(3)
        (asked,) = begin(tasks, call)
        await until(server, lambda: len(server.queued) == 2)
        look = tasks._look(call, _again())
        (waiting,) = begin(tasks, other)
        call.take(0, b"hit 0 0 0 n1 7")
        call.take(1, b"hit 0 0 0 n1 7")
        await until(server, lambda: len(server.queued) == 3)
        look.cancel()
        server.answer(other.names[0])
        await waiting
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    play(server, story)
    assert server.names()[:2] == ["scatter", "route"]
    assert _asked_again(server) == []


def _again() -> Look:
    return Look(5.0, GRACE_S, again=True)


# --- what goes wrong ---


@pytest.mark.parametrize("reason", ["OOM no", "NOPERM no"])
def test_a_refusal_ends_its_call_alone(server: ScriptedServer, reason: str) -> None:
    async def story(tasks: Tasks) -> None:
        one, other = new(1), new(2, resource="cost")
        asked = begin(tasks, one, other)
        await until(server, lambda: len(server.log) >= 2)
        server.answer(other.names[0])
        with pytest.raises(RedisUnavailable, match=reason):
            await asked[0]
        await asked[1]

    server.refuse = [reason]
    play(server, story)
    assert server.made == 1


def test_unknown_functions_are_loaded(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        await tasks.ask(new())

    server.refuse = ["ERR Function not found"]
    server.auto = "hit"
    play(server, story)
    assert server.names() == ["route", "FUNCTION", "route"]


def test_a_lost_connection_is_told_to_all_and_nothing_is_queued_twice(
    server: ScriptedServer,
) -> None:
    async def story(tasks: Tasks) -> None:
        calls = [new(id) for id in range(3)] + [new(9, kind="a", args=(5,))]
        asked = begin(tasks, *calls)
        await until(server, lambda: len(server.queued) == 4)
        ids = list(server.queued)
        with server.changed:  # some may have asked again by themselves: a nudge
            server.log.clear()
            server.cut()
        await until(server, lambda: len(_asked_again(server)) >= 4)
        assert sorted(_asked_again(server)) == sorted(ids)
        assert server.names()[0] == "fence"
        assert len(server.channels) == 2
        for id in ids:
            server.answer(id)
        await asyncio.gather(*asked)
        assert [call.value("shop") for call in calls] == [7] * 4

    play(server, story)
    assert set(server.queued.values()) == {1}


def _asked_again(server: ScriptedServer) -> list[str]:
    return [id for call in server.calls("route") if call[8] == b"again" for id in sent_ids(call)]


def test_a_server_that_is_no_primary_any_more_is_left_by_all(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        one, other = new(1), new(2)
        asked = begin(tasks, one)
        await until(server, lambda: server.queued)
        server.refuse = ["READONLY no"]
        server.auto = "miss"
        await asyncio.gather(*asked, *begin(tasks, other))

    play(server, story)
    assert server.made == 2


def test_a_connection_that_is_lost_as_soon_as_it_is_made_is_made_anew(
    server: ScriptedServer,
) -> None:
    async def story(tasks: Tasks) -> None:
        await asyncio.gather(*begin(tasks, *(new(id) for id in range(3))))

    server.closes = 3
    server.auto = "hit"
    play(server, story)
    assert "fence" not in server.names()


def test_a_server_that_stands_still_is_noticed(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        first = new(1)
        server.auto = "hit"
        await tasks.ask(first)
        tasks._silent_since -= 1000.0
        server.stall()
        watch, began = Watch(), time.monotonic()
        (asked,) = begin(tasks, new(2))
        await until(server, lambda: server.made > 1)
        assert time.monotonic() - began >= GRACE_S
        assert watch.stop() < 2 * GRACE_S
        server.go_on()
        server.cut()
        await asked

    play(server, story)


def test_an_error_that_comes_at_the_end_of_a_look_is_told_at_the_next(
    server: ScriptedServer,
) -> None:
    async def story(tasks: Tasks) -> None:
        server.stall()
        call = new(1)
        (asked,) = begin(tasks, call)
        await asyncio.sleep(0)
        assert call.wake
        call.wake()  # time is over
        tasks._outbox.clear()
        tasks._core.broken(ConnectionLost("it does not answer", spent_s=2 * OUTAGE_S))
        with pytest.raises(RedisUnavailable, match="does not answer"):
            await asyncio.wait_for(asked, NUDGE_S)
        await tasks.close()
        server.go_on()

    play(server, story)


def test_who_does_not_want_to_wait_knows_by_half_of_its_timeout(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        server.auto = "hit"
        await tasks.ask(new(1))
        server.stall()
        patient, hasty = begin(tasks, new(2), new(3, timeout_s=2.0, on_lost="error"))
        watch = Watch()
        with pytest.raises(RedisUnavailable):
            await hasty
        assert watch.stop() < 1.2
        server.go_on()
        server.cut()
        await patient

    play(server, story)


def test_who_does_not_want_to_wait_is_not_held_up_by_a_connection_to_come(
    server: ScriptedServer,
) -> None:
    async def story(tasks: Tasks) -> None:
        server.stall()
        (patient,) = begin(tasks, new(2))
        await until(server, lambda: server.made)
        watch = Watch()
        (hasty,) = begin(tasks, new(3, timeout_s=1.0, on_lost="error"))
        with pytest.raises(RedisUnavailable):
            await hasty
        assert watch.stop() < 0.8
        server.auto = "hit"
        server.go_on()
        server.cut()
        await patient

    play(server, story)


def test_a_server_that_is_too_old_is_told_to_whoever_asks(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        with pytest.raises(ConfigError, match=r"6\.2\.0: rqproc needs"):
            await tasks.ask(new())

    server.version = "6.2.0"
    play(server, story)


# --- the end ---


def test_one_who_closes_while_others_wait_closes_when_the_last_has_gone(
    server: ScriptedServer,
) -> None:
    async def story(tasks: Tasks) -> None:
        one, other = new(1), new(2, resource="cost")
        asked = begin(tasks, one, other)
        await until(server, lambda: len(server.queued) == 2)
        await tasks.close()
        server.answer(one.names[0])
        await asked[0]
        assert server.open == 1
        server.answer(other.names[0])
        await asked[1]
        await until(server, lambda: not server.open)
        server.auto = "hit"
        await tasks.ask(new(3))

    play(server, story)


def test_thousands_of_calls_that_are_not_answered_leave_nothing(server: ScriptedServer) -> None:
    async def story(tasks: Tasks) -> None:
        for _ in range(5):
            await asyncio.gather(*begin(tasks, *(new(id, timeout_s=0.05) for id in range(300))))

    tasks = play(server, story)
    assert tasks._timers._due == {} or max(map(len, tasks._timers._due.values())) <= 300
