"""Answers that lie at the server: how much is fetched at once, and when it is removed."""

from __future__ import annotations

from rqproc.calls.kept import AT_ONCE, CLOSINGS, REMOVED_BYTES, REMOVED_TOGETHER, Kept, Lying

HALF = AT_ONCE // 2


def lying(number: int, size: int = HALF) -> Lying:
    return Lying(b"id%d" % number, b"key%d" % number, size)


def told(*some: Lying) -> Kept:
    kept = Kept()
    for one in some:
        kept.tell(one)
    return kept


def fetch(kept: Kept, *, unwanted: Lying | None = None) -> list[Lying]:
    return kept.fetch(lambda id: unwanted is None or id != unwanted.id)


def test_answers_are_fetched_in_turn_up_to_so_much_at_once() -> None:
    kept = told(*map(lying, range(5)))
    assert fetch(kept) == [lying(0), lying(1)]
    kept.fetched(lying(0))
    assert (fetch(kept), kept.is_urgent) == ([], False), "not all of it has come"
    kept.fetched(lying(1))
    assert kept.is_urgent
    assert fetch(kept) == [lying(2), lying(3)]


def test_an_answer_that_is_more_than_that_is_fetched_alone() -> None:
    large = lying(1, 3 * AT_ONCE)
    kept = told(lying(0), large, lying(2))
    assert fetch(kept) == [lying(0)]
    kept.fetched(lying(0))
    assert fetch(kept) == [large]


def test_what_nobody_waits_for_is_not_fetched() -> None:
    kept = told(*map(lying, range(3)))
    assert fetch(kept, unwanted=lying(0)) == [lying(1), lying(2)]
    assert lying(0).key not in kept


def test_what_one_is_told_twice_is_fetched_once() -> None:
    kept = told(lying(0), lying(0))
    assert fetch(kept) == [lying(0)]
    kept.tell(lying(0))
    kept.fetched(lying(0))
    assert not kept
    assert not kept.is_urgent


def test_what_is_fetched_or_will_be_is_known() -> None:
    kept = told(lying(0), lying(1), lying(2))
    fetch(kept)
    assert [lying(n).key in kept for n in range(4)] == [True, True, True, False]
    kept.fetched(lying(0))
    assert lying(0).key not in kept


def test_answers_of_two_nodes_to_one_group_are_both_fetched() -> None:
    both = Lying(b"group", b"group/a", 1), Lying(b"group", b"group/b", 1)
    assert fetch(told(*both)) == list(both)


# --- a connection is lost ---


def test_with_a_connection_all_is_forgotten_that_it_was_to_bring() -> None:
    kept = told(lying(0), lying(1), lying(2))
    fetch(kept)
    kept.has_read(b"key", 1)
    assert kept.forget(closed=False) is None
    assert (len(kept), kept.is_due, kept.removed(few=True)) == (0, False, [])
    kept.tell(lying(0))
    kept.tell(lying(1))
    assert len(fetch(kept)) == 2, "it was not closed for what it brought"


def test_once_it_was_closed_meanwhile_answers_are_fetched_one_by_one() -> None:
    kept = told(lying(0), lying(1))
    fetch(kept)
    assert kept.forget(closed=True) is None
    for one in (lying(0), lying(1)):
        kept.tell(one)
    assert fetch(kept) == [lying(0)]


def test_a_connection_that_is_closed_while_nothing_is_fetched_says_nothing() -> None:
    kept = told(lying(0), lying(1))
    assert kept.forget(closed=True) is None
    for one in (lying(0), lying(1)):
        kept.tell(one)
    assert len(fetch(kept)) == 2


def closed_while_fetching(kept: Kept, one: Lying) -> Lying | None:
    kept.tell(one)
    fetch(kept)
    return kept.forget(closed=True)


def test_what_is_never_fetched_without_that_is_given_up() -> None:
    kept = Kept()
    for _ in range(CLOSINGS - 1):
        assert closed_while_fetching(kept, lying(1)) is None
        assert closed_while_fetching(kept, lying(2)) is None
    assert closed_while_fetching(kept, lying(1)) == lying(1)


def test_what_comes_through_meanwhile_shows_that_it_is_something_else() -> None:
    kept = Kept()
    for _ in range(3 * CLOSINGS):
        assert closed_while_fetching(kept, lying(1)) is None
        kept.tell(lying(2))
        fetch(kept)
        kept.fetched(lying(2))


# --- what is read ---


def test_answers_that_are_read_are_removed_many_at_once() -> None:
    kept = Kept()
    for number in range(REMOVED_TOGETHER - 1):
        kept.has_read(b"%d" % number, 1)
    assert (kept.is_due, kept.removed()) == (False, [])
    kept.has_read(b"last", 1)
    assert (kept.is_due, kept.is_urgent) == (True, False)
    assert len(kept.removed()) == REMOVED_TOGETHER
    assert (kept.is_due, kept.removed()) == (False, [])


def test_large_ones_are_removed_at_once() -> None:
    kept = Kept()
    kept.has_read(b"one", REMOVED_BYTES - 1)
    assert not kept.is_urgent
    kept.has_read(b"other", 1)
    assert kept.is_urgent
    assert kept.removed() == [b"one", b"other"]
    assert not kept.is_urgent
