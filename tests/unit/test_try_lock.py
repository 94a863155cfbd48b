"""A lock that is held by a call of a function, and is free when that has ended."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from interrupting import SoftLimit, each_point

from rqproc.locks import TryLock


@pytest.fixture
def lock() -> TryLock:
    return TryLock()


def use(lock: TryLock) -> bool:
    if not lock.acquire():
        return False
    lock.release()
    return True


def lose(lock: TryLock) -> None:
    assert lock.acquire()
    raise SoftLimit


def test_who_holds_it_keeps_all_others_out(lock: TryLock) -> None:
    assert lock.acquire()
    assert lock.locked
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(use, lock).result()
    assert not use(lock), "nor does the holder's own function let another one in"
    lock.release()
    assert not lock.locked
    assert use(lock)
    assert not lock.lost


def test_a_holder_that_has_ended_is_found_out_whether_its_frame_is_kept_or_not(
    lock: TryLock,
) -> None:
    kept = []
    for keeps in (True, False):
        with pytest.raises(SoftLimit) as raised:
            lose(lock)
        if keeps:
            kept.append(raised)  # with its traceback, and so the frame
        del raised
        assert lock.locked
        assert use(lock)
        assert lock.lost
        lock.lost = False
    assert use(lock)
    assert not lock.lost


def test_one_of_many_has_it_at_a_time() -> None:
    lock, inside, most = TryLock(), [0], [0]
    count = [0] * 8

    def hammer(number: int) -> None:
        for _ in range(3000):
            if lock.acquire():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                count[number] += 1
                inside[0] -= 1
                lock.release()

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside, lock.lost, lock.locked) == ([1], [0], False, False)
    assert sum(count) > 0


def test_nobody_who_is_interrupted_at_any_instruction_leaves_it_taken(lock: TryLock) -> None:
    for found in each_point(lambda: lambda: use(lock), each="opcode"):
        assert use(lock), found.at
