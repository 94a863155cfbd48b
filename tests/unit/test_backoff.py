"""Pauses between failed attempts."""

from __future__ import annotations

import random
from itertools import pairwise
from statistics import mean

from rqproc.transport.backoff import Backoff


def pauses(chance: float, count: int = 8) -> list[float]:
    backoff = Backoff(shortest_s=0.01, longest_s=0.5, chance=lambda: chance)
    return [backoff.next_s() for _ in range(count)]


def test_none_is_shorter_or_longer_than_the_bounds() -> None:
    assert pauses(0.0) == [0.01] * 8
    assert max(pauses(0.999, 50)) == 0.5


def test_each_is_up_to_three_times_the_last() -> None:
    found = pauses(1.0)
    assert found[0] == 0.03
    assert all(later <= earlier * 3 for earlier, later in pairwise(found))
    assert found == sorted(found)


def test_after_a_success_they_begin_anew() -> None:
    backoff = Backoff(shortest_s=0.01, longest_s=0.5, chance=lambda: 0.9)
    first = backoff.next_s()
    assert backoff.next_s() > first
    backoff.reset()
    assert backoff.next_s() == first


def test_whatever_chance_brings_a_long_outage_is_not_spun_through() -> None:
    for seed in range(50):
        backoff = Backoff(shortest_s=0.01, longest_s=0.5, chance=random.Random(seed).random)
        assert mean(backoff.next_s() for _ in range(100)) > 0.1
