"""An app without a server, whose handlers wait to be released and write down what they do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rqproc import App, Client, current
from rqproc.declared import Resource
from rqproc.local.backend import LocalBackend
from rqproc.local.spaces import DaemonRuntime, place_apart
from rqproc.protocol.keys import Keys
from rqproc.settings import NodeSettings

WITHIN_S = 10.0


class Clock:
    """A runtime whose time, for entries, deadlines and runs, passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.runtime = DaemonRuntime()
        self.runtime.suspend_proof = lambda: self.now_s

    def passes(self, seconds: float) -> None:
        self.now_s += seconds


class Shop:
    """Its plain resources answer at once; ``held`` and ``slow`` wait for ``release``."""

    def __init__(self, url: str = "local://") -> None:
        self.app = App(url)
        self.log: list[str] = []
        self._begun = threading.Semaphore(0)
        self._gate = threading.Semaphore(0)
        self.price = self._declare("price", 30)
        self.slow = self._declare("slow", 30)
        self.aslow = self._declare("aslow", 30)
        self.charge = self._declare("charge", 0)
        self.held = self._declare("held", 0)
        self.explode = self._declare("explode", 0)
        self.chain = self._declare("chain", 0)
        self.achain = self._declare("achain", 0)
        self.meet = self._declare("meet", 0)

    def _declare(self, name: str, ttl: float) -> Resource[..., Any]:
        return self.app.resource(ttl=ttl, name=name)(getattr(self, f"_{name}"))

    # --- handlers ---

    def _price(self, id: Any) -> dict[str, Any]:
        return {"id": id, "n": self._note(id), "token": current().token}

    def _slow(self, id: Any) -> dict[str, Any]:
        return self._wait(id)

    async def _aslow(self, id: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self._wait, id)

    def _charge(self, id: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"id": id, "n": self._note(id), "args": args, "kwargs": kwargs}

    def _held(self, id: Any, tag: object = None) -> dict[str, Any]:
        return self._wait(tag or id)

    def _explode(self, id: Any) -> None:
        raise ValueError(f"no such id: {id}")

    def _chain(self, id: Any, *others: Any) -> list[Any]:
        return [id, *(self.chain.request(others[0], *others[1:]) if others else ())]

    async def _achain(self, id: Any, *others: Any) -> list[Any]:
        return [id, *(await self.achain.arequest(others[0], *others[1:]) if others else ())]

    def _meet(self, id: Any, other: Any) -> Any:
        self._wait(id)
        return self.meet.request(other, id)

    def _note(self, what: object) -> int:
        self.log.append(str(what))
        return self.log.count(str(what))

    def _wait(self, what: object) -> dict[str, Any]:
        n = self._note(what)
        self._begun.release()
        assert self._gate.acquire(timeout=WITHIN_S), "nobody opened the gate"
        self.log.append(f"end {what}")
        return {"n": n}

    # --- for tests ---

    def begun(self, times: int = 1) -> None:
        """Wait until so many handlers have begun to wait."""
        for _ in range(times):
            assert self._begun.acquire(timeout=WITHIN_S), "no handler began"

    def release(self, times: int = 1) -> None:
        self._gate.release(times)

    @contextmanager
    def at(self, *, clock: Clock | None = None, **settings: int) -> Iterator[LocalBackend]:
        """Have it served in a place of its own, by these limits and this clock."""
        runtime = clock.runtime if clock else None
        limits = replace(NodeSettings(), **settings)
        place = place_apart("default", self.app, runtime=runtime, settings=limits)
        there = LocalBackend(Keys("default"), place)
        try:
            with self.app.at(there):
                yield there
        finally:
            place.end()


def holds(client: Client, requests: int) -> None:
    """Wait until so many requests are under way; each look is a word with who holds them."""
    until(lambda: client.membership().nodes[0].held == requests)


def until(look: Callable[[], bool]) -> None:
    end = time.monotonic() + WITHIN_S
    while not look():
        assert time.monotonic() < end, "it never was so"
