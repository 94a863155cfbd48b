"""The summary of hot ids keeps what Space-Saving promises."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rqproc.node.hot_ids import MOST, WINDOW_S, HotIds

batches = st.lists(
    st.dictionaries(st.integers(0, 600), st.integers(1, 50), max_size=300), max_size=12
)


def raw(number: int) -> bytes:
    return b"%d-r-%d" % (number, number)


@given(batches)
def test_counts_are_never_too_low_and_too_high_by_no_more_than_they_say(
    batches: list[dict[int, int]],
) -> None:
    hot, exact = HotIds(0.0), Counter[bytes]()
    for batch in batches:
        counts = {raw(number): count for number, count in batch.items()}
        hot.add(counts)
        exact.update(counts)
    found = hot.top(MOST)
    assert len(found) == min(MOST, len(exact))
    total = exact.total()
    for address, times, over in found:
        assert times - over <= exact[address] <= times
        assert over <= total / MOST
    told = {address for address, *_ in found}
    missing = max((exact[one] for one in exact if one not in told), default=0)
    assert missing <= min((times for _, times, _ in found), default=0)


def test_what_is_asked_for_more_comes_first() -> None:
    hot = HotIds(0.0)
    hot.add({b"a": 1, b"b": 7, b"c": 3})
    assert [address for address, *_ in hot.top(2)] == [b"b", b"c"]


def test_what_is_not_asked_for_any_more_is_forgotten_after_two_windows() -> None:
    hot = HotIds(0.0)
    hot.add({b"a": 5})
    hot.turn(WINDOW_S)
    hot.add({b"a": 1, b"b": 2})
    assert [(one.address, one.times) for one in hot.top(9)] == [(b"a", 6), (b"b", 2)]
    assert hot.span_s(WINDOW_S + 10) == WINDOW_S + 10
    hot.turn(2 * WINDOW_S)
    assert [(one.address, one.times) for one in hot.top(9)] == [(b"b", 2), (b"a", 1)]
    hot.turn(5 * WINDOW_S)
    assert hot.top(9) == []
    assert hot.span_s(5 * WINDOW_S + 1) == 1
