"""One function is run, and the library loaded where it is missing."""

from __future__ import annotations

from typing import Any, cast

import hiredis
import pytest
from scripted_connection import ScriptedConnection, ScriptedConnector

from rqproc.errors import ConfigError
from rqproc.protocol import loading
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.transport.connection import ConnectionLost, Refused

MISSING = hiredis.ReplyError("ERR Function not found")
UNKNOWN = hiredis.ReplyError("ERR unknown command 'FCALL', with args beginning with: ")
COMMANDS = Commands(Keys())


def run(connection: ScriptedConnection, *, timeout_s: float = 5.0) -> Any:
    connector = cast(Any, ScriptedConnector(connection))
    command = COMMANDS.survey()
    return loading.run(
        cast(Any, connection), COMMANDS, command, connector=connector, timeout_s=timeout_s
    )


def test_a_function_that_is_there_is_run_in_one_packet() -> None:
    connection = ScriptedConnection([b"told"])
    assert run(connection) == b"told"
    assert [command[0] for command in connection.sent] == [b"FCALL"]


def test_where_the_library_is_missing_it_is_loaded_and_the_function_run_again() -> None:
    connection = ScriptedConnection([MISSING], [b"rqproc_2"], [b"told"])
    assert run(connection) == b"told"
    assert [command[0] for command in connection.sent] == [b"FCALL", b"FUNCTION", b"FCALL"]
    assert not connection.closed


def test_whoever_may_not_load_it_is_told() -> None:
    connection = ScriptedConnection([MISSING], [hiredis.ReplyError("NOPERM no permission")])
    with pytest.raises(Refused, match="NOPERM"):
        run(connection)
    assert connection.closed


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (b"redis_version:6.2.14\r\nos:Linux\r\n", "version Redis 6.2.14"),
        (b"redis_version:7.2.4\r\nvalkey_version:9.1.0\r\n", "version Valkey 9.1.0"),
    ],
)
def test_a_server_that_knows_no_functions_is_named_with_what_is_needed(
    info: bytes, says: str
) -> None:
    with pytest.raises(ConfigError, match=f"{says}.*Redis 7.0 or Valkey 7.2") as caught:
        run(ScriptedConnection([UNKNOWN], [info]))
    assert "somewhere:6379" in str(caught.value)


def test_a_reply_that_comes_in_pieces_is_waited_for() -> None:
    assert run(ScriptedConnection([], [], [b"told"])) == b"told"


def test_a_server_that_does_not_answer_in_time_is_lost() -> None:
    connection = ScriptedConnection()
    with pytest.raises(ConnectionLost):
        run(connection, timeout_s=0.01)
    assert connection.closed
