"""Drives a generator that says what is to be done: the loop under every driver of one.

Pure. Must not know what is being said, nor how it is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")

Failures = type[BaseException] | tuple[type[BaseException], ...]


def drive(talk: Generator[S, Any, T], do: Callable[[S], Any], *, failures: Failures) -> T:
    """Do what a generator yields until it returns; what fails of it is thrown in there."""
    try:
        step = next(talk)
        while True:
            try:
                found = do(step)
            except failures as error:
                step = talk.throw(error)
            else:
                step = talk.send(found)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def adrive(
    talk: Generator[S, Any, T], do: Callable[[S], Awaitable[Any]], *, failures: Failures
) -> T:
    """``drive`` for asyncio."""
    try:
        step = next(talk)
        while True:
            try:
                found = await do(step)
            except failures as error:
                step = talk.throw(error)
            else:
                step = talk.send(found)
    except StopIteration as stop:
        result: T = stop.value
        return result
