"""An app whose runs are entered through context managers."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from rqproc import App
from rqproc.context import Current

app = App()
said: list[str] = []
entered = threading.local()


@app.around
@contextmanager
def outer(current: Current) -> Iterator[None]:
    said.append(f"before {current.resource} {current.id}")
    entered.here = True
    try:
        yield
    except ValueError as error:
        said.append(f"error {error}")
        raise
    finally:
        said.append("after")
        entered.here = False


@app.around
@asynccontextmanager
async def inner(current: Current) -> AsyncIterator[None]:
    said.append("async before")
    yield
    said.append("async after")


@app.resource(ttl=0)
def tell(id: int) -> Any:
    """What has been said so far, and whether this thread was entered."""
    return [said[:], entered.here]


@app.resource(ttl=0)
async def atell(id: int) -> Any:
    return [said[:], entered.here]


@app.resource(ttl=0)
def fail(id: int) -> None:
    raise ValueError("no")
