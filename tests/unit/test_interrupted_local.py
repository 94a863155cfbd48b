"""An exception at any line of a caller's path without a server: what it leaves to others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from interrupting import Each, interrupt_all
from local_shop import WITHIN_S, Shop, holds, until
from watch import Watch

from rqproc import Client

PROMPT_S = 1.8
INSTRUCTION_PARTS = 4


class Scene:
    """What is interrupted, in a place of its own each time: ``work``."""

    def __init__(self, pool: ThreadPoolExecutor, watch: Watch) -> None:
        self.pool = pool
        self.watch = watch
        self.shop: Shop
        self.held: Future[Any] | None = None
        self._stack = ExitStack()
        self._others = set(threading.enumerate())

    def begin(self) -> Callable[[], object]:
        self.shop = Shop()
        self._stack.enter_context(self.shop.at())
        self.held = None
        self.make_ready()
        return self.work

    def make_ready(self) -> None:
        self.shop.price.request(9)

    def work(self) -> None:
        raise NotImplementedError

    def check(self, at: str) -> None:
        """Whoever asks is answered promptly, and nothing is under way."""
        began = self.watch.s
        assert self.shop.charge.request(1, at)["args"] == [at]
        assert self.pool.submit(self.shop.charge.request, 2).result(WITHIN_S)["id"] == 2
        assert self.shop.charge.enqueue(3).latest_result(timeout=WITHIN_S), at
        assert self.watch.s - began < PROMPT_S, at
        self.shop.release(9)
        if self.held:
            assert self.held.result(WITHIN_S)["n"] == 1
        holds(self.shop.app.client, 0)
        self._stack.close()
        until(lambda: not self._ours())

    def _ours(self) -> list[threading.Thread]:
        """The threads that were started since, to serve; not those of other tests."""
        now = set(threading.enumerate()) - self._others
        return [thread for thread in now if "rqproc" in thread.name]


class First(Scene):
    """What serves is made, and started."""

    def make_ready(self) -> None:
        """Nobody has asked."""

    def work(self) -> None:
        assert self.shop.price.request(1)["id"] == 1


class Hit(Scene):
    def work(self) -> None:
        assert self.shop.price.request(9)["n"] == 1


class Miss(Scene):
    def work(self) -> None:
        assert self.shop.charge.request(1, 2, x=3)["kwargs"] == {"x": 3}


class Many(Scene):
    def work(self) -> None:
        assert list(self.shop.price.request_many([1, 2, 9])) == [1, 2, 9]


class Job(Scene):
    def work(self) -> None:
        result: Any = self.shop.charge.enqueue(5).latest_result(timeout=WITHIN_S)
        assert result.return_value["id"] == 5


class WhileAnotherWaits(Scene):
    """And this one waits for the same run."""

    def make_ready(self) -> None:
        self.held = self.pool.submit(self.shop.slow.request, 7)
        self.shop.begun()

    def work(self) -> None:
        timer = threading.Timer(0.02, self.shop.release)
        timer.start()
        try:
            assert self.shop.slow.request(7)["n"] == 1
        finally:
            timer.join()


class ManyClients(Scene):
    """A client of the same app is made, and asks in the same place."""

    def work(self) -> None:
        with Client("local://", app=self.shop.app, namespace="other") as client:
            assert client.request(1, "price")["id"] == 1
            client.members()

    def check(self, at: str) -> None:
        with Client("local://", app=self.shop.app, namespace="other") as client:
            assert client.request(2, "price")["id"] == 2
        from rqproc.local.spaces import _OF_APPS

        _OF_APPS[self.shop.app].pop("other").end()
        super().check(at)


SCENES = [First, Hit, Miss, Many, Job, WhileAnotherWaits, ManyClients]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def interrupted(scene: Scene, *, each: Each, part: int = 0, parts: int = 1) -> int:
    scene.begin()()  # what is imported is there after this
    scene.check("the beginning")
    return interrupt_all(scene, each=each, part=part, parts=parts)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", SCENES)
def test_an_exception_at_any_line_leaves_others_answered_and_nothing_behind(
    pool: ThreadPoolExecutor, watch: Watch, kind: type[Scene]
) -> None:
    assert interrupted(kind(pool, watch), each="line") > 20


@pytest.mark.exhaustive
@pytest.mark.timeout(400)
@pytest.mark.parametrize("part", range(INSTRUCTION_PARTS))
@pytest.mark.parametrize("kind", SCENES)
def test_an_exception_at_any_instruction_leaves_others_answered_and_nothing_behind(
    pool: ThreadPoolExecutor, watch: Watch, kind: type[Scene], part: int
) -> None:
    interrupted(kind(pool, watch), each="opcode", part=part, parts=INSTRUCTION_PARTS)
