"""An app of stateful ids, which tests of these are served by; its objects keep the shop's book."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import redis

from rqproc import App, asave, current, save

GATE_S = 30

app = App()

_BOOK = redis.Redis.from_url(os.environ["SHOP_URL"], socket_timeout=None)


def _note(what: str, tag: object) -> None:
    run = current()
    _BOOK.rpush(f"test:log:{run.resource}:{run.id}", f"{what} {tag} {run.node}")
    _BOOK.rpush(f"test:started:{run.resource}:{run.id}", what)


def _wait() -> None:
    """Wait for any release of this id, or for one on this node."""
    run = current()
    gate = f"test:gate:{run.resource}:{run.id}"
    if _BOOK.blpop([gate, f"{gate}:{run.node}"], timeout=GATE_S) is None:
        raise TimeoutError("the test did not open the gate")


class Base:
    """An account: a number, and how it is to be closed."""

    def __init__(self, id: Any, state: Any = None) -> None:
        self.balance = state or 0
        self.closes = "well"
        _note("made", self.balance)

    def deposit(self, amount: int) -> int:
        before = self.balance
        time.sleep(0.002)
        self.balance = before + amount
        return self.balance

    def deposit_safely(self, amount: int) -> int:
        self.balance += amount
        save(self.balance)
        return self.balance

    def deposit_at_the_gate(self, amount: int) -> int:
        _note("waits", amount)
        _wait()
        self.balance += amount
        save(self.balance)
        return self.balance

    def save_this(self, kind: str) -> None:
        save({"text": object(), "large": "x" * (1024 * 1024), "none": None}[kind])

    def close_like(self, how: str) -> None:
        self.closes = how

    def token(self) -> int:
        return current().token

    def fail(self) -> None:
        raise ValueError("no")

    def close(self) -> Any:
        _note("closed", self.balance)
        if self.closes == "raises":
            raise RuntimeError("it does not close")
        if self.closes == "hangs":
            _wait()
        ways = {"text": object(), "large": "x" * (1024 * 1024), "token": current().token}
        return ways.get(self.closes, self.balance)


@app.stateful(idle=60)
class Account(Base):
    """It stays until its node has to let it go."""


@app.stateful(idle=2.5, timeout=1.5)
class Brief(Base):
    """It is closed soon, and may not take long."""


@app.stateful(idle=60)
class Picky(Base):
    """It cannot always be made."""

    def __init__(self, id: Any, state: Any = None) -> None:
        if _BOOK.get(f"test:broken:{id}"):
            raise ValueError("it cannot be made")
        super().__init__(id, state)


@app.stateful(idle=2.5, timeout=1.5)
class Counter:
    """With coroutines, it lives on the event loop."""

    def __init__(self, id: Any, state: int | None = None) -> None:
        self.lock = asyncio.Lock()
        self.count = state or 0
        self.hangs = False

    async def add(self) -> int:
        async with self.lock:
            self.count += 1
            await asyncio.sleep(0)
            return self.count

    async def keep(self) -> None:
        await asave(self.count)

    def hang(self) -> None:
        self.hangs = True

    async def close(self) -> int:
        _note("closed", self.count)
        if self.hangs:
            await asyncio.sleep(GATE_S)
        return self.count
