"""Idle connections: which of them are worth anything after one has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis
import pytest
from made_calls import COMMANDS

from rqproc.calls.functions import FunctionCalls
from rqproc.calls.retry import OUTAGE_S
from rqproc.errors import RedisUnavailable
from rqproc.runtime import MACHINE
from rqproc.transport.connection import ConnectionLost, Refused


class FakeConnection:
    """Its packets fail in turn, or are answered in turn."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[Any] = []
        self.closed = self.cut = False

    def is_cut(self) -> bool:
        return self.cut

    def send(self, packet: bytes, *, timeout_s: float) -> None:
        reader = hiredis.Reader()
        reader.feed(packet)
        self.sent.append(tuple(reader.gets()[:2]))

    def take(self, timeout_s: float) -> list[Any]:
        outcome = self.outcomes.pop(0) if self.outcomes else b"PONG"
        if isinstance(outcome, ConnectionLost):
            raise outcome
        return [hiredis.ReplyError(outcome.reason) if isinstance(outcome, Refused) else outcome]

    def close(self) -> None:
        self.closed = True


class FakeConnector:
    """Gives the connections that it was given."""

    server = "there"
    runtime = MACHINE

    def __init__(self, *connections: FakeConnection) -> None:
        self.connections = list(connections)

    def connect(self, *, timeout_s: float) -> FakeConnection:
        return self.connections.pop(0)


SURVEY = (b"FCALL", COMMANDS.survey()[1].encode())


def test_an_idle_connection_that_the_server_has_closed_is_not_used() -> None:
    first, second = FakeConnection(), FakeConnection()
    calls = FunctionCalls(FakeConnector(first, second), COMMANDS)  # type: ignore[arg-type]
    calls.run(COMMANDS.survey())
    first.cut = True
    calls.run(COMMANDS.survey())
    assert first.closed
    assert (first.sent, second.sent) == ([SURVEY], [SURVEY])


def failing(error: Exception) -> Callable[[Any], None]:
    def talk(connection: Any) -> None:
        raise error

    return talk


def idle(*connections: FakeConnection) -> FunctionCalls:
    """FunctionCalls on whose stack these connections lie, the last one on top."""
    functions = FunctionCalls(FakeConnector(*connections), COMMANDS)  # type: ignore[arg-type]
    for connection in [functions._take(1.0) for _ in connections]:
        functions._keep(connection)
    return functions


@pytest.mark.parametrize(
    "error", [ConnectionLost("cut"), Refused("READONLY no"), Refused("UNBLOCKED no")], ids=str
)
def test_where_the_server_has_gone_or_is_no_primary_any_more_no_connection_is_kept(
    error: Exception,
) -> None:
    connections = [FakeConnection(), FakeConnection(), FakeConnection()]
    with pytest.raises(type(error)):
        idle(*connections)._talk_once(failing(error))
    assert all(connection.closed for connection in connections)


def test_what_the_server_refuses_for_another_reason_costs_one_connection() -> None:
    connections = [FakeConnection(), FakeConnection(), FakeConnection()]
    functions = idle(*connections)
    with pytest.raises(Refused):
        functions._talk_once(failing(Refused("OOM no")))
    assert [connection.closed for connection in connections] == [False, False, True]
    assert functions.run(COMMANDS.survey()) == b"PONG"


# --- one function ---


def test_one_function_runs_to_its_reply() -> None:
    connection = FakeConnection([1, 0, []])
    assert idle(connection).run(COMMANDS.survey()) == [1, 0, []]
    assert connection.sent == [SURVEY]


def test_a_server_without_the_functions_is_brought_them_with_the_next_packet() -> None:
    connection = FakeConnection(Refused("ERR Function not found"), b"rqproc_2")
    assert idle(connection).run(COMMANDS.survey()) == b"PONG"
    assert connection.sent == [SURVEY, (b"FUNCTION", b"LOAD"), SURVEY]


def test_a_function_is_sent_again_through_a_short_outage() -> None:
    connections = [
        FakeConnection(ConnectionLost("cut")),
        FakeConnection(Refused("LOADING wait")),
        FakeConnection(7),
    ]
    functions = FunctionCalls(FakeConnector(*connections), COMMANDS)  # type: ignore[arg-type]
    assert functions.run(COMMANDS.survey()) == 7
    assert [connection.sent for connection in connections] == [[SURVEY]] * 3


def test_what_will_not_pass_is_told_at_once() -> None:
    with pytest.raises(RedisUnavailable, match=r"NOPERM no.*ACL LOG"):
        idle(FakeConnection(Refused("NOPERM no"))).run(COMMANDS.survey())


def test_an_outage_that_has_lasted_is_told() -> None:
    with pytest.raises(RedisUnavailable, match="no route"):
        idle(FakeConnection(ConnectionLost("no route", spent_s=OUTAGE_S))).run(COMMANDS.survey())


def test_a_forked_child_leaves_its_parents_connections_alone() -> None:
    connection = FakeConnection()
    functions = idle(connection)
    functions.forget_parent()
    functions.close()
    assert not connection.closed
