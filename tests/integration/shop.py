"""The app that the test clusters serve.

Handlers tell what they do in Redis lists, and wait there to be released: so tests make
interleavings on purpose and read afterwards what happened. See ``kit.Book`` for the other end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import redis

import rqproc
from rqproc import App, current

GATE_S = 30

app = App()


# Made once, before any thread: of two that two threads make, one would be closed while it is used.
_BOOK = redis.Redis.from_url(os.environ["SHOP_URL"], socket_timeout=None)


def _book() -> redis.Redis:
    """A connection of the tests' own, which no proxy cuts."""
    return _BOOK


def _where() -> str:
    run = current()
    return f"{run.resource}:{run.id}"


def _count() -> dict[str, Any]:
    """One computation: its number, counted in Redis, tells it from all others of this id."""
    n = _book().incr(f"test:count:{_where()}")
    return {"n": n, "node": current().node, "pid": os.getpid()}


def _begin(tag: object) -> None:
    text = f"start {tag} {current().node}"
    with _book().pipeline() as pipe:
        pipe.rpush(f"test:log:{_where()}", text)
        pipe.rpush(f"test:started:{_where()}", str(tag))
        pipe.execute()


def _end(tag: object) -> None:
    _book().rpush(f"test:log:{_where()}", f"end {tag} {current().node}")


def _wait() -> None:
    """Wait for any release of this id, or for one on this node."""
    gate = f"test:gate:{_where()}"
    if _book().blpop([gate, f"{gate}:{current().node}"], timeout=GATE_S) is None:
        raise TimeoutError("the test did not open the gate")


def ask(id: Any) -> Any:
    """For jobs of other queues: a function that asks, and is no resource."""
    return rqproc.request(id, "price")


@app.resource(ttl=60)
def price(id: Any) -> dict[str, Any]:
    return _count()


@app.resource(ttl=60)
def instant(id: Any) -> Any:
    """What takes no time, for those who ask for very many."""
    return {"id": id}


_hoard: list[bytearray] = []


@app.resource(ttl=0)
def hoard(id: Any, mebibytes: int) -> int:
    """Takes memory, and keeps it."""
    _hoard.append(bytearray(b"x") * (mebibytes << 20))
    return mebibytes


@app.resource(ttl=3600)
def lasting(id: Any) -> dict[str, Any]:
    return _count()


@app.resource(ttl=2)
def brief(id: Any) -> dict[str, Any]:
    return _count()


@app.resource(ttl=60)
async def aprice(id: Any) -> dict[str, Any]:
    await asyncio.sleep(0)
    return _count()


@app.resource(ttl=60)
def slow_price(id: Any) -> dict[str, Any]:
    _begin("price")
    _wait()
    return _count()


@app.resource(ttl=0)
def charge(id: Any, tag: object = "-", pause_s: float = 0.0) -> dict[str, Any]:
    """Logs its start and its end, and counts."""
    _begin(tag)
    time.sleep(pause_s)
    counted = _count()
    _end(tag)
    return counted


@app.resource(ttl=0)
async def acharge(id: Any, tag: object = "-", pause_s: float = 0.0) -> dict[str, Any]:
    _begin(tag)
    await asyncio.sleep(pause_s)
    counted = _count()
    _end(tag)
    return counted


@app.resource(ttl=0)
def gated(id: Any, tag: object = "-") -> dict[str, Any]:
    """As charge, but it ends when the test says so."""
    _begin(tag)
    _wait()
    counted = _count()
    _end(tag)
    return counted


@app.resource(ttl=0)
async def agated(id: Any, tag: object = "-") -> dict[str, Any]:
    _begin(tag)
    await asyncio.to_thread(_wait)
    counted = _count()
    _end(tag)
    return counted


@app.resource(ttl=0)
def echo(id: Any, *args: Any, **kwargs: Any) -> Any:
    return {"id": id, "args": list(args), "kwargs": kwargs, "token": current().token}


@app.resource(ttl=0, timeout=0.3)
def overlong(id: Any, tag: object = "-") -> dict[str, Any]:
    """Waits for the test, whatever its timeout says: a thread cannot be ended."""
    _begin(tag)
    _wait()
    _end(tag)
    return _count()


@app.resource(ttl=0, timeout=0.3)
async def aoverlong(id: Any, tag: object = "-") -> None:
    _begin(tag)
    await asyncio.sleep(GATE_S)


@app.resource(ttl=0)
def odd(id: Any, kind: str) -> Any:
    """What JSON can be written of, and others could not read, or read as something else."""
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    return {"digits": 10**5000, "depth": deep, "keys": {1: "a", "1": "b"}, "fine": [1]}[kind]


@app.resource(ttl=0)
def chain(id: Any, *rest: Any) -> list[Any]:
    """Asks for the next id, that one's handler for the one after it, and so on."""
    _begin(id)
    found = chain.request(*rest) if rest else []
    return [id, *found]


@app.resource(ttl=0)
async def achain(id: Any, *rest: Any) -> list[Any]:
    found = await achain.arequest(*rest) if rest else []
    return [id, *found]


@app.resource(ttl=60)
def forgetful(id: Any) -> Any:
    """Drops what is kept for its own id, from within another's handler too."""
    return {"dropped": forgetful.invalidate(id)}


@app.resource(ttl=0)
def meet(id: Any, other: Any) -> Any:
    """Begins, waits for the test, and asks for another id."""
    _begin("meet")
    _wait()
    return echo.request(other) if other is None else meet.request(other, None)


@app.resource(ttl=0)
def nested(id: Any) -> dict[str, Any]:
    """Asks the cluster for another resource, from within a node."""
    found: dict[str, Any] = price.request(id)
    return found


@app.resource(ttl=0)
def gather(id: Any, *others: Any) -> list[Any]:
    """Asks for many at once, from within a node."""
    return list(price.request_many(others).values())


@app.resource(ttl=0)
def around(id: Any, *others: Any) -> list[Any]:
    """Asks for itself among others."""
    return list(around.request_many(others).values()) if others else []


@app.resource(ttl=0)
async def agather(id: Any, *others: Any) -> list[Any]:
    return list((await price.arequest_many(others)).values())


@app.resource(ttl=0)
def give(id: Any, what: str) -> Any:
    """Values that are hard to carry."""
    values = {
        "set": {1, 2},
        "nan": float("nan"),
        "bytes": b"x",
        "large": "x" * (1024 * 1024),
        "fits": "x" * (1024 * 1024 - 2),
        "surrogate": "\ud800",
        "none": None,
        "deep": _deep(100_000),
    }
    return values[what]


@app.resource(ttl=60)
def poster(id: Any) -> str:
    """Almost the most that a value may be."""
    return f"{id}:" + "x" * 1_000_000


@app.resource(ttl=60)
def page(id: Any) -> str:
    """Less than what is pushed to callers at most."""
    return f"{id}:" + "x" * 60_000


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


class Mute(Exception):
    """An error that cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@app.resource(ttl=0)
def explode(id: Any, how: str = "value") -> Any:
    _begin(how)
    errors: dict[str, BaseException] = {
        "value": ValueError(f"no such id: {id}"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "mute": Mute(),
        "long": ValueError("x" * 3_000_000),
        "surrogate": ValueError("\ud800"),
    }
    raise errors[how]


@app.resource(ttl=60)
def fragile(id: Any) -> dict[str, Any]:
    """Fails the first time, then works."""
    counted = _count()
    if counted["n"] == 1:
        raise ValueError("the first time fails")
    return counted


@app.resource(ttl=0)
def die(id: Any, code: int = 9) -> Any:
    """Takes its process with it."""
    _begin("die")
    sys.stderr.flush()
    os._exit(code)
