"""The rights that are documented and tested are those that the functions need, exactly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rqproc
from rqproc.protocol.keys import Keys
from rqproc.protocol.library import library
from rqproc.protocol.rights import ROLES, WITHIN, Role, rules

FUNCTIONS: dict[Role, tuple[str, ...]] = {
    "caller": ("route", "scatter", "enqueue", "withdraw", "fence", "survey", "locate"),
    "node": (
        "join", "beat", "drain", "leave", "claim", "settle", "answer", "reconcile", "arrivals",
        "adopt", "survey", "locate", "stats", "take_state", "keep_state", "hand_over",
        "take_over",
    ),
    "operator": ("survey", "locate", "stats", "drain", "leave"),
}  # fmt: skip


def commands_of(functions: tuple[str, ...]) -> set[str]:
    """Every command that these may run, through whatever they call, read from the Lua text."""
    text = re.sub(r"--.*", "", library().text)
    bodies = {}
    for block in re.split(r"^(?=local function )", text, flags=re.M)[1:]:
        body = re.split(r"^registered", block, flags=re.M)[0]
        bodies[block.split("(", 1)[0].removeprefix("local function ")] = body
    left, seen = list(functions), set()
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            called = re.findall(r"(?<![.\w])(\w+)\(", bodies[name])
            left += [other for other in called if other in bodies]
    return {
        command.lower()
        for name in seen
        for command in re.findall(r"call\('([A-Z]+)'", bodies[name])
    }


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_run_what_its_functions_run_and_nothing_more(role: Role) -> None:
    assert set(WITHIN[role]) == commands_of(FUNCTIONS[role])


def test_a_caller_may_neither_publish_nor_load_functions_nor_take_from_a_queue() -> None:
    found = rules("caller", Keys("shop"))
    forbidden = ("+publish", "+function", "+eval", "+@", "+allcommands", "~*", "&*", "allkeys")
    assert not [rule for rule in found if rule.startswith(forbidden)]
    takes = {"+lpop", "+rpop", "+blpop", "+brpop", "+lmpop", "+blmpop", "+lmove", "+blmove"}
    assert not takes & set(found)


@pytest.mark.parametrize("role", ROLES)
def test_the_page_on_operations_names_the_rights_of_a_role_exactly(role: Role) -> None:
    text = Path(rqproc.__file__).parent.joinpath("docs", "operations.md").read_text("utf-8")
    found = re.search(rf"ACL SETUSER {role} on >PASSWORD ([^A]*?)(?=ACL SETUSER|```)", text)
    assert found
    assert tuple(found[1].replace("\\\n", " ").split()) == tuple(
        " ".join(rules(role, Keys())[1:]).split()
    )


def test_rights_end_at_the_namespace() -> None:
    own = [rule for rule in rules("node", Keys("shop")) if rule.startswith("~rqproc:")]
    assert own == ["~rqproc:shop:*"]
