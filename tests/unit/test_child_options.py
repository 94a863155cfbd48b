"""What a supervisor gives its nodes of the options that it was started with."""

from __future__ import annotations

from rqproc.cli.node import start
from rqproc.cli.serve import _child_command


def _child(*args: str) -> list[str]:
    options = start.make_context("start", ["prices:app", *args]).params
    return _child_command("w-1", "prices:app", options, tells=7, number=0)


def test_a_childs_command_is_one_that_starts_a_node_by_itself() -> None:
    command = _child("--count", "3", "--reload", "--max-age", "60", "--handoff")
    at = command.index("start")
    child = start.make_context("start", command[at + 1 :]).params
    assert (child["count"], child["reload"], child["name"], child["tells"]) == (1, False, "w-1", 7)
    assert child["max_age"] == 60


def test_entries_are_not_handed_on_where_code_is_reloaded() -> None:
    """They are what the code before has made."""
    assert "--handoff" in _child("--handoff")
    assert "--handoff" not in _child("--handoff", "--reload")
