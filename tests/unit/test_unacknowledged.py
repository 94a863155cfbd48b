"""What a node has taken, by id and by address."""

from __future__ import annotations

import pytest

from rqproc.node.runs import Taken
from rqproc.node.unacknowledged import Unacknowledged


def taken(id: str, address: str = "1-r-1") -> Taken:
    return Taken(id.encode(), address, address.encode())


def test_it_counts_what_is_taken_of_an_address_until_the_last_is_gone() -> None:
    holds = Unacknowledged()
    for id in "ab":
        holds.add(taken(id))
    holds.add(taken("c", "2-r-2"))
    assert (holds.count(b"1-r-1"), holds.count(b"2-r-2"), len(holds)) == (2, 1, 3)
    holds.remove(b"a")
    assert holds.count(b"1-r-1") == 1
    holds.remove(b"b")
    assert holds.count(b"1-r-1") == 0


def test_what_is_not_known_is_removed_without_a_word() -> None:
    holds = Unacknowledged()
    holds.add(taken("a"))
    holds.remove(b"a")
    holds.remove(b"a")
    assert len(holds) == 0


def test_an_id_is_taken_once() -> None:
    holds = Unacknowledged()
    holds.add(taken("a"))
    with pytest.raises(ValueError, match="a is held"):
        holds.add(taken("a"))
    assert holds.count(b"1-r-1") == 1


def test_it_tells_its_ids_and_all_that_it_has() -> None:
    holds = Unacknowledged()
    one = taken("a")
    holds.add(one)
    assert b"a" in holds.ids
    assert b"b" not in holds.ids
    assert list(holds) == [one]


def test_cleared_it_holds_nothing() -> None:
    holds = Unacknowledged()
    holds.add(taken("a"))
    holds.clear()
    assert (len(holds), holds.count(b"1-r-1")) == (0, 0)
