"""What all callers of a client say together, and who gets which answer: replies made by hand."""

from __future__ import annotations

import re

import hiredis
import pytest
from made_calls import (
    COMMANDS,
    KEYS,
    Board,
    a_call,
    answer,
    group_answer,
    is_again,
    names,
    routed,
    timeout_ms,
)

from rqproc.calls.call import Call, Kind
from rqproc.calls.client_names import FENCE_S
from rqproc.calls.stored_answers import CLOSINGS, REMOVED_TOGETHER
from rqproc.errors import HandlerFailed
from rqproc.protocol import codec
from rqproc.protocol.commands import MOST_TOGETHER
from rqproc.transport.connection import Command, ConnectionLost, Refused

CUT = ConnectionLost("cut")
NOBODY = b'{"type":"NoLiveNode"}'
FULL = b'{"type":"Overloaded","node":"n","queued":9,"limit":8}'


@pytest.fixture
def board() -> Board:
    return Board()


def fences(commands: list[Command]) -> list[str]:
    """The names that are fenced."""
    return [str(c[5]) for c, name in zip(commands, names(commands), strict=True) if name == "fence"]


def name_of(id: str) -> str:
    return id.partition("-")[0]


# --- what goes out ---


@pytest.mark.parametrize("kind", ["c", "i"])
def test_the_id_of_a_call_names_its_caller_its_kind_its_number_and_its_address(
    board: Board, kind: Kind
) -> None:
    calls = [a_call("a b", kind=kind) for _ in range(2)]
    ids = [routed(board.core.compose_one(call))[0] for call in calls]
    address = calls[0].addresses[0]
    assert re.fullmatch(rf"(r[0-9a-f]+)-{kind}0-{address}", ids[0])
    assert ids[1] == f"{name_of(ids[0])}-{kind}1-{address}"
    assert board.core.channels() == [KEYS.reply(name_of(ids[0]))]


def test_ids_are_such_that_rq_takes_them(board: Board) -> None:
    (command,) = board.asks(a_call("é/:|\x7e" + "x" * 150))
    assert re.fullmatch(r"[A-Za-z0-9_-]+", routed(command)[0])


def test_no_two_clients_have_the_same_name() -> None:
    assert len({Board().core.channels()[0] for _ in range(100)}) == 100


def test_a_call_with_arguments_carries_them_and_one_without_need_not_be_read(board: Board) -> None:
    (command,) = board.asks(a_call(kind="a", args=(5,)))
    assert routed(command)[0].split("-")[1] == "a0"
    assert codec.decode_call(command[11], functions={}).request.args == (5,)  # type: ignore[arg-type]
    (command,) = board.asks(a_call())
    assert routed(command)[0].split("-")[1] == "c1"


def test_calls_of_one_resource_go_out_together_and_others_apart(board: Board) -> None:
    calls = [a_call(1), a_call(2), a_call(3, resource="cost"), a_call(4, timeout_s=5.0)]
    group, cost, hasty = board.asks(*calls)
    assert names([group, cost, hasty]) == ["scatter", "route", "route"]
    assert group[9:] == ("1-price-1", "2-price-2")
    assert [timeout_ms(c) for c in (group, cost, hasty)] == [10_000, 10_000, 5_000]


def test_a_group_has_no_more_calls_than_it_may(board: Board) -> None:
    calls = [a_call(id) for id in range(MOST_TOGETHER + 1)]
    assert names(board.asks(*calls)) == ["scatter", "route"]
    commands = board.asks(a_call(*range(MOST_TOGETHER + 1)))
    assert names(commands) == ["scatter", "scatter"], "one call's groups are its own"
    assert [len(command) - 9 for command in commands] == [MOST_TOGETHER, 1]


def test_what_a_run_waits_for_is_asked_for_id_by_id(board: Board) -> None:
    """Whom it waits for must be known of each."""
    (command,) = board.asks(a_call(1, 2, parent="7-price-7"))
    assert (names([command]), command[7]) == (["route"], "7-price-7")
    assert [id.split("-")[1] for id in routed(command)] == ["c0_0", "c0_1"]


def test_many_that_are_asked_id_by_id_do_not_keep_others_from_the_server(board: Board) -> None:
    commands = board.asks(a_call(*range(MOST_TOGETHER + 1), parent="7-price-7"))
    assert names(commands) == ["route", "route"]
    assert [len(routed(command)) for command in commands] == [MOST_TOGETHER, 1]


def test_nor_do_many_that_are_asked_again(board: Board) -> None:
    call = a_call(*range(MOST_TOGETHER + 1))
    board.asks(call)
    assert names(board.again(call)) == ["route", "route"]
    commands = board.again(call, withdraw=True)
    assert names(commands) == ["withdraw", "route", "withdraw", "route"]
    assert [len(routed(command)) for command in commands[1::2]] == [MOST_TOGETHER, 1]


def test_what_is_sent_late_says_how_much_time_is_left(board: Board) -> None:
    """Else a node would begin it when its caller has given up."""
    calls = [a_call(1), a_call(2), a_call(3, kind="a", args=(5,)), a_call(4, 5)]
    board.comes(*calls)
    commands = board.core.compose_new(calls, 1.5)
    assert [timeout_ms(command) for command in commands] == [1_500] * 3
    call = a_call(5)
    board.comes(call)
    (command,) = board.core.compose_again(call, 0.5, withdraw=False)
    assert (timeout_ms(command), is_again(command)) == (500, False)


def test_what_cannot_be_encoded_leaves_nothing_behind(board: Board) -> None:
    """Else all later replies were taken for another command's."""
    call = a_call(kind="a", args=(object(),))
    board.comes(call)
    with pytest.raises(Exception, match="not JSON"):
        board.core.compose_one(call)
    assert not board.core.expected
    board.core.pending.leave(call)
    assert board.is_empty()


# --- what comes in ---


def test_an_answer_goes_to_whom_it_is_for(board: Board) -> None:
    one, other = a_call(1), a_call(2, kind="a", args=(5,))
    board.asks(one)
    board.asks(other)
    board.replies(None, None)
    assert (one.carried, one.heard) == (True, True)
    board.hears(answer(other.names[0], 8))
    assert (board.woken[one], board.woken[other]) == (0, 1)
    assert other.value("shop") == 8
    assert one.left == 1


def test_duplicates_and_strangers_are_ignored(board: Board) -> None:
    call, other = a_call(1), a_call(2)
    board.asks(call)
    board.asks(other)
    id = call.names[0]
    board.hears(answer(id, 1), answer(id, 2))
    for stranger in (b"", b"x", b"r1-c9-1-price-1 hit 0 0 0 n 1", b"r1-g0 many 0 0 0 n []"):
        board.hears(stranger)
    board.hears(id.replace("-c0", "-c0_7").encode() + b" hit 0 0 0 n 1")
    assert call.value("shop") == 1
    assert (board.woken[call], other.left) == (1, 1)


def test_what_is_no_message_is_ignored(board: Board) -> None:
    board.core.take_in(
        [hiredis.PushNotification([b"subscribe", b"channel", 1])], board.core.expected
    )


def test_an_answer_may_come_before_the_reply_to_its_command(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.hears(answer(call.names[0]))
    board.replies(None)
    assert call.value("shop") == 7


def test_calls_of_several_callers_in_a_group_are_answered_by_place(board: Board) -> None:
    calls = [a_call(id) for id in (5, 6, 7)]
    board.asks(*calls)
    (group,) = calls[0].groups
    board.replies(None)
    board.hears(group_answer(group, 2, 0))
    assert [board.woken[call] for call in calls] == [1, 0, 1]
    assert [calls[0].value("shop"), calls[2].value("shop")] == [0, 2]
    part = f"{group.replace('-g', '-c')}_1-6-price-6"
    board.hears(answer(part, 66))
    assert calls[1].value("shop") == 66


def test_one_callers_group_is_answered_by_two_owners_and_by_single_runs(board: Board) -> None:
    call = a_call(*range(4))
    board.asks(call)
    (group,) = call.groups
    board.hears(group_answer(group, 0), group_answer(group, 3, node="n2"))
    stem = group.replace("-g", "-c")
    board.hears(answer(f"{stem}_1-1-price-1", 11))
    assert board.woken[call] == 0
    board.hears(answer(f"{stem}_2-2-price-2", 22))
    assert board.woken[call] == 1
    assert [reply.value for reply in call.outcomes("shop").values()] == [0, 11, 22, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize("together", [1, 3])
def test_an_answer_that_is_kept_is_fetched(board: Board, together: int) -> None:
    calls = [a_call(id) for id in range(together)]
    board.asks(*calls)
    board.replies(None)
    last = calls[-1]
    place = together - 1
    id = last.names[0] if together == 1 else _part_of(last.groups[0], place)
    board.hears(f"{id} kept 70000 KEY".encode())
    assert (last.left, board.core.has_more) == (1, True)
    assert board.core.housekeeping() == [("GET", b"KEY")]
    board.replies(answer(id, 9))
    assert (last.value("shop"), board.woken[last]) == (9, 1)


def _part_of(group: str, place: int) -> str:
    return f"{group.replace('-g', '-c')}_{place}-{place}-price-{place}"


def test_a_group_that_is_kept_is_fetched(board: Board) -> None:
    call = a_call(1, 2)
    board.asks(call)
    board.replies(None)
    board.hears(f"{call.groups[0]} kept 70000 KEY".encode())
    assert board.core.housekeeping() == [("GET", b"KEY")]
    board.replies(group_answer(call.groups[0], 0, 1))
    assert call.left == 0


def test_what_was_kept_and_is_gone_is_missing_still(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.hears(f"{call.names[0]} kept 70000 KEY".encode())
    board.core.housekeeping()
    board.replies(None, None)
    assert call.left == 1
    board.hears(answer(call.names[0]))
    assert call.left == 0


def test_what_is_kept_for_one_who_has_gone_is_not_fetched(board: Board) -> None:
    call = a_call()
    board.asks(call)
    id = call.names[0]
    board.core.pending.leave(call)
    board.hears(f"{id} kept 70000 KEY".encode())
    assert not board.core.has_more
    assert board.is_empty()


def lies(board: Board, *calls: Call, size: int = 70_000) -> None:
    """They are told where their answers lie, one after another."""
    board.hears(*(f"{call.names[0]} kept {size} KEY{call.ids[0]}".encode() for call in calls))


def test_what_is_fetched_is_not_asked_for_again(board: Board) -> None:
    calls = [a_call(id, kind="i") for id in range(2)]
    board.asks(*calls)
    board.replies(None, None)
    board.hears(*(f"{c.names[0]} kept 70000 {KEYS.answer(c.names[0])}".encode() for c in calls))
    assert names(board.again(calls[0])) == ["GET", "GET"]
    assert not calls[0].unsure
    board.replies(None)
    assert names(board.again(calls[0])) == ["route"], "it was not there any more"
    assert names(board.again(calls[1])) == []


def test_a_hit_that_was_fetched_is_removed_for_it_lay_there_for_this_alone(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.replies(None)
    lies(board, call, size=2**20)
    board.core.housekeeping()
    board.replies(answer(call.names[0], source="hit"))
    assert board.core.is_urgent
    assert board.core.housekeeping() == [("UNLINK", b"KEY1")]


def test_who_is_cut_off_while_an_answer_is_fetched_is_told_of_the_limit(board: Board) -> None:
    call = a_call()
    board.asks(call)
    lies(board, call)
    board.core.housekeeping()
    error = ConnectionLost("closed")
    board.core.broken(error)
    assert call.error is error
    assert "client-output-buffer-limit 'pubsub" in error.advice


@pytest.mark.parametrize("reason", ["closed", "late", "closed while an answer came"])
def test_who_is_cut_off_again_and_again_is_told_of_the_limit(board: Board, reason: str) -> None:
    """But not where the server does not answer, or lets answers through."""
    call, other = a_call(), a_call(2)
    board.asks(call)
    for _ in range(CLOSINGS):
        if reason == "closed while an answer came":
            board.asks(other)
            board.hears(answer(other.names[0]))
        error = ConnectionLost("gone", spent_s=1.5 if reason == "late" else 0.0)
        board.core.broken(error)
        board.again(call)
    assert ("client-output-buffer-limit" in error.advice) == (reason == "closed")


def test_an_answer_that_never_comes_through_is_given_up_alone(board: Board) -> None:
    call, other = a_call(1), a_call(2)
    board.asks(call)
    board.asks(other)
    for _ in range(CLOSINGS):
        lies(board, call)
        board.core.housekeeping()
        board.core.broken(ConnectionLost("closed"))
        board.again(call)
    with pytest.raises(HandlerFailed, match=r"70000 bytes .* client-output-buffer-limit"):
        call.value("shop")
    assert other.left == 1


# --- refusals ---


def test_a_call_that_is_not_queued_is_told_why_and_no_other(board: Board) -> None:
    one, other = a_call(1), a_call(2)
    board.asks(one)
    board.asks(other)
    board.replies([FULL], None)
    assert (board.woken[one], board.woken[other]) == (1, 0)
    with pytest.raises(Exception, match="n"):
        one.value("shop")
    assert other.left == 1


def test_calls_of_a_group_that_are_not_queued_are_told_why_by_place(board: Board) -> None:
    calls = [a_call(id) for id in range(3)]
    board.asks(*calls)
    board.replies([1, FULL])
    assert [call.left for call in calls] == [1, 0, 1]
    assert [board.woken[call] for call in calls] == [0, 1, 0]


@pytest.mark.parametrize("reason", ["OOM no", "NOPERM no", "LOADING wait", "MISCONF no"])
def test_an_error_of_a_command_is_told_to_whom_it_carried_alone(board: Board, reason: str) -> None:
    one, other = a_call(1), a_call(2)
    board.asks(one)
    board.asks(other)
    board.replies(hiredis.ReplyError(reason), None)
    error = one.fetch_error()
    assert isinstance(error, Refused)
    assert error.code == reason.partition(" ")[0]
    assert (board.woken[one], board.woken[other], other.error) == (1, 0, None)


@pytest.mark.parametrize("reason", ["READONLY no", "MASTERDOWN no", "UNBLOCKED no"])
def test_a_server_that_is_no_primary_any_more_is_of_no_use_to_anyone(
    board: Board, reason: str
) -> None:
    board.asks(a_call(1))
    board.asks(a_call(2))
    with pytest.raises(Refused, match=reason):
        board.replies(hiredis.ReplyError(reason), None)


def test_functions_that_are_unknown_are_loaded_before_the_next_packet(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.replies(hiredis.ReplyError("ERR Function not found"))
    error = call.fetch_error()
    assert isinstance(error, Refused)
    assert error.code == "NOFUNCTION"
    commands = board.again(call)
    assert commands[0] == COMMANDS.load
    assert routed(commands[1]) == list(call.names)
    board.replies(hiredis.ReplyError("NOPERM no"), None)
    assert call.error is None, "that loading was refused is told by whoever calls them"
    assert board.core.housekeeping() == []


# --- nobody lives ---


def test_that_nobody_lives_is_the_answer_to_a_call_that_is_new(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.replies([NOBODY])
    assert (call.left, board.woken[call]) == (0, 1)


def test_that_nobody_lives_is_the_answer_to_one_that_may_never_have_arrived(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.core.broken(CUT)
    board.again(call)
    board.replies(1, [NOBODY])
    assert call.left == 0


def test_that_nobody_lives_is_no_answer_to_a_call_that_was_known(board: Board) -> None:
    """The server has lost its data, and the nodes have not joined anew yet."""
    call = a_call(1, 2)
    board.asks(call)
    board.replies(None)
    board.again(call)
    board.replies([NOBODY, NOBODY])
    assert (call.left, board.woken[call]) == (2, 0)
    assert sorted(call.no_node_answers or {}) == [0, 1]
    board.again(call)
    board.replies([b"", NOBODY])
    assert list(call.no_node_answers or {}) == [1], "someone lives who has the first"
    board.again(call)
    board.replies(None)
    assert not call.no_node_answers


def test_whoever_does_not_want_to_wait_is_told_at_once_that_nobody_lives(board: Board) -> None:
    call = a_call(on_lost="error")
    board.asks(call)
    board.replies(None)
    board.again(call)
    board.replies([NOBODY])
    assert call.left == 0


# --- what is asked again ---


def test_what_was_sent_is_asked_again_under_the_same_id(board: Board) -> None:
    call = a_call()
    (first,) = board.asks(call)
    board.replies(None)
    (again,) = board.again(call, 8.0)
    assert routed(again) == routed(first)
    assert (is_again(again), timeout_ms(again)) == (True, 8_000)


def test_calls_of_a_group_are_asked_again_with_the_group(board: Board) -> None:
    calls = [a_call(id) for id in range(3)]
    board.asks(*calls)
    board.replies(None)
    (again,) = board.again(calls[2])
    (group,) = calls[2].groups
    assert again[9:] == (_part_of(group, 2), "2-price-2", calls[2].data(0), group)


def test_of_many_calls_those_without_an_answer_are_asked_again(board: Board) -> None:
    call = a_call(*range(MOST_TOGETHER + 2))
    board.asks(call)
    board.replies(None, None)
    first, second = call.groups
    board.hears(group_answer(first, *range(1, MOST_TOGETHER)), group_answer(second, 0))
    (again,) = board.again(call)
    assert routed(again) == [
        _part_of(first, 0),
        f"{second.replace('-g', '-c')}_1-{MOST_TOGETHER + 1}-price-{MOST_TOGETHER + 1}",
    ]
    assert again[12::4] == (first, second)


def test_where_the_last_answer_has_come_meanwhile_nothing_is_asked(board: Board) -> None:
    call = a_call(1, 2)
    board.asks(call)
    board.replies(None)
    board.hears(group_answer(call.groups[0], 0, 1))
    assert board.again(call, withdraw=True) == []


def test_what_is_lost_is_taken_back_before_it_is_asked_again(board: Board) -> None:
    call = a_call(1, 2, on_lost="error")
    board.asks(call)
    board.replies(None)
    withdraw, again = board.again(call, 5.0, withdraw=True)
    assert names([withdraw, again]) == ["withdraw", "route"]
    ids = [_part_of(call.groups[0], 0), _part_of(call.groups[0], 1)]
    ids = [id.replace("-1-price-1", "-2-price-2").replace("-0-price-0", "-1-price-1") for id in ids]
    assert withdraw[5:] == ("5000", ids[0], call.groups[0], ids[1], call.groups[0])
    report = b' error 0 0 0 - {"type":"OwnerLost","node":"n","silent_ms":900}'
    board.replies([ids[0].encode() + report, b""], None)
    assert (call.left, call.missing()) == (1, [1])


def test_a_call_that_was_never_sent_is_sent_as_a_new_one_and_not_taken_back(board: Board) -> None:
    call = a_call()
    board.comes(call)
    board.core.broken(CUT)
    (command,) = board.again(call, withdraw=True)
    assert (names([command]), is_again(command)) == (["route"], False)


def test_the_answer_that_a_call_has_had_may_be_the_reply_to_asking_again(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.replies(None)
    board.again(call)
    board.replies([answer(call.names[0], 9)])
    assert (call.value("shop"), board.woken[call]) == (9, 1)


# --- answers that are kept are removed ---


def ask_many(board: Board, count: int, source: str) -> list[str]:
    ids: list[str] = []
    for id in range(count):
        call = a_call(id)
        board.asks(call)
        ids += call.names
        board.replies(*[None] * len(board.core.expected))
        board.hears(answer(call.names[0], source=source))
        board.core.pending.leave(call)
    return ids


def test_answers_of_runs_are_removed_many_at_once(board: Board) -> None:
    ids = ask_many(board, REMOVED_TOGETHER - 1, "miss")
    assert not board.core.has_more
    ids += ask_many(board, 1, "joined")
    keys = [KEYS.answer(id).encode() for id in ids]
    assert board.core.housekeeping() == [("UNLINK", *keys)]
    assert not board.core.has_more


def test_an_answer_from_an_entry_is_not_kept_and_not_removed(board: Board) -> None:
    ask_many(board, 2 * REMOVED_TOGETHER, "hit")
    assert board.core.housekeeping() == []


def test_the_answer_of_a_call_that_was_asked_again_is_not_removed(board: Board) -> None:
    """Else what asks again, late on its way, would have it run once more."""
    for id in range(2 * REMOVED_TOGETHER):
        call = a_call(id)
        board.asks(call)
        board.again(call)
        board.hears(answer(call.names[0]))
        board.core.pending.leave(call)
    assert not board.core.has_more


# --- after a lost connection ---


def test_everyone_is_told_once_of_a_lost_connection(board: Board) -> None:
    calls = [a_call(1), a_call(2, 3)]
    board.asks(*calls)
    board.core.broken(CUT)
    for call in calls:
        assert board.woken[call] == 1
        assert call.fetch_error() is CUT
        assert call.fetch_error() is None


def test_afterwards_new_calls_have_a_new_name_and_both_are_listened_to(board: Board) -> None:
    call, new = a_call(1), a_call(2)
    board.asks(call)
    old = name_of(call.names[0])
    board.core.broken(CUT)
    board.asks(new)
    fresh = name_of(new.names[0])
    assert fresh != old
    assert board.core.channels() == [KEYS.reply(fresh), KEYS.reply(old)]


def test_afterwards_a_fence_goes_before_what_is_asked_again(board: Board) -> None:
    call = a_call(timeout_s=30.0)
    board.asks(call)
    board.core.broken(CUT)
    fence, again = board.again(call)
    assert names([fence, again]) == ["fence", "route"]
    assert fence[5:] == (name_of(call.names[0]), str(int((30 + FENCE_S) * 1000)))
    assert routed(again) == list(call.names)
    assert fences(board.again(call)) == [], "once"


def test_a_fence_goes_before_anything_new_as_well(board: Board) -> None:
    board.asks(a_call(1))
    board.core.broken(CUT)
    assert names(board.asks(a_call(2))) == ["fence", "route"]


def test_a_fence_that_was_lost_on_its_way_is_set_again(board: Board) -> None:
    """Else what was first sent would be run beside what is asked again."""
    call = a_call()
    board.asks(call)
    old = name_of(call.names[0])
    for _ in range(3):
        board.core.broken(CUT)
        assert fences(board.again(call)) == [old]
    board.replies(1, None)
    board.core.broken(CUT)
    assert fences(board.again(call)) == [], "it stands"


def test_a_fence_that_is_refused_comes_again(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.core.broken(CUT)
    fence, _ = board.again(call)
    unknown = hiredis.ReplyError("ERR Function not found")
    board.replies(unknown, unknown)
    assert board.again(call)[:2] == [COMMANDS.load, fence]


def test_a_name_under_which_nothing_was_sent_is_neither_fenced_nor_left(board: Board) -> None:
    """Or a long outage, with each attempt to connect, would add one."""
    call = a_call()
    board.asks(call)
    old = name_of(call.names[0])
    for _ in range(100):
        board.core.broken(CUT)
    assert fences(board.again(call)) == [old]
    assert len(board.core.channels()) == 2


def test_a_name_under_which_nobody_waits_is_kept(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.core.pending.leave(call)
    before = board.core.channels()
    board.core.broken(CUT)
    assert board.core.channels() == before
    assert not board.core.has_more


def test_an_old_name_is_listened_to_as_long_as_anyone_waits_there(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.core.broken(CUT)
    assert len(board.core.channels()) == 2
    board.core.pending.leave(call)
    assert len(board.core.channels()) == 1
    assert board.core._names._calls_by_old_name == {}


def test_replies_of_an_old_connection_are_not_taken_for_those_of_a_new_one(board: Board) -> None:
    one = a_call(1)
    board.asks(one)
    old = board.core.expected
    board.core.broken(CUT)
    other = a_call(2)
    board.asks(other)
    board.core.take_in([[FULL]], old)
    assert (one.left, other.left) == (0, 1)
    assert len(board.core.expected) == 2, "a fence and a call"


def test_what_was_to_be_fetched_over_a_lost_connection_is_asked_again(board: Board) -> None:
    call = a_call()
    board.asks(call)
    board.hears(f"{call.names[0]} kept 70000 KEY".encode())
    board.core.broken(CUT)
    assert names(board.again(call)) == ["fence", "route"]
    board.hears(answer(call.names[0]))
    assert call.left == 0


def test_callers_may_come_and_go_while_all_are_told(board: Board) -> None:
    """Other threads do, without a lock."""
    calls = [a_call(id) for id in range(3)]
    board.asks(*calls)

    class Names(list[str]):
        def __len__(self) -> int:
            board.core.pending.calls.pop(calls[2], None)
            return super().__len__()

    calls[0].names = Names(["x"])
    board.core.broken(CUT)
    assert [call.error for call in calls] == [CUT] * 3


# --- who leaves ---


def test_nothing_is_left_of_calls_that_have_gone(board: Board) -> None:
    for number in range(50):
        calls = [
            a_call(1), a_call(2), a_call(3, kind="a", args=(5,)), a_call(4, 5, 6),
            a_call(7, 8, parent="9-price-9"), a_call(9, resource="cost"),
        ]  # fmt: skip
        board.asks(*calls)
        board.replies(*[None] * len(board.core.expected))
        if number % 3 == 0:
            board.core.broken(CUT)
            for call in calls:
                board.again(call)
        if number % 2:
            board.hears(answer(calls[2].names[0]))
        for call in calls:
            board.core.pending.leave(call)
    assert board.is_empty()
    board.core.channels()
    assert board.core._names._calls_by_old_name == {}


def test_a_group_stays_until_its_last_caller_has_gone(board: Board) -> None:
    calls = [a_call(id) for id in range(3)]
    board.asks(*calls)
    (group,) = calls[0].groups
    for call in calls[:2]:
        board.core.pending.leave(call)
    board.hears(group_answer(group, 0, 1, 2))
    assert [call.left for call in calls] == [0, 0, 0]
    assert [board.woken[call] for call in calls][2] == 1
    board.core.pending.leave(calls[2])
    assert board.is_empty()
