"""What handlers write into the run log, and what is read there: each run logs its start, its end
and what it asks. Times are of the machine's monotonic clock, which processes share.

Knows the log's lines. Must not know what is made of them.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rqproc.context import Current, current
from rqproc.lab.journal import Journal
from rqproc.lab.torture.records import PUT, Ask, ObservedRun, said_of

RUN_LOG = "RQPROC_TORTURE_RUN_LOG"
"""Environment variable: path of the run log that a node's handlers write into."""

_numbers = itertools.count(1)
_log: Journal | None = None


class LoggedRun:
    """One run's account of itself.

    Args:
        tag: of the request that it is for.
        run: one of those that a batch handler is called for; None for the present one.
    """

    def __init__(self, tag: str = "", run: Current | None = None) -> None:
        run = run or current()
        self.run = f"{os.getpid()}.{next(_numbers)}"
        self.key = f"{run.resource}:{run.id}"
        self.tag = tag
        self._asked = itertools.count(1)
        began = time.monotonic()
        _write(
            id=self.run, began=began, key=self.key, tag=tag, token=run.token, pid=os.getpid(),
            node=run.node,
        )  # fmt: skip

    def end(self) -> dict[str, Any]:
        """Write the end; return the value."""
        at = time.monotonic()
        _write(id=self.run, ended=at)
        return {"run": self.run, "key": self.key, "tag": self.tag, "pid": os.getpid(), "at": at}

    def name(self) -> str:
        """Return a name for what this run is about to ask; no other run's request has it."""
        return f"{self.run}/{next(self._asked)}"

    def asks(self, name: str, key: str, *, tag: str, timeout_s: float) -> None:
        """Write that this run is about to ask for a key."""
        _write(id=name, by=self.run, key=key, tag=tag, timeout_s=timeout_s, asked=time.monotonic())

    def hears(self, name: str, outcome: object) -> None:
        """Write what came of it: a value, or an error."""
        _write(id=name, answered=time.monotonic(), **said_of(outcome))


def put(key: str) -> dict[str, Any]:
    """Return a value that no run has made, for a caller to put where one is kept; write that."""
    at, id = time.monotonic(), f"{os.getpid()}.{next(_numbers)}"
    _write(id=id, began=at, key=key, tag="", token=PUT, pid=os.getpid(), node="")
    _write(id=id, ended=at)
    return {"run": id, "key": key, "tag": "", "pid": os.getpid(), "at": at}


class Told(NamedTuple):
    """What handlers have written: their runs, and what these asked; each in the order of starts."""

    runs: tuple[ObservedRun, ...]
    asks: tuple[Ask, ...]


class RunLog:
    """The reader of a run log."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._runs: dict[str, ObservedRun] = {}
        self._asks: dict[str, Ask] = {}

    def told(self) -> Told:
        """Return what was written until now."""
        for said in self._journal.news():
            self._hear(said.pop("id"), said)
        return Told(tuple(self._runs.values()), tuple(self._asks.values()))

    def _hear(self, id: str, said: dict[str, Any]) -> None:
        if "began" in said:
            self._runs[id] = ObservedRun(id, **said)
        elif "ended" in said:
            self._runs[id] = replace(self._runs[id], **said)
        elif "asked" in said:
            self._asks[id] = Ask("nested", **said)
        else:
            self._asks[id] = self._asks[id].ends(**said)


@contextmanager
def writing_into(path: Path) -> Iterator[RunLog]:
    """Handlers that this process runs itself write into this run log while the context lasts."""
    global _log
    with closing(Journal(path)) as journal:
        before, _log = _log, journal
        try:
            yield RunLog(journal)
        finally:
            _log = before


def _write(**said: Any) -> None:
    global _log
    if _log is None:
        _log = Journal(Path(os.environ[RUN_LOG]))
    _log.write(said)
