"""One function is run, and the library loaded where it is missing."""

from __future__ import annotations

from typing import Any, cast

import hiredis
import pytest
from scripted_link import ScriptedDial, ScriptedLink

from rqproc.errors import ConfigError
from rqproc.protocol import loading
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.transport.connection import LinkLost, Refused

MISSING = hiredis.ReplyError("ERR Function not found")
UNKNOWN = hiredis.ReplyError("ERR unknown command 'FCALL', with args beginning with: ")
COMMANDS = Commands(Keys())


def run(link: ScriptedLink, *, timeout_s: float = 5.0) -> Any:
    dial = cast(Any, ScriptedDial(link))
    command = COMMANDS.survey()
    return loading.run(cast(Any, link), COMMANDS, command, dial=dial, timeout_s=timeout_s)


def test_a_function_that_is_there_is_run_in_one_packet() -> None:
    link = ScriptedLink([b"told"])
    assert run(link) == b"told"
    assert [command[0] for command in link.sent] == [b"FCALL"]


def test_where_the_library_is_missing_it_is_loaded_and_the_function_run_again() -> None:
    link = ScriptedLink([MISSING], [b"rqproc_2"], [b"told"])
    assert run(link) == b"told"
    assert [command[0] for command in link.sent] == [b"FCALL", b"FUNCTION", b"FCALL"]
    assert not link.closed


def test_whoever_may_not_load_it_is_told() -> None:
    link = ScriptedLink([MISSING], [hiredis.ReplyError("NOPERM no permission")])
    with pytest.raises(Refused, match="NOPERM"):
        run(link)
    assert link.closed


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
        run(ScriptedLink([UNKNOWN], [info]))
    assert "somewhere:6379" in str(caught.value)


def test_a_reply_that_comes_in_pieces_is_waited_for() -> None:
    assert run(ScriptedLink([], [], [b"told"])) == b"told"


def test_a_server_that_does_not_answer_in_time_is_lost() -> None:
    link = ScriptedLink()
    with pytest.raises(LinkLost):
        run(link, timeout_s=0.01)
    assert link.closed
