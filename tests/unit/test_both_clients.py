"""What the blocking client can do, asyncio's can too: by the same name, with the same arguments."""

from __future__ import annotations

import inspect

import pytest

from rqproc import AsyncClient, Client

METHODS = sorted(
    name for name, _ in inspect.getmembers(Client, inspect.isfunction) if name[0] != "_"
)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_and_gives_the_same_in_both(name: str) -> None:
    blocking, asyncio = getattr(Client, name), getattr(AsyncClient, name, None)
    assert asyncio, f"AsyncClient has no {name}"
    assert inspect.iscoroutinefunction(asyncio)
    assert inspect.signature(asyncio) == inspect.signature(blocking)


def test_the_methods_are_those_that_there_are() -> None:
    assert {"request", "enqueue", "invalidate", "locate", "close"} < set(METHODS)
