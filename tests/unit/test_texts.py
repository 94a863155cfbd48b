"""What an operator reads: texts of others are seen, and do nothing to a terminal."""

from __future__ import annotations

import pytest

from rqproc.explained import AtNode, EndedRun, Explanation
from rqproc.model import Location
from rqproc.monitor.texts import first_line, lines, spelled_out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 日本語 \\ \U0001f600", "plain, größer, 日本語 \\ \U0001f600"),
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
        ("\x9b31m \x7f \0", "\\x9b31m \\x7f \\x00"),
        ("a\r\nb\tc\u2028d\u2029e", "a\\r\\nb\\tc\\u2028d\\u2029e"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str) -> None:
    assert spelled_out(text) == shown


@pytest.mark.parametrize(
    ("text", "line"),
    [("", ""), ("\n", ""), ("one", "one"), ("\n one\ntwo", "one"), ("a\x85b", "a")],
)
def test_the_first_line_is_the_first_that_says_anything(text: str, line: str) -> None:
    assert first_line(text) == line


def test_control_characters_of_an_id_and_of_its_errors_are_spelled_out() -> None:
    run = EndedRun(1.0, 0.0, 0.5, "ValueError", "\x1b[2J\nmore", "Traceback:\n  \x1b]0;mine\x07")
    told = AtNode("n1", True, True, 5.0, None, None, None, 0, 0, 0, 10, (run,))
    where = Location("\u202eid", 0, 1, ("n1",), "n1", None)
    found = list(lines(Explanation("\x9b31m", "\u202eid", where, (), told, "", 0.1)))
    assert found[0] == "\\x9b31m \\u202eid"
    assert found[-3].endswith("ValueError: \\x1b[2J")
    assert found[-1] == "              |   \\x1b]0;mine\\x07"
    assert not {"\x1b", "\x9b", "\x07", "\u202e", "\n"} & set("".join(found))
