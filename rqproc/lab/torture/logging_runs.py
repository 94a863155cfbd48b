"""What handlers write into the run log: each run logs its start, its end and what it asks.

One line is one write to a file opened for appending, so that lines of several processes, and of one
that is killed, never mix. Times are of the machine's monotonic clock, which processes share.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rqproc.context import current

RUN_LOG = "RQPROC_TORTURE_RUN_LOG"
"""Environment variable: path of the run log that a node's handlers write into."""
DETAIL_CHARS = 300

_numbers = itertools.count(1)
_run_log: int | None = None


class LoggedRun:
    """One run's account of itself."""

    def __init__(self, tag: str) -> None:
        run = current()
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
        at = time.monotonic()
        if isinstance(outcome, BaseException):
            detail = str(outcome)[:DETAIL_CHARS]
            _write(id=name, answered=at, error=type(outcome).__name__, detail=detail)
        else:
            _write(id=name, answered=at, value=outcome if isinstance(outcome, Mapping) else None)


@contextmanager
def writing_into(run_log: Path) -> Iterator[None]:
    """Handlers that this process runs itself write into this run log while the context lasts."""
    global _run_log
    before, _run_log = _run_log, _open(run_log)
    try:
        yield
    finally:
        file, _run_log = _run_log, before
        os.close(file)


def _open(run_log: Path) -> int:
    return os.open(run_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _write(**said: Any) -> None:
    global _run_log
    if _run_log is None:
        _run_log = _open(Path(os.environ[RUN_LOG]))
    os.write(_run_log, (json.dumps(said) + "\n").encode())
