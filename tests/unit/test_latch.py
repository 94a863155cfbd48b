"""An event that nobody can leave in a state in which others hang."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from interrupting import each_point
from watch import Watch

from rqproc.locks import LATCH_LOOK_S, Latch

SOON_S = 5.0


@pytest.fixture
def latch() -> Latch:
    return Latch()


def test_it_wakes_all_who_wait_and_keeps_nobody_waiting_afterwards(latch: Latch) -> None:
    watch = Watch()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(latch.wait, timeout) for timeout in (None, None, SOON_S, SOON_S)]
        while len(latch._waiting) < 4:
            time.sleep(0.001)
        assert not latch.is_set()
        latch.set()
        assert all(one.result(SOON_S) for one in waiting)
    assert latch.is_set()
    assert latch.wait()
    assert latch.wait(0)
    assert not latch._waiting
    assert watch.stop() < LATCH_LOOK_S, "they have been woken"


def test_one_who_waits_in_vain_is_told_so_in_time(latch: Latch) -> None:
    watch = Watch()
    assert not latch.wait(0)
    assert not latch.wait(0.1)
    assert watch.whole_s >= 0.1
    assert watch.stop() < 1.0


@pytest.mark.parametrize("sets", [True, False])
def test_one_who_is_interrupted_at_any_instruction_keeps_nobody_from_going_on(sets: bool) -> None:
    latches: list[Latch] = []

    def begin() -> object:
        latches.append(Latch())
        return latches[-1].set if sets else lambda: latches[-1].wait(0.001)

    with ThreadPoolExecutor(1) as pool:
        for found in each_point(begin, each="opcode"):  # type: ignore[arg-type]
            latch = latches.pop()
            waiting = pool.submit(latch.wait, SOON_S)
            latch.set()
            assert waiting.result(2 * SOON_S), found.at
            assert latch.wait(), found.at


def test_the_handler_of_a_signal_sets_what_its_own_thread_waits_for(latch: Latch) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: latch.set())
    threading.Timer(0.05, lambda: signal.raise_signal(signal.SIGUSR1)).start()
    try:
        assert latch.wait(SOON_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
