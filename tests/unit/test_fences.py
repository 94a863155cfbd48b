"""After a lost connection: who is told, what is sent again, and what keeps runs from being two."""

from __future__ import annotations

import pytest
from board import (
    Guest,
    arrive,
    box_of,
    is_checked,
    present_key,
    routed,
    routes,
    sent,
    streams,
    tell,
    verbs,
)
from caller import CLUSTER, answered

from rqproc.keys import results_key
from rqproc.link import Command, LinkLost
from rqproc.switchboard import FENCE_S, TRIM_ENTRIES, Switchboard

LOADS = CLUSTER.load("route", "scatter", "withdraw")
CUT = LinkLost("cut")


@pytest.fixture
def board() -> Switchboard:
    return Switchboard(CLUSTER)


def stand(board: Switchboard) -> None:
    """All is said that must be said first."""
    board.said(len(board.first))


def fences(board: Switchboard) -> list[Command]:
    return [command for command in board.first if command[0] == "SET"]


def test_everyone_is_told_of_a_lost_connection_once(board: Switchboard) -> None:
    guests = [Guest(board).asks(), Guest(board)]
    sent(board)
    before = board.generation
    board.broken(CUT)
    assert board.generation == before + 1
    for guest in guests:
        assert guest.woken == 1
        with pytest.raises(LinkLost, match="cut"):
            guest.seat.fetch()
        assert guest.seat.fetch() is False


def test_what_was_not_sent_yet_is_not_sent_by_itself(board: Switchboard) -> None:
    """Whoever is told says again what it wants."""
    Guest(board).asks()
    board.broken(CUT)
    assert sent(board) == []


def test_what_is_asked_for_after_a_cut_is_none_of_its_business(board: Switchboard) -> None:
    """It may have come while its caller paused after an earlier one."""
    guest = Guest(board).asks()
    board.broken(CUT)
    guest.nudges()
    assert guest.seat.fetch() is False
    assert routed(sent(board)[0]) == guest.ids


def test_the_box_of_a_lost_connection_is_fenced(board: Switchboard) -> None:
    guest = Guest(board, timeout_s=30.0).asks()
    (first,) = sent(board)
    board.broken(CUT)
    (fence,) = fences(board)
    key = CLUSTER.keys.fence(box_of(first))
    assert fence == ("SET", key, 1, "PX", (30.0 + FENCE_S) * 1000), "it outlives who waits there"
    stand(board)
    assert not board.first
    guest.nudges()
    (again,) = sent(board)
    assert (box_of(again), is_checked(again)) == (box_of(first), True), "and not in another one"


def test_fences_that_are_lost_on_their_way_are_set_again(board: Switchboard) -> None:
    for _ in range(2):
        Guest(board).asks()
        sent(board)
        board.broken(CUT)
    first, second = fences(board)
    board.said(board.first.index(first) + 1)
    assert fences(board) == [second]


def test_whoever_asks_after_a_cut_has_a_new_box(board: Switchboard) -> None:
    Guest(board).asks()
    (first,) = sent(board)
    board.broken(CUT)
    stand(board)
    Guest(board).asks()
    (later,) = sent(board)
    assert box_of(later) != box_of(first)
    assert not is_checked(later)


def test_an_old_box_is_read_until_nobody_waits_there(board: Switchboard) -> None:
    old, new = Guest(board, 1, 2).asks(), Guest(board)
    (first,) = sent(board)
    tell(board, answered(old.ids[0]), first=4)
    board.broken(CUT)
    new.asks()
    sent(board)
    key = results_key(box_of(first))
    assert streams(board) == [(key, b"4-0"), (present_key(board), "0-0")]
    tell(board, answered(old.ids[1]), box=box_of(first), first=5)
    assert not old.wanted
    assert streams(board)[0] == (key, b"5-0")
    old.leaves()
    assert streams(board) == [(present_key(board), "0-0")]


def test_nothing_is_removed_from_an_old_box(board: Switchboard) -> None:
    """A packet that is late finds there what has been answered."""
    guest = Guest(board, *range(2 * TRIM_ENTRIES)).asks()
    (first,) = sent(board)
    board.broken(CUT)
    stand(board)
    tell(board, *map(answered, guest.ids[1:]), box=box_of(first))
    assert sent(board) == []


def test_a_box_in_which_nobody_waits_is_left_behind_without_a_fence(board: Switchboard) -> None:
    """What is on its way may still come late, and find there that it has been answered."""
    guest = Guest(board).asks()
    board.compose()
    old = present_key(board)
    guest.leaves()
    Guest(board)
    board.broken(CUT)
    assert fences(board) == []
    assert present_key(board) != old
    assert len(streams(board)) == 1


def test_an_idle_connection_that_is_lost_leaves_the_box(board: Switchboard) -> None:
    guest = Guest(board).asks()
    sent(board)
    guest.leaves()
    old = present_key(board)
    board.broken(CUT)
    assert present_key(board) == old
    assert board.goodbye()


def test_one_who_has_gone_before_its_calls_were_sent_is_in_nobodys_way(
    board: Switchboard,
) -> None:
    """Where it was counted as waiting, nobody would have been told of a lost connection."""
    Guest(board).asks().leaves()
    sent(board)
    guest = Guest(board)
    board.broken(CUT)
    assert guest.woken == 1


def test_scripts_are_made_known_once_to_whatever_server_is_connected_to(
    board: Switchboard,
) -> None:
    """Else whatever callers send at that moment would be refused, on both connections."""
    assert board.first == LOADS
    stand(board)
    assert board.first == ()
    for _ in range(2):
        board.broken(CUT)
        assert board.first == LOADS


def test_the_reply_to_a_packet_may_come_after_the_cut(board: Switchboard) -> None:
    """The other connection has lasted that much longer."""
    guest = Guest(board).asks()
    packet = board.compose()
    board.broken(CUT)
    arrive(board, packet)
    assert guest.wanted.carried


# --- overtaken ---


def test_calls_that_may_overtake_their_first_packet_go_behind_a_fence(board: Switchboard) -> None:
    """The first packet has not been answered: it may arrive after the second one's were run."""
    guest = Guest(board).asks()
    first = board.compose()
    guest.nudges()
    fence, again = board.compose().commands
    assert fence[:2] == ("SET", CLUSTER.keys.fence(box_of(first.commands[0])))
    assert is_checked(again)
    assert box_of(again) == box_of(first.commands[0])


def test_one_fence_is_enough(board: Switchboard) -> None:
    one, other = Guest(board).asks(), Guest(board).asks()
    board.compose()
    one.nudges()
    other.nudges()
    assert verbs(board.compose().commands) == ["SET", "route"]
    one.nudges()
    assert verbs(board.compose().commands) == ["route"]


def test_behind_a_fence_one_waits_in_the_old_box_and_others_in_a_new_one(
    board: Switchboard,
) -> None:
    one, other = Guest(board).asks(), Guest(board)
    (first,) = board.compose().commands
    one.nudges()
    other.asks()
    again, new = routes(board.compose().commands)
    assert (routed(again), box_of(again)) == (one.ids, box_of(first))
    assert (routed(new), is_checked(new)) == (other.ids, False)
    assert box_of(new) != box_of(first)
    assert [key for key, _ in streams(board)] == [results_key(box_of(c)) for c in (again, new)]


def test_calls_whose_first_packet_has_arrived_need_no_fence(board: Switchboard) -> None:
    guest = Guest(board).asks()
    sent(board)
    guest.nudges()
    assert verbs(board.compose().commands) == ["route"]
