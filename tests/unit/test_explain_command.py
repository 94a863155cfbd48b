"""``rqproc explain`` where there is no server, and of what is no id."""

from __future__ import annotations

import json
from typing import Never

from click.testing import CliRunner

from rqproc.cli.root import rqproc as root


def _refused(constant: str) -> Never:
    raise AssertionError(f"{constant} is no JSON")


def test_what_never_ends_is_null_in_json_and_no_number_in_text() -> None:
    told = CliRunner().invoke(root, ["--url", "local://", "explain", "1", "--json"])
    found = json.loads(told.stdout, parse_constant=_refused)
    assert found["nodes"][0]["lease_left_s"] is None
    told = CliRunner().invoke(root, ["--url", "local://", "explain", "1"])
    assert "local (member, no lease, " in told.stdout


def test_nothing_is_told_of_ids_if_one_of_them_is_none() -> None:
    told = CliRunner().invoke(root, ["--url", "local://", "explain", "1", "a\nb"])
    assert told.exit_code != 0
    assert told.stdout == ""
