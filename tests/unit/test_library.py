"""The library's text: its parts, its names, and what is said at the head of each function."""

from __future__ import annotations

import re
from hashlib import sha256
from importlib.resources import files

import pytest

from rqproc.protocol import library
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.protocol.library import PROTOCOL, SOURCES

FOLDER = files("rqproc.protocol").joinpath("functions")
TEXTS = {name: FOLDER.joinpath(f"{name}.lua").read_text("utf-8") for name in SOURCES}
REGISTERED = re.findall(
    r"^registered(?:_for_full)?\('(\w+)', \w+\)$", "\n".join(TEXTS.values()), re.M
)


def test_every_file_is_a_part_of_it() -> None:
    there = {path.name for path in FOLDER.iterdir() if path.name.endswith(".lua")}
    assert there == {f"{name}.lua" for name in SOURCES}


def test_every_function_is_registered_once() -> None:
    assert len(REGISTERED) == len(set(REGISTERED)) == 22


@pytest.mark.parametrize("name", REGISTERED)
def test_a_function_is_headed_by_its_contract(name: str) -> None:
    (text,) = [text for text in TEXTS.values() if f"local function {name}(" in text]
    above = text[: text.index(f"local function {name}(")]
    header = above[
        above.rindex(f"\n-- {name}: " if f"\n-- {name}: " in above else f"-- {name}: ") :
    ]
    takes_none = f"local function {name}()" in text
    assert "-- args  2" in header or takes_none
    assert "-- returns " in header or name == "fence"


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_names_no_function_before_it_is_there(name: str) -> None:
    before = "\n".join(TEXTS[other] for other in SOURCES[: SOURCES.index(name)])
    later = "\n".join(TEXTS[other] for other in SOURCES[SOURCES.index(name) + 1 :])
    bare = re.sub(r"'[^']*'|--.*", "", TEXTS[name])
    ours = set(re.findall(r"^local function (\w+)", later, flags=re.M))
    known = set(re.findall(r"\b(?:local|function) (\w+)", before + bare))
    used = set(re.findall(r"(?<![.\w])(\w+)\(", bare))
    assert not (used & ours) - known


def test_no_function_is_there_for_nothing() -> None:
    whole = "\n".join(TEXTS.values())
    made = re.findall(r"^local function (\w+)", whole, flags=re.M)
    assert [name for name in made if len(re.findall(rf"\b{name}\b", whole)) == 1] == []


def test_the_digest_is_the_texts_and_stands_in_it() -> None:
    build = library.library()
    head, mark, body = build.text.split("\n", 2)
    assert head == f"#!lua name=rqproc_{PROTOCOL}"
    assert mark == f"local DIGEST = '{build.digest}'"
    assert sha256(body.encode()).hexdigest().startswith(build.digest)
    assert build == library.build()


def test_the_digest_of_another_text_is_another() -> None:
    other = library.build(time="local function server_time() return 1, 1000 end")
    assert other.digest != library.library().digest
    assert "call('TIME')" in library.library().text
    assert "call('TIME')" not in other.text


def test_libraries_of_two_protocols_have_nothing_in_common() -> None:
    mine, next_one = library.library(), library.build(protocol=PROTOCOL + 1)
    assert mine.function("route") == f"rqproc_{PROTOCOL}_route"
    assert next_one.function("route") == f"rqproc_{PROTOCOL + 1}_route"
    assert f"local PROTOCOL = {PROTOCOL + 1}" in next_one.text
    assert mine.digest != next_one.digest


def test_it_is_loaded_in_the_place_of_another_build() -> None:
    text = library.library().text
    assert Commands(Keys("shop")).load == ("FUNCTION", "LOAD", "REPLACE", text)


def test_no_function_makes_a_variable_for_all() -> None:
    """A library has no variables for all of its functions but its own locals."""
    for name, text in TEXTS.items():
        bare = re.sub(r"'[^']*'|--.*", "", text)
        assert not re.findall(r"^function \w+", bare, flags=re.M), name
