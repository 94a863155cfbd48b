"""A node's two connections: what is read when, and what is known to be lost."""

from __future__ import annotations

import threading
from typing import Any, cast

import hiredis
import pytest
from scripted_connection import ScriptedConnection, ScriptedConnector

from rqproc.node.connections import PORTION, PORTION_BYTES, Connections, packets
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.transport.connection import ConnectionLost, Refused

HIT = Commands.hit(b"id", b"id hit")
VIEW = [1, 1000, 5, [b"a", b"b"], []]


def opened(
    takes: ScriptedConnection, answers: ScriptedConnection, *more: ScriptedConnection
) -> Connections:
    takes.pieces.appendleft([VIEW])
    lock = threading.Lock()
    lock.acquire()
    connections = Connections(
        cast(Any, ScriptedConnector(takes, answers, *more)), Commands(Keys()), node="b",
        incarnation="b#1", number=1, waker=cast(Any, None), lock=lock,
    )  # fmt: skip
    assert connections.reconcile([], rejoined=False, bare=False).epoch == 5
    return connections


def test_ids_that_come_with_the_reply_to_a_claim_are_not_waited_for() -> None:
    """They are read with it, so there is nothing left that a poll would see."""
    takes = ScriptedConnection([VIEW, [b"queue", [b"x", b"y"]]])
    connections = opened(takes, ScriptedConnection())
    assert connections.ask([("claim",)], then_pop=8) == [VIEW]
    assert connections.wait(60.0) == (False, True)
    assert connections.popped() == [b"x", b"y"]
    assert not connections.is_popping


def test_a_pop_that_brings_nothing_is_over() -> None:
    takes = ScriptedConnection([None])
    connections = opened(takes, ScriptedConnection())
    connections.pop(8)
    assert connections.is_popping
    assert connections.popped() == ()
    assert not connections.is_popping


def test_ids_that_have_not_come_whole_are_waited_for_again() -> None:
    connections = opened(ScriptedConnection([]), ScriptedConnection())
    connections.pop(8)
    assert connections.popped() == ()
    assert connections.is_popping


def test_what_is_asked_while_a_pop_blocks_goes_beside_it_when_all_due_there_was_read() -> None:
    answers = ScriptedConnection([[b"dependent"]], [VIEW])
    takes = ScriptedConnection()
    connections = opened(takes, answers)
    connections.pop(8)
    endings = [Commands.hit(b"id", b"payload")]
    connections.answer(endings, draining=False)
    assert connections.ask([("claim",)]) == [VIEW]
    assert connections.acknowledged() == [(endings, [b"dependent"])]


def test_an_answer_is_not_read_before_it_is_asked_for() -> None:
    answers = ScriptedConnection([[]])
    connections = opened(ScriptedConnection(), answers)
    endings = [Commands.hit(b"id", b"payload")]
    connections.answer(endings, draining=False)
    assert connections.unsure == 1
    assert len(answers.pieces) == 1
    assert connections.acknowledged() == [(endings, [])]
    assert connections.unsure == 0


def test_a_refused_answer_is_told_and_stays_unsure() -> None:
    answers = ScriptedConnection([hiredis.ReplyError("OOM no memory")])
    connections = opened(ScriptedConnection(), answers)
    endings = [Commands.call("", "id", "1-r-1", "payload", 60.0)]
    connections.answer(endings, draining=False)
    with pytest.raises(Refused, match="OOM"):
        connections.acknowledged()
    assert connections.close() == endings


def test_what_stands_in_the_place_of_a_text_is_none_and_ends_nothing() -> None:
    takes = ScriptedConnection([b"0 1-r-1"], [hiredis.ReplyError("WRONGTYPE"), None])
    connections = opened(takes, ScriptedConnection())
    assert connections.read([("HGET",)] * 3) == [b"0 1-r-1", None, None]
    assert not takes.closed


def test_long_endings_are_sent_apart_and_in_their_order() -> None:
    """The server does nothing else while it carries one command out: no heartbeat, for one."""
    half = b"x" * (PORTION_BYTES // 2 - 10)
    long = [Commands.hit(b"%d" % number, half) for number in range(5)]
    short = [Commands.hit(b"s%d" % number, b"1") for number in range(3)]
    alone = Commands.hit(b"alone", b"x" * 3 * PORTION_BYTES)
    assert list(packets(long)) == [long[:2], long[2:4], long[4:]]
    assert list(packets([alone, *short, alone])) == [[alone], short, [alone]]
    assert list(packets(short)) == [short]
    answers = ScriptedConnection()
    connections = opened(ScriptedConnection(), answers)
    connections.answer(long, draining=False)
    assert [packet.count(b"FCALL") for packet in answers.sent] == [1, 1, 1]
    assert connections.unsure == 3
    assert connections.close() == long


def test_many_short_endings_are_sent_apart_too() -> None:
    """Each is some commands of the server's, however short it is."""
    short = [Commands.hit(b"%d" % number, b"1") for number in range(2 * PORTION + 1)]
    assert list(packets(short)) == [short[:PORTION], short[PORTION:-1], short[-1:]]


# --- connections that rest ---


def rested(connections: Connections, *, s: float = 60.0) -> None:
    """So long ago both were used last."""
    connections._used_at -= s
    connections._popped_at -= s


def test_one_that_the_server_has_closed_while_it_rested_is_made_anew() -> None:
    takes, answers = ScriptedConnection(), ScriptedConnection()
    others = ScriptedConnection(), ScriptedConnection()
    connections = opened(takes, answers, *others)
    takes.cut = answers.cut = True
    rested(connections)
    connections.pop(8)
    connections.answer([HIT], draining=False)
    assert [len(one.sent) for one in others] == [1, 1]
    assert takes.closed
    assert answers.closed


def test_one_that_has_been_used_just_now_is_not_looked_at() -> None:
    """It costs nothing where a node has much to do."""
    takes, answers = ScriptedConnection(), ScriptedConnection()
    connections = opened(takes, answers)
    connections.pop(8)
    connections.answer([HIT], draining=False)
    takes.cut = answers.cut = True
    connections._popping_until = 0.0
    connections._unsure.clear()
    connections.pop(8)
    connections.answer([HIT], draining=False)
    assert len(answers.sent) == 2


def test_one_of_which_something_is_awaited_is_lost_with_it() -> None:
    answers = ScriptedConnection()
    connections = opened(ScriptedConnection(), answers)
    connections.answer([HIT], draining=False)
    answers.cut = True
    rested(connections)
    connections.answer([HIT], draining=False)
    assert len(answers.sent) == 2, "there is no other one"


def test_where_another_process_of_the_server_answers_a_session_has_to_begin() -> None:
    takes, other = ScriptedConnection(), ScriptedConnection()
    other.server = "another"
    connections = opened(takes, ScriptedConnection(), other)
    takes.cut = True
    rested(connections)
    with pytest.raises(ConnectionLost, match="another process"):
        connections.pop(8)
    assert other.closed


def test_what_cannot_be_sent_without_a_new_session_is_kept_for_it() -> None:
    answers, other = ScriptedConnection(), ScriptedConnection()
    other.server = "another"
    connections = opened(ScriptedConnection(), answers, other)
    answers.cut = True
    rested(connections)
    endings = [Commands.hit(b"%d" % number, b"x" * PORTION_BYTES) for number in range(3)]
    with pytest.raises(ConnectionLost):
        connections.answer(endings, draining=False)
    assert connections.close() == endings


def test_one_that_is_closed_while_nothing_is_popped_is_made_anew_at_once() -> None:
    takes, other = ScriptedConnection(), ScriptedConnection([None])
    connections = opened(takes, ScriptedConnection(), other)
    takes.cut = True
    assert connections.popped() == ()
    connections.pop(8)
    assert len(other.sent) == 1
