"""Turns: who goes in, who waits, and what becomes of those who give up."""

from __future__ import annotations

import pytest

from rqproc.local.turns import Flights, Lanes, Turns


def test_as_many_as_allowed_go_in_at_once_the_others_in_order() -> None:
    turns = Turns(2)
    asked = [turns.ask() for _ in range(5)]
    assert [turn.done() for turn in asked] == [True, True, False, False, False]
    turns.leave(asked[1])
    turns.leave(asked[0])
    assert [turn.done() for turn in asked] == [True, True, True, True, False]


def test_who_gives_up_is_passed_over() -> None:
    turns = Turns(1)
    inside, gives_up, waits = turns.ask(), turns.ask(), turns.ask()
    turns.leave(gives_up)
    assert not waits.done()
    turns.leave(inside)
    assert waits.done()
    assert not gives_up.done()


def test_who_gives_up_as_its_turn_comes_passes_it_on() -> None:
    turns = Turns(1)
    inside, late, waits = turns.ask(), turns.ask(), turns.ask()
    turns.leave(inside)
    assert late.done(), "it is in, and does not know it"
    turns.leave(late)
    assert waits.done()


def test_a_place_that_nobody_wants_is_free_again() -> None:
    turns = Turns(1)
    for _ in range(3):
        turn = turns.ask()
        assert turn.done()
        turns.leave(turn)


def test_a_turn_cannot_be_cancelled_by_one_of_those_who_wait_for_it() -> None:
    turns = Turns(1)
    turns.ask()
    assert not turns.ask().cancel()


def test_lanes_do_not_know_each_other_and_leave_nothing() -> None:
    lanes = Lanes()
    one, other, second = lanes.ask("a"), lanes.ask("b"), lanes.ask("a")
    assert (one.done(), other.done(), second.done()) == (True, True, False)
    lanes.leave("a", one)
    assert second.done()
    lanes.leave("a", second)
    lanes.leave("b", other)
    assert not lanes._lanes


def test_a_flight_is_begun_once_and_ends_for_all() -> None:
    flights = Flights()
    one, first = flights.board("a")
    other, second = flights.board("a")
    assert (first, second) == (True, False)
    flights.land("a", 7)
    assert one.result(0) == other.result(0) == 7


@pytest.mark.parametrize("key", ["a", "b"])
def test_whoever_comes_after_the_landing_begins_anew(key: str) -> None:
    flights = Flights()
    flights.board("a")
    flights.land("a", 7)
    flight, first = flights.board(key)
    assert first
    assert not flight.done()
