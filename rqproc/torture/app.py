"""The app that nodes serve while they are tortured: each run writes its start and end into a book.

One line is one write to a file opened for appending, so that lines of several processes, and of one
that is killed, never mix. Times are of the machine's monotonic clock, which processes share.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
from typing import Any

from rqproc.app import App
from rqproc.context import current
from rqproc.placement import Id

BOOK = "RQPROC_TORTURE_BOOK"
"""Environment variable: path of the book."""
TTL_S = 1.0
LONGEST_S = 0.04

app = App()

_numbers = itertools.count(1)
_files: dict[str, int] = {}


class Page:
    """One run's account of itself."""

    def __init__(self, tag: str) -> None:
        run = current()
        self.run = f"{os.getpid()}.{next(_numbers)}"
        self.key = f"{run.resource}:{run.id}"
        self.tag = tag
        began = time.monotonic()
        self._write(
            began=began, key=self.key, tag=tag, token=run.token, pid=os.getpid(), node=run.node
        )

    def end(self) -> dict[str, Any]:
        """Write the end; return the value."""
        at = time.monotonic()
        self._write(ended=at)
        return {"run": self.run, "key": self.key, "tag": self.tag, "pid": os.getpid(), "at": at}

    def _write(self, **said: Any) -> None:
        os.write(_book(), (json.dumps({"id": self.run, **said}) + "\n").encode())


def _book() -> int:
    path = os.environ[BOOK]
    if path not in _files:
        _files[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return _files[path]


@app.resource(ttl=TTL_S)
def kept(id: Id) -> dict[str, Any]:
    """A value that is kept."""
    page = Page("")
    time.sleep(random.uniform(0.0, LONGEST_S))  # noqa: S311
    return page.end()


@app.resource(ttl=0)
def charge(id: Id, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """A choke point; ``tag`` names the request."""
    page = Page(tag)
    time.sleep(hold_s)
    return page.end()


@app.resource(ttl=0)
async def acharge(id: Id, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """The same on the event loop."""
    page = Page(tag)
    await asyncio.sleep(hold_s)
    return page.end()
