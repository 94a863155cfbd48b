"""The app that nodes serve while they are tortured: each run writes what it does into a run log.

Knows handlers, and how they ask for other ids. How it is written is told in ``run_log``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from rqproc.app import App
from rqproc.context import current
from rqproc.errors import RedisUnavailable, StateSuperseded
from rqproc.ids import Id
from rqproc.lab.torture.run_log import LoggedRun
from rqproc.objects import asave, save

TTL_S = 1.0
STALE_S = 1.5
"""For so long an old value of ``renewed`` may be given."""
IDLE_S = 0.5
"""After so long an id's object is closed, so that others follow it on the same node too."""
LONGEST_S = 0.04
LIMIT_S = 0.3
"""What a run of ``limited`` and ``alimited`` may take."""
INNER_S = 8.0
"""How long a handler waits for what it asks: longer than any circle may go unnoticed."""

app = App()


@app.resource(ttl=TTL_S)
def kept(id: Id) -> dict[str, Any]:
    """A value that is kept."""
    logged = LoggedRun("")
    time.sleep(random.uniform(0.0, LONGEST_S))  # noqa: S311
    return logged.end()


@app.resource(ttl=TTL_S, ttl_jitter=0.2, stale_ttl=STALE_S, refresh_ahead=0.7)
async def renewed(id: Id) -> dict[str, Any]:
    """A value that is made anew before its time is over, or given while it is made."""
    logged = LoggedRun()
    await asyncio.sleep(random.uniform(0.0, LONGEST_S))  # noqa: S311
    return logged.end()


@app.resource(ttl=TTL_S, batch=4)
def batched(ids: Sequence[Id]) -> dict[Id, Any]:
    """Values that are kept, and made together."""
    logged = {id: LoggedRun(run=current().batch[id]) for id in ids}
    time.sleep(random.uniform(0.0, LONGEST_S))  # noqa: S311
    return {id: run.end() for id, run in logged.items()}


@app.resource(ttl=0)
def charge(id: Id, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """A choke point; ``tag`` names the request."""
    logged = LoggedRun(tag)
    time.sleep(hold_s)
    return logged.end()


@app.resource(ttl=0)
async def acharge(id: Id, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """The same on the event loop."""
    logged = LoggedRun(tag)
    await asyncio.sleep(hold_s)
    return logged.end()


@app.resource(ttl=0)
def nested(id: Id, tag: str = "", hold_s: float = 0.0, way: Sequence[str] = ()) -> dict[str, Any]:
    """Asks for the first key of ``way``, whose handler may ask for those after it."""
    logged = LoggedRun(tag)
    time.sleep(hold_s)
    if way:
        inner = _Inner(logged, hold_s, way)
        outcome: object
        try:
            outcome = app.client.request(inner.id, inner.resource, args=inner.args, timeout=INNER_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the handler got
            outcome = error
        inner.ends(outcome)
    return logged.end()


@app.resource(ttl=0)
async def anested(
    id: Id, tag: str = "", hold_s: float = 0.0, way: Sequence[str] = ()
) -> dict[str, Any]:
    """The same on the event loop."""
    logged = LoggedRun(tag)
    await asyncio.sleep(hold_s)
    if way:
        inner = _Inner(logged, hold_s, way)
        outcome: object
        try:
            outcome = await app.async_client.request(
                inner.id, inner.resource, args=inner.args, timeout=INNER_S
            )
        except Exception as error:  # noqa: BLE001
            outcome = error
        inner.ends(outcome)
    return logged.end()


class _Inner:
    """A request that a handler makes, written down before it leaves and when it has ended."""

    def __init__(self, logged: LoggedRun, hold_s: float, way: Sequence[str]) -> None:
        self._page = logged
        key, *rest = way
        self.resource, _, number = key.partition(":")
        self.id = int(number)
        self._name = logged.name()
        # What is kept takes no arguments; what asks in turn is told the rest of the way.
        keeps = self.resource in (kept.name, batched.name)
        asks = self.resource in (nested.name, anested.name)
        tag = "" if keeps else self._name
        self.args = () if keeps else (tag, hold_s, rest) if asks else (tag, hold_s)
        logged.asks(self._name, key, tag=tag, timeout_s=INNER_S)

    def ends(self, outcome: object) -> None:
        self._page.hears(self._name, outcome)


@app.resource(ttl=0, timeout=LIMIT_S)
def limited(id: Id, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """A choke point that may not take long; a thread that does is not ended."""
    logged = LoggedRun(tag)
    time.sleep(hold_s)
    return logged.end()


@app.resource(ttl=0, timeout=LIMIT_S)
async def alimited(id: Id, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """The same on the event loop, where it is cancelled."""
    logged = LoggedRun(tag)
    try:
        await asyncio.sleep(hold_s)
    except asyncio.CancelledError:
        logged.end()
        raise
    return logged.end()


@app.resource(ttl=0, lane="tenant")
def till(id: Id, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """A choke point that it shares with ``book``."""
    logged = LoggedRun(tag)
    time.sleep(hold_s)
    return logged.end()


@app.resource(ttl=0, lane="tenant")
async def book(id: Id, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
    """The same on the event loop."""
    logged = LoggedRun(tag)
    await asyncio.sleep(hold_s)
    return logged.end()


@app.stateful(idle=IDLE_S, name="tally")
class CallCounter:
    """Counts its calls; the count is kept before a call is answered."""

    def __init__(self, id: Id, count: int | None = None) -> None:
        self.count = count or 0

    def add(self, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
        logged = LoggedRun(tag)
        time.sleep(hold_s)
        self.count += 1
        try:
            save(self.count)
        except (RedisUnavailable, StateSuperseded):  # it may not be kept
            return logged.end()
        return {**logged.end(), "count": self.count}

    def close(self) -> int:
        return self.count


@app.stateful(idle=IDLE_S, name="atally")
class AsyncCallCounter:
    """The same on the event loop."""

    def __init__(self, id: Id, count: int | None = None) -> None:
        self.count = count or 0

    async def add(self, tag: str = "", hold_s: float = 0.0) -> dict[str, Any]:
        logged = LoggedRun(tag)
        await asyncio.sleep(hold_s)
        self.count += 1
        try:
            await asave(self.count)
        except (RedisUnavailable, StateSuperseded):
            return logged.end()
        return {**logged.end(), "count": self.count}

    async def close(self) -> int:
        return self.count
