"""Where callers write down what they ask and what they get, from any thread."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rqproc.lab.torture.records import Ask, How, said_of


class Ledger:
    """Requests that are open, and those that have ended."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, Ask] = {}
        self._ended: list[Ask] = []
        self._lock = threading.Lock()

    def tag(self) -> str:
        """Return a name for a request, the first of its kind."""
        return f"r{next(self._numbers)}"

    def ask(self, how: How, key: str, *, tag: str = "", timeout_s: float = 0.0) -> int:
        """Note that a request is about to leave; return its number."""
        number = next(self._numbers)
        with self._lock:
            self._open[number] = Ask(how, key, tag, time.monotonic(), timeout_s)
        return number

    def accepted(self, number: int) -> None:
        """An enqueued job was handed over."""
        now = time.monotonic()
        with self._lock:
            self._open[number] = replace(self._open[number], accepted=now)

    def answered(self, number: int, outcome: object) -> None:
        """Note a request's end: its value, or the error that it raised."""
        now, said = time.monotonic(), said_of(outcome)
        with self._lock:
            self._ended.append(self._open.pop(number).ends(now, **said))

    @contextmanager
    def asking(
        self, how: How, keys: Iterable[str], *, tag: str = "", timeout_s: float = 0.0
    ) -> Iterator[dict[str, object]]:
        """Note requests that leave together, and their ends: what is put in for each key, or what
        is raised.
        """
        numbers = {key: self.ask(how, key, tag=tag, timeout_s=timeout_s) for key in keys}
        found: dict[str, object] = {}
        try:
            yield found
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the caller got
            found.update(dict.fromkeys(numbers, error))
        for key, number in numbers.items():
            self.answered(number, found[key])

    def given_up(self, number: int) -> None:
        """Nobody looks for this job's result any more."""
        with self._lock:
            self._ended.append(self._open.pop(number))

    def counts(self) -> Counter[str]:
        """Return how many have ended, by how: in a value or in which error."""
        with self._lock:
            ended = list(self._ended)
        return Counter(ask.error or ("lost" if ask.answered is None else "value") for ask in ended)

    def all(self) -> tuple[Ask, ...]:
        """Return every request, those without an end too."""
        with self._lock:
            return (*self._ended, *self._open.values())
