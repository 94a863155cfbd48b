"""Apps for nodes under torture that break one promise each: the judge must find it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rqproc import App
from rqproc.errors import RequestCycle, RequestTimeout
from rqproc.lab.torture.app import IDLE_S
from rqproc.lab.torture.app import app as honest_app
from rqproc.lab.torture.run_log import LoggedRun

Handler = Callable[..., Any]


def honest(id: int, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    logged = LoggedRun(tag)
    time.sleep(hold_s)
    return logged.end()


def _app(**lies: Handler) -> App:
    """The torture's resources, with other handlers for some of them."""
    app = App()
    for name, lie in lies.items():
        resource = honest_app.resources[name]
        if isinstance(lie, type):
            app.stateful(idle=IDLE_S, name=name)(lie)
        else:
            app.resource(ttl=resource.ttl_s, name=name, timeout=resource.timeout_s)(lie)
    for name, resource in honest_app.resources.items():
        app._resources.setdefault(name, resource)
    return app


_first: dict[int, Any] = {}


def _keeps_for_ever(id: int) -> dict[str, Any]:
    """A cache of its own behind the cluster's back."""
    if id not in _first:
        _first[id] = honest(id)
    found: dict[str, Any] = _first[id]
    return found


def _returns_too_early(id: int, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """The work goes on when the lane has been given back."""
    logged = LoggedRun(tag)
    at = time.monotonic()
    threading.Timer(0.15, logged.end).start()
    return {"run": logged.run, "key": logged.key, "tag": tag, "pid": os.getpid(), "at": at}


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
    if int(found["run"].partition(".")[2]) > 150:
        os._exit(3)
    return found


class _Forgetful:
    """An object that does not give its state to the next."""

    def __init__(self, id: int, state: object = None) -> None:
        self.count = 0

    def add(self, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
        self.count += 1
        return {**LoggedRun(tag).end(), "count": self.count}


_children: list[subprocess.Popen[bytes]] = []


def _leaves_a_process(id: int) -> dict[str, Any]:
    if not _children:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        _children.append(subprocess.Popen(command, start_new_session=True))
    return honest(id)


async def _cannot_be_cancelled(id: int, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    logged = LoggedRun(tag)
    end = time.monotonic() + (4.0 if tag else 0.0)
    while (left_s := end - time.monotonic()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left_s)
    return logged.end()


def _sees_circles(id: int, tag: str = "", hold_s: float = 0.0, way: Any = ()) -> dict[str, Any]:
    logged = LoggedRun(tag)
    name = logged.name()
    logged.asks(name, "charge:1", tag=name, timeout_s=8.0)
    logged.hears(name, RequestCycle("charge", 1, [("charge", 1)]))
    return logged.end()


def _waits_for_ever(id: int, tag: str = "", hold_s: float = 0.0, way: Any = ()) -> dict[str, Any]:
    """Two ids whose handlers wait for each other, whatever the cluster says of it."""
    logged = LoggedRun(tag)
    if tag and id in (1, 2):
        name = logged.name()
        logged.asks(name, f"nested:{3 - id}", tag=name, timeout_s=8.0)
        time.sleep(7.0)
        logged.hears(name, RequestTimeout("nested", 3 - id, 8.0))
    return logged.end()


keeps_for_ever = _app(kept=_keeps_for_ever)
returns_too_early = _app(charge=_returns_too_early)
runs_twice = _app(charge=_runs_twice)
answers_another = _app(charge=_answers_another)
raises = _app(charge=_raises)
ends_its_process = _app(charge=_ends_its_process)
leaves_a_process = _app(kept=_leaves_a_process)
cannot_be_cancelled = _app(alimited=_cannot_be_cancelled)
sees_circles = _app(nested=_sees_circles)
waits_for_ever = _app(nested=_waits_for_ever)
renews_nothing = _app(renewed=_keeps_for_ever)
forgets_calls = _app(tally=_Forgetful)
