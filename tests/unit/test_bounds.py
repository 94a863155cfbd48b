"""How much is kept, by number and by bytes, of a node and of each resource; and what goes first."""

from __future__ import annotations

import random

import pytest

from rqproc import App
from rqproc.errors import ConfigError
from rqproc.ids import address
from rqproc.node.cache import Cache
from rqproc.node.entries import CHANCES, ENTRY_BYTES, SPARE_EXPIRIES, Entries, Entry
from rqproc.policy import UNBOUNDED, Bounds, policy_of
from rqproc.settings import NodeSettings

NOW = 100.0


def entry(size: int = 1, ttl_s: float = 50.0) -> Entry:
    return Entry(NOW, NOW + ttl_s, 1, b"7" * size)


def put(
    values: Entries, resource: str, *ids: int, bounds: Bounds = UNBOUNDED, size: int = 1
) -> None:
    for id in ids:
        values.put(address(resource, id).encode(), entry(size), NOW, bounds)


def kept(values: Entries, resource: str) -> list[int]:
    prefix = f"-{resource}-".encode()
    return sorted(int(one.split(b"-")[0]) for one in values.addresses() if prefix in one)


def use(values: Entries, resource: str, *ids: int) -> None:
    for id in ids:
        assert values.get(address(resource, id).encode(), NOW)


def test_a_resource_has_a_bound_of_its_own_and_takes_no_others_place() -> None:
    values, two = Entries(100), Bounds(max_entries=2)
    put(values, "a", 1, 2, 3)
    put(values, "b", 1, 2, bounds=two)
    use(values, "b", 1)
    put(values, "b", 3, bounds=two)
    assert kept(values, "a") == [1, 2, 3]
    assert kept(values, "b") == [1, 3]


def test_a_bound_of_bytes_counts_what_an_entry_takes_beside_its_value() -> None:
    values, bounds = Entries(100), Bounds(max_bytes=3 * (ENTRY_BYTES + 100))
    put(values, "a", 1, 2, 3, 4, bounds=bounds, size=100)
    assert kept(values, "a") == [2, 3, 4]
    put(values, "a", 5, bounds=bounds, size=ENTRY_BYTES + 200)
    assert kept(values, "a") == [4, 5]


def test_a_node_has_a_bound_of_bytes_over_all_resources() -> None:
    values = Entries(100, 3 * (ENTRY_BYTES + 1))
    put(values, "a", 1, 2)
    put(values, "b", 1, bounds=Bounds(max_entries=5))
    use(values, "a", 1)
    put(values, "a", 3)
    assert (kept(values, "a"), kept(values, "b")) == ([1, 3], [1])
    put(values, "a", 4)
    assert (kept(values, "a"), kept(values, "b")) == ([1, 3, 4], [])


def test_a_value_that_is_alone_too_large_is_not_kept_and_none_goes_for_it() -> None:
    values, bounds = Entries(100), Bounds(max_bytes=2 * (ENTRY_BYTES + 1))
    put(values, "a", 1, 2, bounds=bounds)
    put(values, "a", 3, bounds=bounds, size=1000)
    assert kept(values, "a") == [1, 2]
    put(values, "a", 2, bounds=bounds, size=1000)
    assert kept(values, "a") == [1], "nor is its older value"


def test_what_is_computed_anew_counts_once_and_by_its_new_size() -> None:
    values, bounds = Entries(100), Bounds(max_bytes=2 * (ENTRY_BYTES + 100))
    put(values, "a", 1, bounds=bounds, size=190)
    put(values, "a", 1, bounds=bounds, size=100)
    put(values, "a", 2, bounds=bounds, size=100)
    assert kept(values, "a") == [1, 2]


@pytest.mark.parametrize("goes", ["expires", "is dropped", "is another's"])
def test_what_is_gone_makes_room(goes: str) -> None:
    values, bounds = Entries(100), Bounds(2, 2 * (ENTRY_BYTES + 1))
    first = address("a", 1).encode()
    values.put(first, entry(ttl_s=1.0), NOW, bounds)
    put(values, "a", 2, bounds=bounds)
    if goes == "expires":
        assert values.get(first, NOW + 1) is None
    elif goes == "is dropped":
        assert values.drop(first, NOW)
    else:
        values.remove([first])
    put(values, "a", 3, bounds=bounds)
    assert kept(values, "a") == [2, 3]


def test_after_all_was_cleared_the_bounds_are_as_before() -> None:
    values, bounds = Entries(100), Bounds(2, 2 * (ENTRY_BYTES + 1))
    put(values, "a", 1, 2, bounds=bounds)
    values.clear()
    put(values, "a", 3, 4, 5, bounds=bounds)
    assert kept(values, "a") == [4, 5]


def test_a_mark_is_worth_one_chance_and_not_for_ever() -> None:
    values, bounds = Entries(100), Bounds(max_entries=3)
    put(values, "a", 1, 2, 3, bounds=bounds)
    use(values, "a", 1)
    put(values, "a", 4, bounds=bounds)
    assert kept(values, "a") == [1, 3, 4]
    put(values, "a", 5, 6, bounds=bounds)
    assert kept(values, "a") == [4, 5, 6]


def test_where_all_are_used_no_more_than_some_are_passed_over() -> None:
    values, most = Entries(100_000), 10 * CHANCES
    bounds = Bounds(max_entries=most)
    put(values, "a", *range(most), bounds=bounds)
    use(values, "a", *range(most))
    put(values, "a", most, bounds=bounds)
    assert len(kept(values, "a")) == most
    assert CHANCES not in kept(values, "a")
    assert len(values._used) == most - CHANCES - 1


def test_a_new_value_is_not_what_goes_where_all_others_are_used() -> None:
    values, bounds = Entries(100), Bounds(max_entries=2)
    put(values, "a", 1, 2, bounds=bounds)
    use(values, "a", 1, 2)
    put(values, "a", 3, bounds=bounds)
    assert kept(values, "a") == [2, 3]


def test_places_of_what_is_gone_do_not_pile_up() -> None:
    values, bounds = Entries(10), Bounds(max_entries=5)
    for _ in range(5 * SPARE_EXPIRIES):
        put(values, "a", 1, bounds=bounds)
        values.drop(address("a", 1).encode(), NOW)
    shares = [values._all, *values._of_resources.values()]
    assert all(len(share.queue) <= SPARE_EXPIRIES + 10 for share in shares)


def test_sums_hold_whatever_comes_and_goes() -> None:
    values, chance = Entries(40, 60 * ENTRY_BYTES), random.Random(7)
    bounds = {"a": UNBOUNDED, "b": Bounds(10), "c": Bounds(20, 5 * ENTRY_BYTES)}
    for turn in range(5000):
        resource, id = chance.choice("abc"), chance.randrange(30)
        place, now = address(resource, id).encode(), NOW + turn / 10
        what = chance.random()
        if what < 0.6:
            one = Entry(now, now + chance.random() * 5, 1, b"7" * chance.randrange(2 * ENTRY_BYTES))
            values.put(place, one, now, bounds[resource])
        elif what < 0.9:
            values.get(place, now)
        else:
            values.drop(place, now)
        for share, of in zip(values._shares(place), ("abc", resource), strict=False):
            places = [one for one in values.addresses() if one.split(b"-")[1].decode() in of]
            assert share.count == len(places) <= share.bounds.max_entries
            assert share.size == sum(map(values._size, places)) <= share.bounds.max_bytes
            assert set(places) <= set(share.queue)
        assert values._used <= set(values.addresses())


def test_old_values_and_errors_have_the_same_bounds_each() -> None:
    cache = Cache("b", 100)
    cache.learn(1, ["b"])
    for id in range(5):
        place = address("a", id).encode()
        cache.keep(place, entry(), NOW, late_until=NOW + 60, bounds=Bounds(2))
        cache.keep_error(address("a", 10 + id).encode(), entry(), NOW, Bounds(2))
    assert [len(list(kind.addresses())) for kind in cache._kinds] == [2, 2, 2]


# --- what is declared ---


def test_without_options_nothing_is_bounded() -> None:
    assert policy_of(5.0, {}).bounds is UNBOUNDED
    assert policy_of(5.0, {"max_bytes": 7}).bounds == Bounds(max_bytes=7)
    assert NodeSettings().max_bytes is None


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "9"])
@pytest.mark.parametrize("name", ["max_entries", "max_bytes"])
def test_a_bound_is_a_whole_number(name: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=f"invalid {name}="):
        App().resource(ttl=5, **{name: bad})  # type: ignore[arg-type]


def test_what_keeps_nothing_has_no_bound() -> None:
    with pytest.raises(ConfigError, match="max_bytes is for a resource that keeps its values"):
        App().resource(ttl=0, max_bytes=7)


def test_a_nodes_bound_of_bytes_is_one_or_more() -> None:
    with pytest.raises(ConfigError, match="--max-bytes must be at least 1"):
        NodeSettings(max_bytes=0)
