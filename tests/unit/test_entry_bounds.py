"""Entries: gone at exactly their expiry, and never more than the bound."""

from __future__ import annotations

import pytest

from rqproc.node.entries import SPARE_ENDS, Entries, Entry


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def entry(text: str = "1", *, at: float = 100.0, ttl_s: float = 5.0) -> Entry:
    return Entry(text, at, at + ttl_s, 1)


def test_an_entry_is_gone_at_exactly_its_expiry(clock: FakeClock) -> None:
    entries = Entries(10, clock)
    kept = entry()
    entries.put("1|r:1", kept)
    clock.now = 104.999
    assert entries.get("1|r:1") is kept
    clock.now = 105.0
    assert entries.get("1|r:1") is None
    assert len(entries) == 0


def test_each_entry_has_an_expiry_of_its_own(clock: FakeClock) -> None:
    entries = Entries(10, clock)
    entries.put("long", entry(ttl_s=9))
    entries.put("short", entry(ttl_s=1))
    clock.now = 102.0
    assert entries.get("short") is None
    assert entries.get("long")


def test_an_entry_put_again_has_the_new_expiry(clock: FakeClock) -> None:
    entries = Entries(10, clock)
    entries.put("a", entry("old", ttl_s=1))
    entries.put("a", entry("new", ttl_s=9))
    clock.now = 105.0
    found = entries.get("a")
    assert found
    assert found.text == "new"


def test_past_the_bound_the_least_recently_used_goes(clock: FakeClock) -> None:
    entries = Entries(3, clock)
    for name in "abc":
        entries.put(name, entry(name))
    entries.get("a")
    entries.put("d", entry("d"))
    assert len(entries) == 3
    assert [name for name in "abcd" if entries.get(name)] == ["a", "c", "d"]


def test_what_is_expired_makes_room_first(clock: FakeClock) -> None:
    entries = Entries(2, clock)
    entries.put("kept", entry(ttl_s=50))
    entries.put("short", entry(ttl_s=1))
    entries.get("short")
    clock.now = 102.0
    entries.put("new", entry(at=102.0))
    assert entries.get("kept")
    assert entries.get("new")


def test_drop_tells_whether_there_was_one(clock: FakeClock) -> None:
    entries = Entries(2, clock)
    entries.put("a", entry())
    assert entries.drop("a")
    assert not entries.drop("a")
    entries.put("a", entry())
    clock.now = 105.0
    assert not entries.drop("a"), "an expired one is none"


def test_keep_only_keeps_what_is_wanted(clock: FakeClock) -> None:
    entries = Entries(5, clock)
    for name in "abc":
        entries.put(name, entry(name))
    entries.keep_only("b".__eq__)
    assert [name for name in "abc" if entries.get(name)] == ["b"]


def test_clear_leaves_nothing(clock: FakeClock) -> None:
    entries = Entries(5, clock)
    entries.put("a", entry())
    entries.clear()
    assert entries.get("a") is None
    assert len(entries) == 0


def test_a_value_is_carried_in_the_form_that_its_job_came_in() -> None:
    kept = entry('{"a":1}')
    assert kept.body("json") == "eyJhIjoxfQ=="
    assert kept.body("json") == "eyJhIjoxfQ==", "and again"
    assert kept.body("pickle") != kept.body("json")


def test_ends_of_entries_that_are_computed_again_and_again_do_not_pile_up(
    clock: FakeClock,
) -> None:
    """Each value that is dropped before its time leaves the end of it behind."""
    entries = Entries(10, clock)
    for _ in range(20 * SPARE_ENDS):
        entries.put("a", entry(ttl_s=86_400))
        entries.drop("a")
    assert len(entries._ends) <= 2 * SPARE_ENDS
