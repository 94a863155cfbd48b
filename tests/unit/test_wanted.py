"""The calls of one order: which answers have come, and which are missing."""

from __future__ import annotations

import pytest
from caller import answered, batch, nobody

from rqproc.wanted import Wanted


@pytest.fixture
def wanted() -> Wanted:
    return Wanted(batch(1, 2, 3).order)


def ids(wanted: Wanted) -> list[str]:
    return [job.id for job in wanted.order.jobs]


def test_at_first_all_are_missing(wanted: Wanted) -> None:
    assert len(wanted) == 3
    assert wanted.missing() is wanted.order
    assert (wanted.carried, wanted.heard, wanted.answers) == (False, False, {})


def test_what_is_missing_keeps_its_order_and_all_else_of_the_order(wanted: Wanted) -> None:
    wanted.take(answered(ids(wanted)[1]))
    missing = wanted.missing()
    assert [job.id for job in missing.jobs] == [ids(wanted)[0], ids(wanted)[2]]
    assert missing == wanted.order._replace(jobs=missing.jobs)


def test_an_answer_that_comes_twice_counts_once(wanted: Wanted) -> None:
    (first, *_) = ids(wanted)
    wanted.take(answered(first, 7))
    wanted.take(answered(first, 8))
    assert (len(wanted), wanted.answers[first].value) == (2, 7)


def test_the_answer_of_another_order_is_left_alone(wanted: Wanted) -> None:
    wanted.take(answered("another"))
    assert (len(wanted), wanted.answers) == (3, {})


def test_where_nobody_lived_last_that_is_the_answer_when_time_is_over(wanted: Wanted) -> None:
    first, second, third = ids(wanted)
    wanted.take(answered(first, 7))
    wanted.nobody = {first: nobody(first), second: nobody(second)}
    wanted.give_up()
    assert wanted.answers[first].value == 7
    assert wanted.answers[second] == nobody(second)
    assert third not in wanted.answers


def test_answers_may_come_while_time_is_over(wanted: Wanted) -> None:
    """Another thread reads for this one, until it has left its seat."""

    class Interrupted(dict[str, object]):
        def get(self, key: str, default: object = None) -> object:
            wanted.take(answered(key))
            return default

    wanted.nobody = Interrupted()  # type: ignore[assignment]
    wanted.give_up()
    assert len(wanted.answers) == 3
