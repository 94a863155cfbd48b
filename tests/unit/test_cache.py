"""The cache: gone at exactly their expiry, never more than the bound, and never another's."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from rqproc.ids import address
from rqproc.node.cache import Cache
from rqproc.node.entries import SPARE_EXPIRIES, Entries, Entry

NOW = 100.0


def entry(text: str = "1", *, at: float = NOW, ttl_s: float = 5.0, token: int = 1) -> Entry:
    return Entry(at, at + ttl_s, token, text.encode())


def kept(values: Entries, names: str, now: float = NOW) -> str:
    return "".join(name for name in names if values.get(name.encode(), now))


def test_an_entry_comes_back_as_it_was_kept() -> None:
    values = Entries(10)
    one = Entry(NOW + 1 / 3, NOW + 7 / 3, 2**53 + 1, b'{"a":1}')
    values.put(b"1-r-1", one, NOW)
    assert values.get(b"1-r-1", NOW) == one


def test_an_entry_is_gone_at_exactly_its_expiry() -> None:
    values = Entries(10)
    values.put(b"1-r-1", entry(), NOW)
    assert values.get(b"1-r-1", 104.999)
    assert values.get(b"1-r-1", 105.0) is None
    assert values.count(105.0) == 0


def test_each_entry_has_an_expiry_of_its_own() -> None:
    values = Entries(10)
    values.put(b"long", entry(ttl_s=9), NOW)
    values.put(b"short", entry(ttl_s=1), NOW)
    assert values.count(102.0) == 1
    assert values.get(b"long", 102.0)


def test_an_entry_put_again_has_the_new_expiry() -> None:
    values = Entries(10)
    values.put(b"a", entry("old", ttl_s=1), NOW)
    values.put(b"a", entry("new", ttl_s=9), NOW)
    assert values.count(105.0) == 1
    found = values.get(b"a", 105.0)
    assert found
    assert found.text == b"new"


def test_past_the_bound_the_least_recently_used_goes() -> None:
    values = Entries(3)
    for name in b"a", b"b", b"c":
        values.put(name, entry(), NOW)
    values.get(b"a", NOW)
    values.put(b"d", entry(), NOW)
    assert values.count(NOW) == 3
    assert kept(values, "abcd") == "acd"


def test_what_is_expired_makes_room_first() -> None:
    values = Entries(2)
    values.put(b"k", entry(ttl_s=50), NOW)
    values.put(b"s", entry(ttl_s=1), NOW)
    values.get(b"s", NOW)
    values.put(b"n", entry(at=102.0), 102.0)
    assert kept(values, "ksn", 102.0) == "kn"


def test_what_is_flushed_is_found_no_more_and_what_is_later_is() -> None:
    values = Entries(10)
    for token, at in enumerate((b"1-r-1", b"2-r-2", b"3-s-3", b"4-r-4"), 1):
        values.put(at, Entry(NOW, NOW + 5, token, b"7"), NOW)
    values.flush(b"r", 2)
    found = [values.get(at, NOW) is not None for at in (b"1-r-1", b"3-s-3", b"4-r-4")]
    assert found == [False, True, True]
    assert not values.drop(b"2-r-2", NOW), "it is none any more"
    values.flush(b"", 3)
    assert values.get(b"3-s-3", NOW) is None
    assert values.get(b"4-r-4", NOW)


def test_drop_tells_whether_there_was_one() -> None:
    values = Entries(2)
    values.put(b"a", entry(), NOW)
    assert values.drop(b"a", NOW)
    assert not values.drop(b"a", NOW)
    values.put(b"a", entry(), NOW)
    assert not values.drop(b"a", 105.0), "an expired one is none"


def test_clear_leaves_nothing() -> None:
    values = Entries(5)
    values.put(b"a", entry(), NOW)
    values.clear()
    assert values.get(b"a", NOW) is None
    assert values.count(NOW) == 0


def test_expiries_of_entries_that_are_computed_again_and_again_do_not_pile_up() -> None:
    """Each value that is dropped before its time leaves its expiry behind."""
    values = Entries(10)
    for turn in range(20 * SPARE_EXPIRIES):
        values.put(b"a", entry(at=NOW + turn, ttl_s=86_400), NOW + turn)
        values.drop(b"a", NOW + turn)
    assert sum(map(len, values._expiring.values())) <= 2 * SPARE_EXPIRIES
    assert len(values._seconds) == len(values._expiring)


def test_after_the_expiries_were_sorted_anew_entries_still_expire() -> None:
    values = Entries(10)
    values.put(b"b", entry(ttl_s=1), NOW)
    for _ in range(2 * SPARE_EXPIRIES):
        values.put(b"a", entry(ttl_s=60), NOW)
    assert values.count(102.0) == 1
    assert values.count(161.0) == 0


def test_a_small_value_takes_at_most_350_bytes() -> None:
    count = 20_000
    names = [address("price", n) for n in range(count)]
    tracemalloc.start()
    try:
        values = Entries(count)
        before = tracemalloc.get_traced_memory()[0]
        for n, name in enumerate(names):
            values.put(name.encode(), entry('{"n":1234}', ttl_s=n % 3600), NOW)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / count < 350
    assert sys.getsizeof(b"") < 64


# --- by owner ---


@pytest.fixture
def cache() -> Cache:
    """Node b's: odd ids are its own."""
    cache = Cache("b", 100)
    cache.learn(1, ["a", "b"])
    return cache


def keep(cache: Cache, *ids: int) -> None:
    for id in ids:
        cache.keep(address("r", id).encode(), entry(), NOW)


def held(cache: Cache, *ids: int) -> list[int]:
    return [id for id in ids if cache.get(address("r", id).encode(), NOW)]


def test_only_an_owner_keeps_a_value(cache: Cache) -> None:
    keep(cache, 1, 2, 3)
    assert held(cache, 1, 2, 3) == [1, 3]


def test_whoever_does_not_know_the_members_keeps_nothing() -> None:
    cache = Cache("b", 100)
    keep(cache, 1)
    assert held(cache, 1) == []


def test_one_epoch_later_what_is_anothers_goes(cache: Cache) -> None:
    keep(cache, 1, 3, 5)
    cache.learn(2, ["a", "b", "c"])
    assert held(cache, 1, 3, 5) == [1]


@pytest.mark.parametrize("epoch", [3, 0, 1001])
def test_after_any_other_step_of_the_epoch_all_goes(cache: Cache, epoch: int) -> None:
    keep(cache, 1)
    cache.learn(epoch, ["a", "b"])
    assert held(cache, 1) == []
    assert cache.epoch == epoch


def test_the_same_epoch_with_other_members_keeps_no_strangers(cache: Cache) -> None:
    """A server that has lost its last writes may give an epoch twice."""
    keep(cache, 1, 3)
    cache.learn(1, ["a", "b"])
    assert held(cache, 1, 3) == [1, 3]
    cache.learn(1, ["b", "c"])
    assert held(cache, 1, 3) == []


def test_forgotten_are_the_members_too(cache: Cache) -> None:
    keep(cache, 1)
    cache.forget()
    assert (held(cache, 1), cache.epoch) == ([], -1)
    keep(cache, 1)
    assert held(cache, 1) == []
