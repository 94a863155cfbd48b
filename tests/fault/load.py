"""Callers that ask all the time while something is done to the cluster."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from integration import kit
from integration.kit import Book
from watch import Watch

from rqproc import Client
from rqproc.errors import RqprocError

_tags = itertools.count()


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and what came of it."""

    id: int
    tag: str
    caller: int
    began: float
    took_s: float
    value: Any
    error: Exception | None


class Load:
    """Threads that ask for ids of one resource until the end of the ``with`` block.

    With a ttl=0 resource each request carries a tag of its own, by which its runs are told apart.
    """

    def __init__(
        self, client: Client, resource: str, ids: Sequence[int], *, callers: int = 6,
        timeout: float = 10.0, pause_s: float = 0.0,
    ) -> None:  # fmt: skip
        self._client = client
        self._resource = resource
        self._ids = ids
        self._timeout = timeout
        self._pause_s = pause_s
        self._end = threading.Event()
        self._watch = Watch()
        self._callers = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(callers)
        ]
        self.answers: list[Answer] = []

    def __enter__(self) -> Self:
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end.set()
        for caller in self._callers:
            caller.join(self._timeout + 5)
        self._watch.stop()
        assert not any(caller.is_alive() for caller in self._callers), "a caller hangs"

    @property
    def failures(self) -> list[str]:
        return [f"{a.id}: {a.error!r}" for a in self.answers if a.error]

    @property
    def longest_s(self) -> float:
        return max(answer.took_s for answer in self.answers)

    def more(self, count: int, *, within_s: float = 20.0) -> None:
        """Wait for so many further answers."""
        wanted = len(self.answers) + count
        kit.eventually(
            lambda: len(self.answers) >= wanted, within_s=within_s, what=f"{count} more answers"
        )

    def all_ids_answered(self, *, within_s: float = 20.0) -> None:
        """Wait until each id has been asked for and answered from now on."""
        now = time.monotonic()
        kit.eventually(
            lambda: {a.id for a in self.answers if a.began > now and not a.error} == set(self._ids),
            within_s=within_s,
            what="an answer for every id",
        )

    def _run(self, caller: int) -> None:
        chance = random.Random(caller)
        takes_tag = self._resource.endswith("charge")
        while not self._end.is_set():
            id, tag = chance.choice(self._ids), f"t{next(_tags)}"
            args = (tag, self._pause_s) if takes_tag else ()
            began, own_s = time.monotonic(), self._watch.s
            value, error = None, None
            try:
                value = self._client.request(id, self._resource, args=args, timeout=self._timeout)
            except RqprocError as raised:
                error = raised
                time.sleep(0.01)  # an error comes at once: nobody is served by thousands of them
            took_s = self._watch.s - own_s
            self.answers.append(Answer(id, tag, caller, began, took_s, value, error))


def assert_exactly_once(load: Load, book: Book, resource: str, ids: Sequence[int]) -> None:
    """Each request was run once, from its start to its end, and never beside another of its id."""
    runs: Counter[str] = Counter()
    for id in ids:
        log = book.log(resource, id)
        assert kit.overlapping(log) == []
        runs.update(tag for what, tag, _ in log if what == "start")
        assert [tag for what, tag, _ in log if what == "start"] == [
            tag for what, tag, _ in log if what == "end"
        ]
    assert {tag: times for tag, times in runs.items() if times != 1} == {}
    assert {answer.tag for answer in load.answers if not answer.error} <= set(runs)


def assert_never_older(load: Load) -> None:
    """No caller gets a value of an id that was computed before one that it has already had."""
    latest: dict[tuple[int, int], int] = {}
    for answer in load.answers:
        if answer.error:
            continue
        key = (answer.caller, answer.id)
        assert answer.value["n"] >= latest.get(key, 0), f"{answer} is older than {latest[key]}"
        latest[key] = answer.value["n"]
