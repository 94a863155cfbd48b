"""Apps for nodes under torture that break one promise each: the judge must find it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from rqproc import App
from rqproc.torture.app import TTL_S, Page
from rqproc.torture.wishes import keys

Handler = Callable[..., Any]


def honest(id: int, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    page = Page(tag)
    time.sleep(hold_s)
    return page.end()


def _app(**lies: Handler) -> App:
    """The torture's resources, with other handlers for some of them."""
    app = App()
    for name in {key.partition(":")[0] for key in keys()}:
        handler = lies.get(name, honest)
        ttl = TTL_S if name == "kept" else 0
        app.resource(ttl=ttl, name=name)(handler if ttl == 0 else _of_id(handler))
    return app


def _of_id(handler: Handler) -> Handler:
    def kept(id: int) -> Any:
        return handler(id)

    return kept


_first: dict[int, Any] = {}


def _keeps_for_ever(id: int) -> dict[str, Any]:
    """A cache of its own behind the cluster's back."""
    if id not in _first:
        _first[id] = honest(id)
    found: dict[str, Any] = _first[id]
    return found


def _returns_too_early(id: int, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """The work goes on when the lane has been given back."""
    page = Page(tag)
    at = time.monotonic()
    threading.Timer(0.15, page.end).start()
    return {"run": page.run, "key": page.key, "tag": tag, "pid": os.getpid(), "at": at}


def _runs_twice(id: int, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    honest(id, tag)
    return honest(id, tag, hold_s)


def _answers_another(id: int, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    return {**honest(id, tag, hold_s), "tag": "another"}


def _raises(id: int, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    if tag.endswith("7"):
        raise KeyError(tag)
    return honest(id, tag, hold_s)


def _ends_its_process(id: int, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    found = honest(id, tag, hold_s)
    if int(found["run"].partition(".")[2]) > 40:
        os._exit(3)
    return found


_children: list[subprocess.Popen[bytes]] = []


def _leaves_a_process(id: int) -> dict[str, Any]:
    if not _children:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        _children.append(subprocess.Popen(command, start_new_session=True))
    return honest(id)


keeps_for_ever = _app(kept=_keeps_for_ever)
returns_too_early = _app(charge=_returns_too_early)
runs_twice = _app(charge=_runs_twice)
answers_another = _app(charge=_answers_another)
raises = _app(charge=_raises)
ends_its_process = _app(charge=_ends_its_process)
leaves_a_process = _app(kept=_leaves_a_process)
