"""The scripts' texts: put together from what they need, with no loose ends."""

from __future__ import annotations

import re
from hashlib import sha1
from importlib.resources import files

import pytest

from rqproc import scripts
from rqproc.keys import Keys
from rqproc.scripts import NAMES, VIRTUAL_CLOCK, Scripts, assemble


def source(name: str) -> str:
    return files("rqproc.scripts").joinpath(f"{name}.lua").read_text("utf-8")


def test_every_script_is_listed() -> None:
    there = {path.name.removesuffix(".lua") for path in files("rqproc.scripts").iterdir()
             if path.name.endswith(".lua")}  # fmt: skip
    assert there == {*NAMES, "lib"}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_opens_with_its_contract(name: str) -> None:
    header = re.match(r"(--.*\n)+", source(name))
    assert header
    assert "-- returns " in header[0]
    assert ("-- ARGV" in header[0]) == ("ARGV" in source(name).replace(header[0], ""))


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_no_loose_ends(name: str) -> None:
    """No constant is left by its name, no function is missing, no line is a comment."""
    text = Scripts(Keys("shop"))[name].text
    bare = re.sub(r"'[^']*'", "''", re.sub(r"--.*", "", text))
    own = set(re.findall(r"^local ([A-Z_]+) =", bare, flags=re.M))
    assert set(re.findall(r"\b[A-Z][A-Z_]+\b", bare)) <= {"ARGV", *own}
    assert not re.search(r"^\s*--", text, flags=re.M)
    library = set(re.findall(r"^local function (\w+)", source("lib"), flags=re.M))
    used = {word for word in library if re.search(rf"\b{word}\b", bare)}
    made = set(re.findall(r"^local function (\w+)", bare, flags=re.M))
    assert used <= made
    assert all(len(re.findall(rf"\b{word}\b", bare)) > 1 for word in made & library), "unused"


def test_functions_come_in_the_order_in_which_they_need_each_other() -> None:
    library = "local a = 1\nlocal function one() end\nlocal function two() one() end\n"
    library += "local function three() end\n"
    made = assemble(library, "two()", {})
    assert made == "local a = 1\nlocal function one() end\nlocal function two() one() end\ntwo()"


def test_constants_are_written_in_place_of_whole_words() -> None:
    assert assemble("", "f(NODE, NODES, 'x')", {"NODE": "'n'", "NODES": "'ns'"}) == (
        "f('n', 'ns', 'x')"
    )


def test_the_sha_is_the_texts() -> None:
    made = Scripts(Keys("shop"))
    for name in NAMES:
        assert made[name].sha == sha1(made[name].text.encode()).hexdigest()


def test_namespaces_have_scripts_of_their_own() -> None:
    one, two = Scripts(Keys("one")), Scripts(Keys("two"))
    shared = {name for name in NAMES if one[name].sha == two[name].sha}
    assert shared == {"inspect"}, "it reads nothing but jobs"
    assert "rqproc:one:" in one["route"].text
    assert "rqproc:two:" not in one["route"].text


def test_the_limit_of_attempts_and_the_clock_are_parts_of_the_text() -> None:
    made = Scripts(Keys("shop"), max_attempts=7, clock=VIRTUAL_CLOCK)
    assert "lost >= 7" in made["take"].text
    assert "rqproc:shop:node:' .. 'clock'" in made["take"].text
    assert scripts.DEFAULT_MAX_ATTEMPTS == 3
