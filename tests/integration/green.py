"""What programs with greenlets stand on: a Python that gevent or eventlet has patched.

It is patched when this is imported, by the arguments of ``greenlets.py``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

LIBRARY = sys.argv[1]
FIRST = sys.argv[2].partition(":")[0]


def patch(**what: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eventlet says of itself that it is deprecated
        if LIBRARY == "gevent":
            from gevent import monkey

            monkey.patch_all(**what)
        else:
            import eventlet

            eventlet.monkey_patch(**what)


if FIRST == "halfway":
    patch(thread=False)
elif FIRST != "late":
    patch()

import redis  # noqa: E402

from rqproc import App, Client  # noqa: E402
from rqproc.errors import RqprocError  # noqa: E402

Work = Callable[[], Any]
URL = os.environ["RQPROC_REDIS_URL"]
PATIENT_S = 40
"""Where nothing is to take long: more than a machine takes that is busy with others."""


class Gevent:
    """Greenlets as gevent has them."""

    def __init__(self) -> None:
        import gevent

        self._gevent = gevent
        self.timeout: Any = gevent.Timeout

    def spawn(self, work: Work) -> Any:
        return self._gevent.spawn(work)

    def wait(self, greenlet: Any) -> Any:
        return greenlet.get()

    def kill(self, greenlet: Any) -> None:
        greenlet.kill(block=False)

    def renew(self) -> None:
        """It has done so when it forked."""


class Eventlet:
    """Green threads as eventlet has them."""

    def __init__(self) -> None:
        import eventlet

        self._eventlet = eventlet
        self.timeout: Any = eventlet.Timeout

    def spawn(self, work: Work) -> Any:
        return self._eventlet.spawn(work)

    def wait(self, greenlet: Any) -> Any:
        return greenlet.wait()

    def kill(self, greenlet: Any) -> None:
        greenlet.kill()

    def renew(self) -> None:
        """Begin a loop of its own in a forked child, as eventlet wants."""
        self._eventlet.hubs.use_hub()


class Greenlets:
    """Those of the library that was asked for, from when it is loaded."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    @cached_property
    def _library(self) -> Any:
        return Gevent() if LIBRARY == "gevent" else Eventlet()


green = Greenlets()


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def told(work: Work) -> Any:
    """Return what comes of it, or the name of its error."""
    try:
        return work()
    except RqprocError as error:
        return type(error).__name__


def begin(work: Work) -> Any:
    return green.spawn(lambda: told(work))


def together(works: Iterable[Work]) -> list[Any]:
    """Return what comes of all of it, side by side."""
    return [green.wait(greenlet) for greenlet in [begin(work) for work in works]]


def until(look: Work) -> Any:
    end = time.monotonic() + PATIENT_S
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError(f"not in time: {look}")
        time.sleep(0.01)
    return found


class Shop:
    """A cluster of the shop's app, its book, and a client that is known by its name."""

    book = redis.Redis.from_url(os.environ["SHOP_URL"])
    count = 0

    def __init__(self, **how: Any) -> None:
        Shop.count += 1
        self.name = f"green{os.getpid()}-{Shop.count}"
        named = f"{URL}{'&' if '?' in URL else '?'}client_name={self.name}"
        self.client = Client(named, timeout=PATIENT_S, **how)

    def connections(self) -> list[str]:
        with redis.Redis.from_url(URL) as client:
            found = client.client_list()
        return sorted(each["id"] for each in found if each["name"] == self.name)

    def gated(self, id: int, **how: Any) -> Any:
        """Ask for an id whose handler waits for ``release``; return when it does."""
        asked = begin(lambda: self.client.request(id, "gated", **how))
        until(lambda: self.book.lpop(f"test:started:gated:{id}"))
        return asked

    def release(self, *ids: int) -> None:
        for id in ids:
            self.book.rpush(f"test:gate:gated:{id}", "go")

    def works(self) -> bool:
        """Whether many at once are answered."""
        works = [lambda i=i: self.client.request(i, "echo")["id"] for i in range(50)]
        return together(works) == list(range(50))


def why(work: Work) -> Any:
    """Return the error that it ends in, with its text."""
    try:
        return work()
    except RqprocError as error:
        return [type(error).__name__, str(error)]


app = App("local://")
runs: list[Any] = []
gate = threading.Event()


@app.resource(ttl=60)
def price(id: int) -> int:
    runs.append(id)
    time.sleep(0.05)
    return id


@app.resource(ttl=0)
def waits(id: int) -> bool:
    return gate.wait(20)


@app.resource(ttl=0)
async def asleep(id: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return id
