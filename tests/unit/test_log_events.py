"""What is logged: events that have a name, known fields, and a row in the documentation."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rqproc
from rqproc.cli.docs import page
from rqproc.cli.output import JsonLines
from rqproc.ids import request_name
from rqproc.log_events import EVENTS, FIELDS, tell

SOURCES = [
    path
    for path in Path(rqproc.__file__).parent.rglob("*.py")
    if not {"lab", "testing"} & set(path.parts) and path.name != "log_events.py"
]
METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
OF_ALL = {"node", "level", "exc_info"}


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


def told() -> list[tuple[str, str, set[str], bool]]:
    """Each event that the code logs: where, which, with what fields, and whether others come from
    a mapping.
    """
    found = []
    for path, call, name in calls():
        if name not in ("tell", "say") or (name == "tell" and len(call.args) < 3):
            continue
        event = call.args[1 if name == "tell" else 0]
        if isinstance(event, ast.Constant):
            keys = {word.arg for word in call.keywords if word.arg}
            rest = any(word.arg is None for word in call.keywords)
            found.append((path.name, str(event.value), keys - OF_ALL, rest))
    return found


def test_nothing_is_logged_but_events() -> None:
    bare = [
        f"{path.name}:{call.lineno}"
        for path, call, name in calls()
        if name.rpartition(".")[0] in ("log", "self._log", "logging")
        and name.rpartition(".")[2] in METHODS
    ]
    assert bare == []


def test_each_event_is_logged_somewhere_with_its_fields_and_no_others() -> None:
    seen = set()
    for where, event, keys, rest in told():
        fields = set(EVENTS[event].fields)
        assert keys <= fields if rest else keys == fields, (where, event)
        seen.add(event)
    assert seen == EVENTS.keys()


def test_the_page_has_a_row_for_each_event() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| ", page("logs"), flags=re.M)
    assert [(name, level, re.findall(r"`(\w+)`", fields)) for name, level, fields in rows] == [
        (name, event.level, list(event.fields)) for name, event in EVENTS.items()
    ]


def test_no_field_hides_what_a_record_has_anyway() -> None:
    record = logging.makeLogRecord({})
    assert not {*FIELDS, "event"} & {*vars(record), "message", "asctime"}


def test_a_record_has_its_event_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("rqproc.node")
    tell(log, "job_refused", "no %s", "job", job="j1", error=ValueError("none"))
    (record,) = caplog.records
    assert (record.levelname, record.getMessage(), record.funcName) == (
        "WARNING", "no job", "test_a_record_has_its_event_and_fields",
    )  # fmt: skip
    formatter = JsonLines()
    formatter.node = "n1"
    line = json.loads(formatter.format(record))
    assert (line["event"], line["node"], line["job"]) == ("job_refused", "n1", "j1")
    assert line["error"] == "none"


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("r1f-c2a-7-price-7", "r1f-c2a-7-price-7"),
        ("r1f-c2a_13-7-price-7", "r1f-c2a-7-price-7"),
        ("r1f-a2-7-price-x_5f", "r1f-a2-7-price-x_5f"),
        ("0d5c-job_1-x", "0d5c-job_1-x"),
    ],
)
def test_a_request_is_named_without_its_place_among_others(id: str, name: str) -> None:
    assert request_name(id) == name
