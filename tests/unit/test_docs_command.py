"""``rqproc docs``: the list, a page for people and for programs, and topics that are none."""

from __future__ import annotations

import io
import re
from collections import Counter

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from rich.console import Console

from rqproc.cli.docs import TOPICS, page, rendered, summary
from rqproc.cli.root import rqproc as root


def docs(*args: str) -> Result:
    return CliRunner().invoke(root, ["docs", *args], prog_name="rqproc")


def terminal(*, width: int, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=file, width=width, force_terminal=True, color_system=None)


def test_without_a_topic_each_is_listed_with_its_line() -> None:
    done = docs()
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [tuple(re.split(" {2,}", line, maxsplit=1)) for line in done.stdout.splitlines()]
    assert lines == [(topic, summary(page(topic))) for topic in TOPICS]


@pytest.mark.parametrize("args", [("faults",), ("faults", "--raw"), ("--raw", "faults")])
def test_where_the_output_is_no_terminal_a_page_is_markdown(args: tuple[str, ...]) -> None:
    done = docs(*args)
    assert (done.exit_code, done.stdout, done.stderr) == (0, page("faults"), "")


def test_an_unknown_topic_ends_with_2_and_names_those_there_are() -> None:
    done = docs("nonsense")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "'nonsense' is not one of" in done.stderr
    assert not [topic for topic in TOPICS if f"'{topic}'" not in done.stderr]


def test_topics_are_completed() -> None:
    found = ShellComplete(root, {}, "rqproc", "_RQPROC_COMPLETE").get_completions(["docs"], "o")
    assert [item.value for item in found] == ["on-lost", "operations"]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_fits_any_terminal(topic: str, width: int) -> None:
    shown = rendered(page(topic), terminal(width=width))
    assert max(map(len, shown.splitlines())) <= min(width, 100)


@pytest.mark.parametrize("topic", TOPICS)
def test_nothing_of_a_page_is_left_out_however_narrow_the_terminal(topic: str) -> None:
    headless = re.sub(r"^\|[^|]*(\|.*\n\| ---)", r"| \1", page(topic), flags=re.M)  # lists lack it
    wide, narrow = (
        Counter(filter(str.isalnum, rendered(headless, terminal(width=columns))))
        for columns in (100, 40)
    )
    assert wide
    assert not wide - narrow


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_is_shown_whole_where_there_is_latin_1_alone(topic: str) -> None:
    shown = rendered(page(topic), terminal(width=40, encoding="latin-1"))
    assert shown.encode("latin-1")


def test_a_link_to_a_page_says_how_it_is_shown_and_one_within_is_its_text() -> None:
    text = "# A\n\nSee [the errors](python.md#errors), or [below](#below)."
    shown = rendered(text, terminal(width=100))
    assert "See the errors (rqproc docs python), or below." in shown


def test_a_table_too_wide_for_the_terminal_becomes_lists() -> None:
    head = "| what | figure | target |\n| --- | --- | --- |\n"
    text = head + "| a hit | 1.18 | 0.75 |\n| a miss | 2 | |\n"
    shown = [line.strip() for line in rendered(text, terminal(width=30)).splitlines()]
    assert shown[-7:] == ["", "a hit", "figure: 1.18", "target: 0.75", "", "a miss", "figure: 2"]
    assert "figure: 1.18" not in rendered(text, terminal(width=60))
