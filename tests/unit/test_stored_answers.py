"""Answers that lie at the server: how much is fetched at once, and when it is removed."""

from __future__ import annotations

from rqproc.calls.stored_answers import (
    AT_ONCE,
    CLOSINGS,
    REMOVED_BYTES,
    REMOVED_TOGETHER,
    StoredAnswer,
    StoredAnswers,
)

HALF = AT_ONCE // 2


def stored(number: int, size: int = HALF) -> StoredAnswer:
    return StoredAnswer(b"id%d" % number, b"key%d" % number, size)


def told(*some: StoredAnswer) -> StoredAnswers:
    answers = StoredAnswers()
    for one in some:
        answers.add(one)
    return answers


def fetch(answers: StoredAnswers, *, unwanted: StoredAnswer | None = None) -> list[StoredAnswer]:
    return answers.fetch(lambda id: unwanted is None or id != unwanted.id)


def test_answers_are_fetched_in_turn_up_to_so_much_at_once() -> None:
    answers = told(*map(stored, range(5)))
    assert fetch(answers) == [stored(0), stored(1)]
    answers.fetched(stored(0))
    assert (fetch(answers), answers.is_urgent) == ([], False), "not all of it has come"
    answers.fetched(stored(1))
    assert answers.is_urgent
    assert fetch(answers) == [stored(2), stored(3)]


def test_an_answer_that_is_more_than_that_is_fetched_alone() -> None:
    large = stored(1, 3 * AT_ONCE)
    answers = told(stored(0), large, stored(2))
    assert fetch(answers) == [stored(0)]
    answers.fetched(stored(0))
    assert fetch(answers) == [large]


def test_what_nobody_waits_for_is_not_fetched() -> None:
    answers = told(*map(stored, range(3)))
    assert fetch(answers, unwanted=stored(0)) == [stored(1), stored(2)]
    assert stored(0).key not in answers


def test_what_one_is_told_twice_is_fetched_once() -> None:
    answers = told(stored(0), stored(0))
    assert fetch(answers) == [stored(0)]
    answers.add(stored(0))
    answers.fetched(stored(0))
    assert not answers
    assert not answers.is_urgent


def test_what_is_fetched_or_will_be_is_known() -> None:
    answers = told(stored(0), stored(1), stored(2))
    fetch(answers)
    assert [stored(n).key in answers for n in range(4)] == [True, True, True, False]
    answers.fetched(stored(0))
    assert stored(0).key not in answers


def test_answers_of_two_nodes_to_one_group_are_both_fetched() -> None:
    both = StoredAnswer(b"group", b"group/a", 1), StoredAnswer(b"group", b"group/b", 1)
    assert fetch(told(*both)) == list(both)


# --- a connection is lost ---


def test_with_a_connection_all_is_forgotten_that_it_was_to_bring() -> None:
    answers = told(stored(0), stored(1), stored(2))
    fetch(answers)
    answers.has_read(b"key", 1)
    assert answers.forget(closed=False) is None
    assert (len(answers), answers.is_due, answers.take_read(few=True)) == (0, False, [])
    answers.add(stored(0))
    answers.add(stored(1))
    assert len(fetch(answers)) == 2, "it was not closed for what it brought"


def test_once_it_was_closed_meanwhile_answers_are_fetched_one_by_one() -> None:
    answers = told(stored(0), stored(1))
    fetch(answers)
    assert answers.forget(closed=True) is None
    for one in (stored(0), stored(1)):
        answers.add(one)
    assert fetch(answers) == [stored(0)]


def test_a_connection_that_is_closed_while_nothing_is_fetched_says_nothing() -> None:
    answers = told(stored(0), stored(1))
    assert answers.forget(closed=True) is None
    for one in (stored(0), stored(1)):
        answers.add(one)
    assert len(fetch(answers)) == 2


def closed_while_fetching(answers: StoredAnswers, one: StoredAnswer) -> StoredAnswer | None:
    answers.add(one)
    fetch(answers)
    return answers.forget(closed=True)


def test_what_is_never_fetched_without_that_is_given_up() -> None:
    answers = StoredAnswers()
    for _ in range(CLOSINGS - 1):
        assert closed_while_fetching(answers, stored(1)) is None
        assert closed_while_fetching(answers, stored(2)) is None
    assert closed_while_fetching(answers, stored(1)) == stored(1)


def test_what_comes_through_meanwhile_shows_that_it_is_something_else() -> None:
    answers = StoredAnswers()
    for _ in range(3 * CLOSINGS):
        assert closed_while_fetching(answers, stored(1)) is None
        answers.add(stored(2))
        fetch(answers)
        answers.fetched(stored(2))


# --- what is read ---


def test_answers_that_are_read_are_removed_many_at_once() -> None:
    answers = StoredAnswers()
    for number in range(REMOVED_TOGETHER - 1):
        answers.has_read(b"%d" % number, 1)
    assert (answers.is_due, answers.take_read()) == (False, [])
    answers.has_read(b"last", 1)
    assert (answers.is_due, answers.is_urgent) == (True, False)
    assert len(answers.take_read()) == REMOVED_TOGETHER
    assert (answers.is_due, answers.take_read()) == (False, [])


def test_large_ones_are_removed_at_once() -> None:
    answers = StoredAnswers()
    answers.has_read(b"one", REMOVED_BYTES - 1)
    assert not answers.is_urgent
    answers.has_read(b"other", 1)
    assert answers.is_urgent
    assert answers.take_read() == [b"one", b"other"]
    assert not answers.is_urgent
