"""How the network of a cluster of processes tells which reply is to which command."""

from __future__ import annotations

from pathlib import Path

import hiredis
import pytest
from scripted_server import HELLO, NULL, array, bulk, push

from rqproc.testing.processes.network import _FunctionPort, _Judge

SUBSCRIBED = array([bulk(b"subscribe"), bulk(b"c"), b":1\r\n"], b">")


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _FunctionPort:
    monkeypatch.setattr(_FunctionPort, "open", lambda self, listening: listening.close())
    return _FunctionPort("nowhere", tmp_path / "p")


def sends(judge: _Judge, *commands: tuple[str, ...]) -> None:
    assert judge("requests", b"".join(map(hiredis.pack_command, commands))) == "passes"


def test_functions_of_one_who_has_subscribed_are_counted_as_they_are_answered(
    port: _FunctionPort,
) -> None:
    judge = _Judge(port)
    sends(judge, ("HELLO", "3"))
    assert judge("replies", HELLO) == "passes"
    sends(judge, ("SUBSCRIBE", "c", "d"))
    assert judge("replies", SUBSCRIBED + SUBSCRIBED) == "passes"
    sends(judge, ("FCALL", "route", "0"))
    assert judge("replies", NULL + push(b"c", b"an answer")) == "passes"
    assert port.carried_out == 1


def test_the_reply_to_the_next_function_of_one_who_has_subscribed_is_lost(
    port: _FunctionPort,
) -> None:
    judge = _Judge(port)
    sends(judge, ("SUBSCRIBE", "c"), ("FCALL", "route", "0"))
    port.doomed = 1
    sends(judge, ("FCALL", "route", "0"))
    assert judge("replies", SUBSCRIBED + NULL) == "passes"
    assert judge("replies", NULL) == "cut"
    assert (port.carried_out, port.doomed) == (2, 0)
