"""Hash slots, and how they are dealt: by this arithmetic alone, without a server."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqproc.ids import SLOT_BITS, slot
from rqproc.placement import SLOTS, Deal, deal, has, hash_slot, packed

MANY = [f"n{number:02}" for number in range(40)]
members = st.lists(st.sampled_from(MANY), unique=True).map(sorted)
numbers = st.integers(0, 2**SLOT_BITS - 1)


def dealt(*lists: list[str]) -> Deal:
    """After these members, one list after the other."""
    found: Deal = ()
    for some in lists:
        found = deal(found, some)
    return found


@given(numbers)
def test_a_hash_slot_is_one_of_so_many(number: int) -> None:
    assert 0 <= hash_slot(number) < SLOTS


@pytest.mark.parametrize("step", [1, 2, 1000, 1024, SLOTS, SLOTS * 8, 2**22, 2**40, 2**41 - 1])
def test_numbers_at_even_distances_have_different_hash_slots(step: int) -> None:
    """Ids that end in zeros, as Snowflake's do, are spread like any others."""
    found = Counter(hash_slot(step * number) for number in range(SLOTS))
    assert max(found.values()) <= 8
    assert len(found) > SLOTS // 3


def test_texts_are_spread_evenly() -> None:
    found = Counter(hash_slot(slot(f"customer-{number}")) // 1024 for number in range(4000))
    assert all(900 < count < 1100 for count in found.values())


@given(st.lists(members, min_size=1, max_size=6))
def test_every_slot_has_one_member_and_shares_differ_by_one(lists: list[list[str]]) -> None:
    found = dealt(*lists)
    last = lists[-1]
    assert len(found) == (SLOTS if last else 0)
    shares = Counter(found)
    assert shares.keys() == set(last)
    assert not last or max(shares.values()) - min(shares.values()) <= 1


@given(st.lists(members, min_size=2, max_size=6))
def test_no_fewer_slots_could_move(lists: list[list[str]]) -> None:
    *_, before, after = lists
    was = dealt(*lists[:-1])
    now = deal(was, after)
    if not before or not after:
        return
    had, moved = Counter(was), sum(a != b for a, b in zip(was, now, strict=True))
    share, more = divmod(SLOTS, len(after))
    ranked = sorted((had[member] for member in after), reverse=True)
    most_that_stay = sum(min(have, share + (n < more)) for n, have in enumerate(ranked))
    assert moved == SLOTS - most_that_stay


@given(members)
def test_who_stays_keeps_what_it_has_where_nobody_comes_or_goes(some: list[str]) -> None:
    assert list(dealt(some, some)) == list(dealt(some))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 30])
def test_one_that_joins_n_others_takes_its_share_of_each_and_no_more(count: int) -> None:
    was = dealt(*(MANY[: number + 1] for number in range(count)))
    now = deal(was, MANY[: count + 1])
    moved = [(a, b) for a, b in zip(was, now, strict=True) if a != b]
    assert {b for _, b in moved} == {MANY[count]}
    assert len(moved) == SLOTS // (count + 1)
    gave = Counter(a for a, _ in moved)
    assert max(gave.values()) - min(gave.values()) <= 1


def test_the_slots_of_one_that_leaves_go_to_the_others_and_nothing_else_moves() -> None:
    was = dealt(["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"])
    now = deal(was, ["a", "b", "d"])
    assert {a for a, b in zip(was, now, strict=True) if a != b} == {"c"}
    assert Counter(now) == {"a": 1366, "b": 1365, "d": 1365}


def test_ids_in_a_row_have_many_owners() -> None:
    """As the first ids that anyone tries have."""
    found: Deal = ()
    for count in range(1, 6):
        found = deal(found, MANY[:count])
        assert len({found[hash_slot(id)] for id in range(1, 2 * count + 2)}) == count
    longest = run = 1
    for one, next_one in pairwise(found):
        run = run + 1 if one == next_one else 1
        longest = max(longest, run)
    assert longest < 8


@given(members.filter(bool), numbers)
def test_a_member_reads_from_its_bits_what_it_has(some: list[str], number: int) -> None:
    found = dealt(some)
    owners = [member for member in some if has(packed(found, member), number)]
    assert owners == [found[hash_slot(number)]]
