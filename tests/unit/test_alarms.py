"""Alarms: many tasks' ends of time, with one timer of the event loop for those close together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rqproc.atrunk import TICK_S, Alarms


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
def rung() -> list[str]:
    return []


def test_an_alarm_rings_after_its_time_and_a_tick_late_at_most(
    loop: FakeLoop, rung: list[str]
) -> None:
    Alarms().set(loop, 0.5, lambda: rung.append("a"))  # type: ignore[arg-type]
    loop.advance(1000.499)
    assert rung == []
    loop.advance(1000.5 + TICK_S)
    assert rung == ["a"]


def test_alarms_of_one_tick_share_a_timer(loop: FakeLoop, rung: list[str]) -> None:
    alarms = Alarms()
    for name in "abc":
        alarms.set(loop, 2.0, lambda name=name: rung.append(name))  # type: ignore[arg-type, misc]
    assert len(loop.timers) == 1
    loop.advance(1002.0 + TICK_S)
    assert rung == ["a", "b", "c"]


def test_a_tick_that_has_rung_may_be_set_again(loop: FakeLoop, rung: list[str]) -> None:
    alarms = Alarms()
    for moment in (1001.0, 1002.0):
        alarms.set(loop, 0.5, lambda: rung.append("x"))  # type: ignore[arg-type]
        loop.advance(moment)
    assert rung == ["x", "x"]
