"""An exception at any line of a client's path, on a real cluster: what it leaves to those who ask
besides, or next. The connections and threads of the client are counted as well.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar

import pytest
from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book
from interrupting import Each, interrupt_all
from watch import Watch

from rqproc import App, Client
from rqproc.calls.threads import CHECK_S

SOON_S = 20.0
PROMPT_S = 1.8
"""Sooner than anyone asks again for an answer that was lost."""

LINE_PARTS = 2
INSTRUCTION_PARTS = 12
"""Of the points at which an exception is raised: each part is a test of some seconds."""

app = App(namespace="nobody")


@app.resource(ttl=0, on_lost="local")
def here(id: int) -> list[int]:
    return [id]


class Scene:
    """What is interrupted: ``work``, with a client of its own each time."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, url: str, book: Book, ids: Fresh, pool: ThreadPoolExecutor) -> None:
        self.url = url
        self.ids = ids
        self._book = book
        self._pool = pool
        self._watch = Watch()
        self.client: Client
        self._name = ""
        self._threads = self._files = 0

    def begin(self) -> Callable[[], object]:
        self._name = f"t{token_hex(4)}"
        url = f"{self.url}?client_name={self._name}"
        self.client = Client(url, namespace="shop", **self.options)
        self.make_ready()
        return self.work

    def make_ready(self) -> None:
        self.ask()

    def work(self) -> None:
        raise NotImplementedError

    def ask(self) -> None:
        (id,) = self.ids(1)
        assert self.client.request(id, "echo")["id"] == id

    def in_thread(self, work: Callable[[], Any]) -> Future[Any]:
        return self._pool.submit(work)

    def check(self, at: str) -> None:
        """Whoever asks is answered promptly, and nothing is left."""
        began = self._watch.s
        self.ask()
        assert self._watch.s - began < PROMPT_S, at
        began = self._watch.s
        self.in_thread(self.ask).result()
        assert self._watch.s - began < PROMPT_S, at
        self.check_others(at)
        self.client.close()
        del self.client
        for left in (self._connections, self._more_threads, self._more_files):
            kit.eventually(lambda left=left: left() <= 0, what=f"{left.__name__} at {at}")  # type: ignore[misc]

    def warm_up(self) -> None:
        """What is imported, or begun once for the process, is there after this."""
        self.begin()()
        self._threads = self._files = sys.maxsize
        self.check("the beginning")
        self._threads, self._files = threads(), files()

    def check_others(self, at: str) -> None:
        """Who has waited meanwhile."""

    def _connections(self) -> int:
        found: list[dict[str, str]] = self._book.redis.client_list()
        return sum(each["name"] == self._name for each in found)

    def _more_threads(self) -> int:
        return threads() - self._threads

    def _more_files(self) -> int:
        return files() - self._files


def threads() -> int:
    """How many there are, without those that wait for the next handler: one more of them begins
    where the others have not become idle yet.
    """
    return sum("rqproc-handler" not in thread.name for thread in threading.enumerate())


def files() -> int:
    return len(list(Path("/proc/self/fd" if Path("/proc").exists() else "/dev/fd").iterdir()))


class First(Scene):
    """It has to connect."""

    def make_ready(self) -> None:
        """Nobody has asked."""

    def work(self) -> None:
        self.ask()


class Hit(Scene):
    def make_ready(self) -> None:
        (self.id,) = self.ids(1)
        self.kept = self.client.request(self.id, "price")

    def work(self) -> None:
        assert self.client.request(self.id, "price") == self.kept


class Miss(Scene):
    def work(self) -> None:
        (id,) = self.ids(1)
        assert self.client.request(id, "price")["n"] == 1


class WithArguments(Scene):
    def work(self) -> None:
        (id,) = self.ids(1)
        assert self.client.request(id, "echo", args=(1, "x"))["args"] == [1, "x"]


class Many(Scene):
    def make_ready(self) -> None:
        self.kept = self.ids(4)
        self.client.request_many(self.kept, "price")

    def work(self) -> None:
        asked = [*self.kept, *self.ids(4)]
        found = self.client.request_many(asked, "price")
        assert list(found) == asked
        assert {value["n"] for value in found.values()} == {1}


class Invalidation(Hit):
    def work(self) -> None:
        assert self.client.invalidate(self.id, "price")
        assert self.client.request(self.id, "price")["n"] == 2


class Enqueueing(Scene):
    def work(self) -> None:
        (id,) = self.ids(1)
        assert self.client.enqueue(id, "echo").id


class WhileAnotherWaits(Scene):
    def make_ready(self) -> None:
        (self.held,) = self.ids(1)
        self.waiting = self.in_thread(lambda: self.client.request(self.held, "gated"))
        self._book.started("gated", self.held)

    def work(self) -> None:
        self.ask()

    def check_others(self, at: str) -> None:
        began = self._watch.s
        self._book.release("gated", self.held)
        assert self.waiting.result()["n"] == 1
        assert self._watch.s - began < PROMPT_S + CHECK_S, at


class NearFirst(Scene):
    """It has to subscribe."""

    options: ClassVar = {"near": 10}

    def make_ready(self) -> None:
        """Nobody has asked."""

    def work(self) -> None:
        (id,) = self.ids(1)
        assert self.client.request(id, "price")["n"] == 1


class Near(Scene):
    options: ClassVar = {"near": 10}

    def make_ready(self) -> None:
        (self.id,) = self.ids(1)
        kit.eventually(lambda: self.client.reply(self.id, "price").source == "near")

    def work(self) -> None:
        assert self.client.request(self.id, "price")["n"] == 1
        self.client.invalidate(self.id, "price")
        assert self.client.request(self.id, "price")["n"] == 2


class Nobody(Scene):
    """No node lives: its handler is run here."""

    options: ClassVar = {"app": app}

    def begin(self) -> Callable[[], object]:
        super().begin()
        self.lost = Client(f"{self.url}?client_name={self._name}", namespace="nobody", app=app)
        self.lost.request(1, "here")
        return self.work

    def work(self) -> None:
        assert self.lost.request(7, "here") == [7]

    def check_others(self, at: str) -> None:
        began = self._watch.s
        assert self.lost.request(8, "here") == [8]
        assert self._watch.s - began < PROMPT_S, at
        self.lost.close()
        del self.lost


class TheEnd(Scene):
    options: ClassVar = {"near": 10}

    def make_ready(self) -> None:
        self.client.request(self.ids(1)[0], "price")
        self.client.members()

    def work(self) -> None:
        self.client.close()


SCENES = [
    First, Hit, Miss, WithArguments, Many, Invalidation, Enqueueing, WhileAnotherWaits, NearFirst,
    Near, Nobody, TheEnd,
]  # fmt: skip


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    both = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: both.wait(SOON_S), range(2)))  # both threads are there
        yield pool


def interrupted(scene: Scene, *, each: Each, part: int, parts: int) -> int:
    scene.warm_up()
    return interrupt_all(scene, each=each, part=part, parts=parts)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("part", range(LINE_PARTS))
@pytest.mark.parametrize("kind", SCENES)
def test_an_exception_at_any_line_leaves_others_answered_and_nothing_behind(
    shop: str, book: Book, ids: Fresh, pool: ThreadPoolExecutor, kind: type[Scene], part: int
) -> None:
    scene = kind(shop, book, ids, pool)
    assert interrupted(scene, each="line", part=part, parts=LINE_PARTS) > 5


@pytest.mark.exhaustive
@pytest.mark.timeout(400)
@pytest.mark.parametrize("part", range(INSTRUCTION_PARTS))
@pytest.mark.parametrize("kind", SCENES)
def test_an_exception_at_any_instruction_leaves_others_answered_and_nothing_behind(
    shop: str, book: Book, ids: Fresh, pool: ThreadPoolExecutor, kind: type[Scene], part: int
) -> None:
    scene = kind(shop, book, ids, pool)
    interrupted(scene, each="opcode", part=part, parts=INSTRUCTION_PARTS)
