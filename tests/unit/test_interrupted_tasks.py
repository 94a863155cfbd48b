"""An exception at any point of a task's path, and of the event loop's: what it leaves to others.

It ends the loop or is told to its handler, as asyncio does with exceptions of signals' handlers;
then the loop goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from interrupting import SoftLimit, interrupt_all
from made_calls import a_call
from scripted_server import COMMANDS, SOON_S, ScriptedServer
from watch import Watch

from rqproc.calls.tasks import Tasks

PROMPT_S = 3.0
"""Where what had come is lost with what was interrupted, its lack is noticed in ``GRACE_S``."""
TIMEOUT_S = 20.0

STIR_S = 0.0005
"""In which the server answers what it was asked: so most turns of a loop find something to do."""
LINE_PARTS = 3
INSTRUCTION_PARTS = 8
"""Of the points at which an exception is raised: each part is a test of some seconds."""

HELD = 500
"""An id whose calls are answered when the test says so."""


class Scene:
    """A client in an event loop, what is interrupted, and what is going on besides."""

    def __init__(self, server: ScriptedServer, watch: Watch) -> None:
        self.server = server
        self._watch = watch
        self.loop: asyncio.AbstractEventLoop
        self.held: asyncio.Task[None] | None = None

    def begin(self) -> Callable[[], object]:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self.told)
        self.tasks = Tasks(self.server.connector(), COMMANDS, self.loop)
        self.held = self.interrupted = None
        return self.work()

    @staticmethod
    def told(loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
        assert isinstance(about.get("exception"), SoftLimit | KeyboardInterrupt), about

    async def ask(self, *ids: int) -> None:
        call = a_call(*ids, timeout_s=TIMEOUT_S, began=time.monotonic())
        await self.tasks.ask(call)
        assert [call.outcome(i, "shop").value for i in range(len(ids))] == list(ids)  # type: ignore[union-attr]

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        self.loop.run_until_complete(work)

    def warm_up(self) -> None:
        self.run(self.ask(9))

    def hold(self) -> None:
        """Another task waits."""
        self.server.held = (f"-{HELD}",)
        before = len(self.server.queued)
        self.held = self.loop.create_task(self.ask(HELD))
        self.run(asyncio.to_thread(self.server.routed, before + 1))

    def interrupt_asking(self, *ids: int) -> Callable[[], object]:
        self.interrupted = self.loop.create_task(self.ask(*ids))
        return lambda: self.loop.run_until_complete(self.interrupted)  # type: ignore[arg-type]

    def work(self) -> Callable[[], object]:
        raise NotImplementedError

    def check(self, at: str) -> None:
        """Whoever asks is answered promptly, and nothing is left."""
        self.server.refuse = []
        self.run(self._check(at))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        self.server.until(lambda: not self.server.open)

    async def _check(self, at: str) -> None:
        began = self._watch.s
        await asyncio.wait_for(self.ask(1), SOON_S)
        assert self._watch.s - began < PROMPT_S, at
        if self.interrupted:
            done, _ = await asyncio.wait([self.interrupted], timeout=SOON_S)
            assert done, at
            assert isinstance(self.interrupted.exception(), SoftLimit | KeyboardInterrupt | None)
        if self.held:
            await asyncio.to_thread(self._release)
            await asyncio.wait_for(self.held, SOON_S)
        await self.tasks.close()
        left = (self.tasks._core.pending.size, len(self.tasks._outbox), self.tasks._connection)
        assert left == (0, 0, None), at

    def _release(self) -> None:
        self.server.until(lambda: any(id.endswith(f"-{HELD}") for id in self.server._known))
        self.server.held = ()
        self.server._answer_all()


class First(Scene):
    """It has to connect."""

    def work(self) -> Callable[[], object]:
        return self.interrupt_asking(3)


class Alone(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        return self.interrupt_asking(3)


class Many(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        return self.interrupt_asking(3, 4, 5)


class WhileAnotherWaits(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        self.hold()
        return self.interrupt_asking(3)


class AfterACut(Scene):
    """It finds that out, connects anew, and has its call asked for again."""

    def work(self) -> Callable[[], object]:
        self.warm_up()
        self.server.cut()
        self.server.until(lambda: not self.server.open)
        return self.interrupt_asking(3)


class WithoutFunctions(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        self.server.refuse = ["ERR Function not found"]
        return self.interrupt_asking(3)


class TheEnd(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        return lambda: self.run(self.tasks.close())


SCENES = [First, Alone, Many, WhileAnotherWaits, AfterACut, WithoutFunctions, TheEnd]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("part", range(LINE_PARTS))
@pytest.mark.parametrize("kind", SCENES)
def test_an_exception_at_any_line_leaves_others_answered_and_nothing_behind(
    answering: ScriptedServer, watch: Watch, kind: type[Scene], part: int
) -> None:
    scene = kind(answering, watch)
    assert interrupt_all(scene, each="line", part=part, parts=LINE_PARTS, handled=True) > 5


@pytest.mark.exhaustive
@pytest.mark.timeout(400)
@pytest.mark.parametrize("part", range(INSTRUCTION_PARTS))
@pytest.mark.parametrize("kind", SCENES)
def test_an_exception_at_any_instruction_leaves_others_answered_and_nothing_behind(
    answering: ScriptedServer, watch: Watch, kind: type[Scene], part: int
) -> None:
    scene = kind(answering, watch)
    interrupt_all(scene, each="opcode", part=part, parts=INSTRUCTION_PARTS, handled=True)


@pytest.mark.parametrize("kind", SCENES)
def test_one_who_is_cancelled_at_any_moment_leaves_others_answered_and_nothing_behind(
    answering: ScriptedServer, watch: Watch, kind: type[Scene]
) -> None:
    scene = kind(answering, watch)
    turns, goes_on = 0, True
    while goes_on:
        goes_on = cancelled(scene, turns)
        scene.check(f"after {turns} turns of the loop")
        turns += 1
    assert turns > 2


def cancelled(scene: Scene, turns: int) -> bool:
    """Begin what a scene is about, and cancel it after so many turns; return whether it was."""
    scene.begin()
    task = scene.interrupted or scene.loop.create_task(scene.tasks.close())
    scene.interrupted = None
    for _ in range(turns):
        time.sleep(STIR_S)
        scene.loop.call_soon(scene.loop.stop)
        scene.loop.run_forever()
    task.cancel()
    return bool(scene.loop.run_until_complete(asyncio.wait([task])) and task.cancelled())
