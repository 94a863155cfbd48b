"""Timers of an event loop, many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rqproc.calls.timers import TICK_S, Timers


class FakeLoop:
    """A loop whose clock is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        self.timers.append((when, call, args))

    def advance(self, to: float) -> None:
        self.now = to
        due = [timer for timer in self.timers if timer[0] <= to]
        self.timers = [timer for timer in self.timers if timer[0] > to]
        for _, call, args in due:
            call(*args)


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def fired() -> list[str]:
    return []


def test_a_timer_calls_back_after_its_time_and_a_tick_late_at_most(
    loop: FakeLoop, fired: list[str]
) -> None:
    Timers().set(loop, 0.5, lambda: fired.append("a"))  # type: ignore[arg-type]
    loop.advance(1000.499)
    assert fired == []
    loop.advance(1000.5 + TICK_S)
    assert fired == ["a"]


def test_those_of_one_tick_share_a_timer_of_the_loop(loop: FakeLoop, fired: list[str]) -> None:
    timers = Timers()
    for name in "abc":
        timers.set(loop, 2.0, lambda name=name: fired.append(name))  # type: ignore[arg-type, misc]
    assert len(loop.timers) == 1
    loop.advance(1002.0 + TICK_S)
    assert fired == ["a", "b", "c"]


def test_a_tick_that_is_over_may_be_set_again(loop: FakeLoop, fired: list[str]) -> None:
    timers = Timers()
    for moment in (1001.0, 1002.0):
        timers.set(loop, 0.5, lambda: fired.append("x"))  # type: ignore[arg-type]
        loop.advance(moment)
    assert fired == ["x", "x"]
