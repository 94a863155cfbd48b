"""An exception at any point of a caller's path: what it leaves to those who ask besides, or next.

The first of two parts of each test goes through the lines, the slow one through all instructions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from interrupting import interrupt_all
from made_calls import a_call
from scripted_server import COMMANDS, SOON_S, ScriptedServer
from watch import Watch

from rqproc.calls.threads import CHECK_S, Threads
from rqproc.transport.connection import Connection

PROMPT_S = 1.8
"""To connect and to be answered; also after a pause because a connection was lost. Whoever had to
ask again, since its answer was lost, would have waited for ``NUDGE_S``."""

TIMEOUT_S = 20.0
LINE_PARTS = 3
INSTRUCTION_PARTS = 8
"""Of the points at which an exception is raised: each part is a test of some seconds."""

HELD = 500
"""An id whose calls are answered when the test says so."""


class Callers:
    """A client, and what is asked of it in this thread and in another."""

    def __init__(self, server: ScriptedServer, pool: ThreadPoolExecutor, watch: Watch) -> None:
        self.threads = Threads(server.connector(), COMMANDS)
        self._server = server
        self._pool = pool
        self._watch = watch

    def ask(self, *ids: int) -> None:
        """Ask in this thread, and look whether the answers are the right ones."""
        call = a_call(*ids, timeout_s=TIMEOUT_S, began=time.monotonic())
        self.threads.ask(call)
        assert [call.outcome(i, "shop").value for i in range(len(ids))] == list(ids)  # type: ignore[union-attr]

    def begin(self, id: int) -> Future[None]:
        return self._pool.submit(self.ask, id)

    def check(self, at: str, held: Future[None] | None) -> None:
        """Whoever asks is answered promptly, and nothing is left."""
        began = self._watch.s
        self.ask(1)
        assert self._watch.s - began < PROMPT_S, at
        began = self._watch.s
        self.begin(2).result(SOON_S)
        assert self._watch.s - began < PROMPT_S, at
        if held:
            began = self._watch.s
            self._release()
            held.result(SOON_S)
            assert self._watch.s - began < PROMPT_S + CHECK_S, at
        self.threads.close()
        assert is_empty(self.threads), at
        self._server.until(lambda: not self._server.open)

    def _release(self) -> None:
        self._server.until(lambda: any(id.endswith(f"-{HELD}") for id in self._server._known))
        self._server.held = ()
        self._server._answer_all()


def is_empty(threads: Threads) -> bool:
    core = threads._core
    locked = threads._reading.locked or threads._sender.locked
    return not (
        core.pending.size
        or threads._sender.outbox
        or threads._to_close
        or threads._sender.line
        or locked
    )


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Scene:
    """What is interrupted, and what is going on besides."""

    def __init__(self, server: ScriptedServer, pool: ThreadPoolExecutor, watch: Watch) -> None:
        self.server = server
        self.callers: Callers
        self.held: Future[None] | None = None
        self.pool = pool
        self._make = lambda: Callers(server, pool, watch)

    def begin(self) -> Callable[[], object]:
        self.callers = self._make()
        self.held = None
        return self.work()

    def warm_up(self) -> None:
        self.callers.ask(9)

    def hold(self) -> None:
        """Another thread waits, and reads."""
        self.server.held = (f"-{HELD}",)
        before = len(self.server.queued)
        self.held = self.callers.begin(HELD)
        self.server.routed(before + 1)

    def work(self) -> Callable[[], object]:
        raise NotImplementedError

    def end(self) -> None:
        """It is over, or was interrupted."""

    def check(self, at: str) -> None:
        self.end()
        self.server.refuse = []
        self.callers.check(at, self.held)


class First(Scene):
    """It has to connect."""

    def work(self) -> Callable[[], object]:
        return lambda: self.callers.ask(3)


class Alone(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        return lambda: self.callers.ask(3)


class Many(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        return lambda: self.callers.ask(3, 4, 5)


class WhileAnotherReads(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        self.hold()
        return lambda: self.callers.ask(3)


class WhileAnotherWaits(Scene):
    """Another thread waits for this one to read for it."""

    def work(self) -> Callable[[], object]:
        self.warm_up()
        self.server.held = ("-3", f"-{HELD}")
        self.over = False
        self.conducted = self.pool.submit(self.conduct)
        return self.ask

    def ask(self) -> None:
        try:
            self.callers.ask(3)
        finally:
            with self.server.changed:
                self.over = True
                self.server.changed.notify_all()

    def conduct(self) -> None:
        self.server.until(lambda: self.over or self.knows(3))
        self.held = self.callers.begin(HELD)
        self.server.until(lambda: self.knows(HELD))
        self.server.held = (f"-{HELD}",)
        self.server._answer_all()

    def knows(self, id: int) -> bool:
        return any(known.endswith(f"-{id}") for known in self.server._known)

    def end(self) -> None:
        self.conducted.result(SOON_S)


class WhileAnotherHasToSend(Scene):
    """Another thread's call is in the outbox when this one has connected."""

    def work(self) -> Callable[[], object]:
        self.connector = self.callers.threads._connector
        self.connect = self.connector.connect
        self.connector.connect = self.connect_late  # type: ignore[method-assign]
        return lambda: self.callers.ask(3)

    def connect_late(self, **how: Any) -> Connection:
        found = self.connect(**how)
        self.server.held = (f"-{HELD}",)
        self.held = self.callers.begin(HELD)
        while len(self.callers.threads._sender.outbox) < 2:
            time.sleep(0.0005)
        return found

    def end(self) -> None:
        self.connector.connect = self.connect  # type: ignore[method-assign]


class AnAnswerThatIsFetched(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        self.server.by_key = ("-3",)
        return lambda: self.callers.ask(3)


class AfterACut(Scene):
    """It finds that out, connects anew, and has its call asked for again."""

    def work(self) -> Callable[[], object]:
        self.warm_up()
        self.server.cut()
        self.server.until(lambda: not self.server.open)
        return lambda: self.callers.ask(3)


class WithoutFunctions(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        self.server.refuse = ["ERR Function not found"]
        return lambda: self.callers.ask(3)


class TheEnd(Scene):
    def work(self) -> Callable[[], object]:
        self.warm_up()
        return self.callers.threads.close


SCENES = [
    First, Alone, Many, WhileAnotherReads, WhileAnotherWaits, WhileAnotherHasToSend,
    AnAnswerThatIsFetched, AfterACut, WithoutFunctions, TheEnd,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("part", range(LINE_PARTS))
@pytest.mark.parametrize("kind", SCENES)
def test_one_who_is_interrupted_at_any_line_leaves_others_answered_and_nothing_behind(
    answering: ScriptedServer, pool: ThreadPoolExecutor, watch: Watch, kind: type[Scene], part: int
) -> None:
    scene = kind(answering, pool, watch)
    assert interrupt_all(scene, each="line", part=part, parts=LINE_PARTS) > 10


@pytest.mark.exhaustive
@pytest.mark.timeout(400)
@pytest.mark.parametrize("part", range(INSTRUCTION_PARTS))
@pytest.mark.parametrize("kind", SCENES)
def test_one_who_is_interrupted_at_any_instruction_leaves_others_answered_and_nothing_behind(
    answering: ScriptedServer, pool: ThreadPoolExecutor, watch: Watch, kind: type[Scene], part: int
) -> None:
    scene = kind(answering, pool, watch)
    interrupt_all(scene, each="opcode", part=part, parts=INSTRUCTION_PARTS)
