"""What all callers of a client say together, and who gets which answer: packets made by hand."""

from __future__ import annotations

from math import inf

import pytest
from board import (
    Guest,
    arrive,
    box_of,
    is_checked,
    is_quiet,
    present_key,
    routed,
    sent,
    streams,
    tell,
    verbs,
)
from caller import CLUSTER, answered, entry

from rqproc.keys import results_key
from rqproc.link import LinkLost
from rqproc.packets import MOST_GRACE_S, Demand
from rqproc.switchboard import HEARD_BY, TRIM_BYTES, TRIM_ENTRIES, Switchboard

CUT = LinkLost("cut")


@pytest.fixture
def board() -> Switchboard:
    return Switchboard(CLUSTER)


# --- what goes out ---


def test_calls_of_all_who_ask_alike_go_out_in_one_call_of_the_script(board: Switchboard) -> None:
    one, other = Guest(board, 1, 2).asks(), Guest(board, 3).asks()
    (route,) = sent(board)
    assert routed(route) == one.ids + other.ids
    assert results_key(box_of(route)) == present_key(board)
    assert sent(board) == []


def test_calls_that_differ_in_what_is_said_of_all_are_calls_of_their_own(
    board: Switchboard,
) -> None:
    Guest(board).asks()
    Guest(board, timeout_s=5.0).asks()
    nested = Guest(board)
    order = nested.wanted.order._replace(parent="7|price:7")
    board.post(nested.seat, (Demand(order, 10.0),), wait_s=2.0, grace_s=1.5)
    commands = sent(board)
    assert [(route[4], route[8]) for route in commands] == [
        (10_000, ""),
        (5_000, ""),
        (10_000, "7|price:7"),
    ]


def test_what_was_not_sent_before_is_not_looked_for(board: Switchboard) -> None:
    Guest(board).asks()
    (route,) = sent(board)
    assert not is_checked(route)
    assert route[9] == box_of(route), "unless its box is fenced"


def test_what_may_have_been_sent_before_is_looked_for(board: Switchboard) -> None:
    guest = Guest(board).asks()
    (first,) = sent(board)
    guest.nudges(left_s=8.0, quiet=True)
    (again,) = sent(board)
    assert (routed(again), box_of(again)) == (guest.ids, box_of(first))
    assert (is_checked(again), is_quiet(again), again[4]) == (True, True, 8_000)


def test_what_is_lost_is_withdrawn_before_it_is_sent_again(board: Switchboard) -> None:
    guest = Guest(board).asks()
    (first,) = sent(board)
    guest.nudges(withdraw=True)
    withdraw, again = sent(board)
    assert withdraw[3:] == (box_of(first), 8_000, *guest.ids)
    assert routed(again) == guest.ids


def test_what_was_never_sent_is_not_withdrawn(board: Switchboard) -> None:
    """It has no job: it would seem to be lost."""
    Guest(board).nudges(withdraw=True)
    assert verbs(sent(board)) == ["route"]


def test_a_packet_is_as_urgent_as_its_most_urgent_call(board: Switchboard) -> None:
    patient, hasty = Guest(board), Guest(board)
    board.post(patient.seat, (Demand(patient.wanted.order, 10.0),), wait_s=2.0, grace_s=1.5)
    board.post(hasty.seat, (Demand(hasty.wanted.order, 1.0),), wait_s=0.5, grace_s=0.25)
    packet = board.compose()
    assert packet.grace_s == 0.25
    assert packet.wait_s == 0.5 * HEARD_BY, "it is acknowledged before any of it is sent again"
    packet = board.compose()
    assert (packet.grace_s, packet.wait_s) == (MOST_GRACE_S, inf)


def test_a_look_that_wants_nothing_sent_is_not_urgent(board: Switchboard) -> None:
    board.post(Guest(board).seat, (), wait_s=0.5, grace_s=0.25)
    assert board.compose().grace_s == MOST_GRACE_S


def test_what_was_not_sent_yet_can_be_taken_back(board: Switchboard) -> None:
    one, other = Guest(board).asks(), Guest(board).asks()
    assert board.recall(one.seat) is True
    assert board.recall(one.seat) is False
    assert routed(sent(board)[0]) == other.ids
    assert board.recall(other.seat) is False


@pytest.mark.parametrize(("wait_s", "ms"), [(2.0, 2_000), (0.0001, 1), (0.0, 1)])
def test_a_wait_is_never_without_end(board: Switchboard, wait_s: float, ms: int) -> None:
    """XREAD would take 0 ms for ever."""
    assert board.read(wait_s)[:3] == ("XREAD", "BLOCK", ms)


# --- what comes in ---


def test_an_answer_goes_to_whom_it_is_for(board: Switchboard) -> None:
    one, other = Guest(board, 1, 2).asks(), Guest(board, 3).asks()
    sent(board)
    tell(board, answered(one.ids[1], 7))
    assert [a.value for a in one.wanted.answers.values()] == [7]
    assert (one.woken, other.woken) == (1, 0)
    assert (one.seat.fetch(), other.seat.fetch()) == (True, False)
    assert one.seat.fetch() is False, "since the last time"


def test_what_was_read_is_not_read_again(board: Switchboard) -> None:
    guest = Guest(board, 1, 2).asks()
    sent(board)
    assert streams(board) == [(present_key(board), "0-0")]
    tell(board, *map(answered, guest.ids), first=5)
    assert streams(board) == [(present_key(board), b"6-0")]


def test_a_look_may_find_nothing(board: Switchboard) -> None:
    guest = Guest(board).asks()
    sent(board)
    board.take_in(None)
    assert (guest.woken, streams(board)) == (0, [(present_key(board), "0-0")])


def test_the_answer_of_one_who_has_gone_is_passed_over(board: Switchboard) -> None:
    guest = Guest(board).asks()
    sent(board)
    guest.leaves()
    tell(board, answered(guest.ids[0]))
    assert (guest.wanted.answers, guest.woken) == ({}, 0)
    assert streams(board) == [(present_key(board), b"1-0")]


def test_calls_have_been_carried_once_their_packet_is_answered(board: Switchboard) -> None:
    guest, later = Guest(board).asks(), Guest(board)
    packet = board.compose()
    assert not guest.wanted.carried
    arrive(board, packet)
    assert (guest.wanted.carried, guest.wanted.heard) == (True, True)
    assert not later.wanted.carried


def test_that_nobody_lives_is_noted_of_a_quiet_call_until_someone_does(board: Switchboard) -> None:
    guest = Guest(board).asks()
    sent(board)
    for report, nobody in [(b'{"type": "NoLiveNode"}', guest.ids), (b"", [])]:
        guest.nudges(quiet=True)
        arrive(board, board.compose(), report=report)
        assert list(guest.wanted.nobody) == nobody


def test_that_nobody_lives_is_not_noted_of_another_call(board: Switchboard) -> None:
    """It has its answer in the box."""
    guest = Guest(board).asks()
    arrive(board, board.compose(), report=b'{"type": "NoLiveNode"}')
    assert guest.wanted.nobody == {}


# --- who reads next ---


def test_the_place_goes_to_who_has_waited_longest_and_will_go_on_waiting(
    board: Switchboard,
) -> None:
    idle, answered_one, told, third, fourth = (Guest(board) for _ in range(5))
    for guest in (answered_one, told, third, fourth):
        guest.seat.waiting = True
    tell(board, answered(answered_one.ids[0]))
    told.seat.error = CUT
    assert board.next_waiting() is third.seat
    third.leaves()
    assert board.next_waiting() is fourth.seat
    fourth.seat.waiting = False
    assert board.next_waiting() is None
    assert idle.seat in board.seats


# --- what is removed ---


def answer_many(board: Switchboard, count: int, *, body: int = 0) -> None:
    for number in range(count):
        board.take_in(
            [(present_key(board).encode(), [(f"9-{number}".encode(), entry(answered("x", body)))])]
        )


def test_what_was_read_is_removed_when_there_is_enough_of_it(board: Switchboard) -> None:
    Guest(board).asks()
    sent(board)
    answer_many(board, TRIM_ENTRIES - 1)
    assert sent(board) == []
    answer_many(board, 1)
    assert sent(board) == [("XTRIM", present_key(board), "MINID", b"9-0")]
    assert sent(board) == []


def test_few_long_answers_are_enough(board: Switchboard) -> None:
    Guest(board).asks()
    sent(board)
    answer_many(board, 1, body=10 ** TRIM_BYTES.bit_length() * 10**4000)
    answer_many(board, 15, body=10**4200)
    assert verbs(sent(board)) == ["XTRIM"]


def test_nothing_is_removed_while_a_call_is_on_its_way_again(board: Switchboard) -> None:
    """Else route would not find that it has been answered, and have it run once more.

    1. A call is sent again, on the connection that sends    2. It is answered, as are others
    3. What was read is removed, on the connection that reads    4. The packet of 1 arrives.
    """
    guest = Guest(board).asks()
    sent(board)
    guest.nudges()
    again = board.compose()
    answer_many(board, TRIM_ENTRIES)
    assert board.compose().commands == []
    arrive(board, again)
    assert verbs(board.compose().commands) == ["XTRIM"]


def test_what_is_on_its_way_for_the_first_time_keeps_nothing(board: Switchboard) -> None:
    """It has no answer before it has arrived."""
    Guest(board).asks()
    board.compose()
    answer_many(board, TRIM_ENTRIES)
    assert verbs(board.compose().commands) == ["XTRIM"]


# --- who leaves ---


def test_a_client_that_is_closed_removes_its_box_and_has_a_new_one(board: Switchboard) -> None:
    guest = Guest(board).asks()
    sent(board)
    old = present_key(board)
    guest.leaves()
    assert board.goodbye() == ("UNLINK", old)
    assert present_key(board) != old


def test_a_box_stays_as_long_as_anyone_waits_there(board: Switchboard) -> None:
    Guest(board).asks()
    sent(board)
    old = present_key(board)
    assert board.goodbye() is None
    assert present_key(board) == old


def test_a_box_stays_as_long_as_a_packet_is_on_its_way(board: Switchboard) -> None:
    guest = Guest(board).asks()
    packet = board.compose()
    guest.leaves()
    assert board.goodbye() is None
    arrive(board, packet)
    assert board.goodbye()


def test_nobody_is_kept_who_has_gone(board: Switchboard) -> None:
    for guest in [Guest(board, 1, 2).asks() for _ in range(3)]:
        guest.leaves()
    assert not board.seats
    assert board.next_waiting() is None


def test_what_one_who_has_gone_wanted_is_not_sent_any_more(board: Switchboard) -> None:
    gone, other = Guest(board).asks(), Guest(board).asks()
    gone.leaves()
    assert routed(sent(board)[0]) == other.ids
    other.leaves()
    assert board.goodbye(), "nobody waits in the box"
