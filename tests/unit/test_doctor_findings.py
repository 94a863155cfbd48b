"""What `rqproc doctor` makes of what it finds."""

from __future__ import annotations

import re
from typing import cast

import pytest

from rqproc.cli.docs import page
from rqproc.monitor.doctor import CHECKS, EXIT_CODES, Finding, Level, rights, worst
from rqproc.monitor.doctor.findings import listed
from rqproc.monitor.doctor.server_checks import version
from rqproc.monitor.doctor.server_view import ServerView
from rqproc.policy import Policy
from rqproc.protocol.keys import Keys
from rqproc.protocol.rights import ROLES, Role, rules
from rqproc.resource import ResourceSpec, code_of


@pytest.mark.parametrize(
    ("levels", "found"),
    [
        ((), "ok"),
        (("ok", "skipped"), "skipped"),
        (("warning", "skipped", "ok"), "warning"),
        (("ok", "fault", "warning"), "fault"),
    ],
)
def test_the_worst_finding_counts(levels: tuple[Level, ...], found: Level) -> None:
    assert worst(Finding(level, "") for level in levels) == found


def test_what_is_skipped_is_no_failure() -> None:
    assert EXIT_CODES == {"ok": 0, "skipped": 0, "warning": 1, "fault": 2}


def test_a_long_list_is_cut_and_says_so() -> None:
    assert listed("abc") == "a, b, c"
    assert listed("abcdefg") == "a, b, c, d, e and 2 more"


class Told:
    """A server, by what INFO says of it."""

    def __init__(self, **info: str) -> None:
        self.info = {"uptime_in_seconds": "7200", **info}

    def number(self, name: str) -> int:
        return int(self.info[name])


@pytest.mark.parametrize(
    ("info", "level", "text"),
    [
        ({"redis_version": "6.2.14"}, "fault", "it is Redis 6.2.14"),
        ({"redis_version": "7.0.0"}, "ok", "Redis 7.0.0, up for 2 hours"),
        (
            {"redis_version": "7.2.4", "valkey_version": "9.1.2"},
            "ok", "Valkey 9.1.2, up for 2 hours",
        ),
    ],
)  # fmt: skip
def test_a_server_that_is_too_old_is_a_fault(info: dict[str, str], level: Level, text: str) -> None:
    (found,) = version(cast(ServerView, Told(**info)))
    assert (found.level, found.text) == (level, text)


def test_the_page_on_operations_names_each_check() -> None:
    text = page("operations").split("## When something is wrong", 1)[1].split("\n## ", 1)[0]
    firsts = re.findall(r"^\| (`.*?) \| ", text, flags=re.M)
    named = [name for first in firsts for name in re.findall(r"`([\w ]+)`", first)]
    assert named == ["connection", *CHECKS]


@pytest.mark.parametrize("role", ROLES)
def test_doctor_knows_how_to_ask_about_each_right(role: Role) -> None:
    for rule in rules(role, Keys()):
        asked = list(rights.questions(Keys(), rule))
        assert asked or rule[1:] in rights.UNASKED or rule in rights.NO_RIGHTS, rule


def test_code_differs_by_the_names_of_resources_and_their_files() -> None:
    def spec(handler: object) -> ResourceSpec:
        return ResourceSpec(handler, name="a", ttl_s=1, policy=Policy(1))  # type: ignore[arg-type]

    here, there = spec(listed_here), spec(listed)
    assert code_of({"a": here}) == code_of({"a": spec(listed_here)})
    assert len({code_of({"a": here}), code_of({"b": here}), code_of({"a": there})}) == 3


def listed_here(id: object) -> None: ...
