"""What is made at its first use is made once, whoever comes, and whatever becomes of making it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rqproc.runtime import Once

THREADS = 40


def test_threads_that_come_at_once_have_one_thing_between_them() -> None:
    barrier, entered, made = threading.Barrier(THREADS), threading.Event(), []

    def make() -> object:
        made.append(object())
        entered.wait(1)  # all others come meanwhile
        return made[-1]

    once = Once(make)

    def use(_: int) -> object:
        if barrier.wait() == 0:
            entered.set()
        return once()

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(use, range(THREADS)))
    assert len(made) == 1
    assert set(map(id, found)) == {id(made[0])} == {id(once.made)}


def test_what_fails_is_tried_again_by_who_comes_next() -> None:
    outcomes = iter([ValueError("not yet"), "made"])

    def make() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, ValueError):
            raise outcome
        return outcome

    once = Once(make)
    with pytest.raises(ValueError, match="not yet"):
        once()
    assert once.made is None
    assert [once(), once()] == ["made", "made"]


def test_whoever_needs_it_while_making_it_does_not_wait_for_itself() -> None:
    """As a signal's handler may, in the very thread that makes it."""
    depth: list[int] = []

    def make() -> int:
        depth.append(len(depth))
        return once() if len(depth) == 1 else 7

    once = Once(make)
    assert once() == once() == 7
    assert len(depth) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_is_forked_while_a_thread_makes_it_makes_its_own() -> None:
    parent = os.getpid()
    entered, leave = threading.Event(), threading.Event()

    def make() -> int:
        if os.getpid() == parent:
            entered.set()
            leave.wait(10)
        return os.getpid()

    once = Once(make)
    maker = threading.Thread(target=once)
    maker.start()
    entered.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if once() == os.getpid() else 1)
    status = os.waitpid(child, 0)[1]
    leave.set()
    maker.join()
    assert status == 0
    assert once() == parent
