"""``rqproc top``: what keys do, and that its tables fit in the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from unit.watched import Cluster, info

from rqproc.cli.keys import BACKSPACE, ENTER, ESCAPE, keys_of
from rqproc.cli.top_state import SORTS, Action, Drain, LookUp, State, press
from rqproc.cli.top_view import plain, screen, sorted_nodes
from rqproc.model import DEFAULT_RESOURCE
from rqproc.monitor.monitor import Monitor
from rqproc.monitor.overview import Overview

NODES = ("n1", "n2")
PIPED = State(note="no terminal")


def typed(*keys: str, state: State | None = None) -> tuple[State, list[Action]]:
    """Press keys, one after the other; return what was to be done."""
    found, actions = state or State(), []
    for key in keys:
        found, action = press(found, key, NODES)
        if action:
            actions.append(action)
    return found, actions


def test_s_goes_through_all_orders_and_begins_again() -> None:
    state, seen = State(), []
    for _ in SORTS:
        state, _ = press(state, "s", NODES)
        seen.append(state.sort)
    assert seen == [*SORTS[1:], SORTS[0]]


def test_q_ends_it() -> None:
    assert typed("q")[1] == ["quit"]


@pytest.mark.parametrize(
    ("text", "resource", "id"),
    [("42", DEFAULT_RESOURCE, 42), ("price:ABC-1", "price", "ABC-1")],
)
def test_an_id_is_looked_up(text: str, resource: str, id: int | str) -> None:
    state, actions = typed("/", *text, ENTER)
    assert actions == [LookUp(resource, id)]
    assert state.mode == "table"


def test_what_is_typed_can_be_taken_back() -> None:
    _, actions = typed("/", "4", "3", BACKSPACE, "2", ENTER)
    assert actions == [LookUp(DEFAULT_RESOURCE, 42)]
    state, actions = typed("/", "4", ESCAPE, "s")
    assert (actions, state.mode, state.sort) == ([], "table", SORTS[1])


def test_q_in_a_text_is_a_letter() -> None:
    state, actions = typed("/", "q")
    assert (actions, state.typed) == ([], "q")


def test_a_node_is_drained_only_if_that_is_confirmed() -> None:
    state, actions = typed("d", "n", "2", ENTER)
    assert actions == []
    assert state.prompt.startswith("drain n2: ")
    assert typed("y", state=state)[1] == [Drain("n2")]
    for other in ("n", ENTER, "x", ESCAPE):
        calm, actions = typed(other, state=state)
        assert (actions, calm.mode, calm.note) == ([], "table", "n2 was not drained")


def test_a_node_that_does_not_live_is_not_asked_about() -> None:
    state, actions = typed("d", "n", "9", ENTER)
    assert (actions, state.mode, state.note) == ([], "table", "no live node is named 'n9'")


def test_an_id_that_is_none_is_told() -> None:
    state, actions = typed("/", *"x" * 190, *"y" * 20, ENTER)
    assert len(state.typed) == 0
    assert actions == [LookUp(DEFAULT_RESOURCE, ("x" * 190 + "y" * 20)[:200])]


def test_arrows_and_other_sequences_are_no_keys() -> None:
    assert keys_of("\x1b[A") == []
    assert keys_of("\x1b") == [ESCAPE]
    assert keys_of("d\r\x7f\x01") == ["d", ENTER, BACKSPACE]


def seen_of(*names: str) -> Overview:
    cluster = Cluster(*names)
    monitor = Monitor(cluster)
    monitor.look()
    cluster.passes(5.0, asked=700)
    cluster.nodes[-1] = info(names[-1], state="draining", stuck=1)
    return monitor.look()


def drawn(seen: Overview, width: int, height: int, state: State | None = None) -> list[str]:
    out = Console(
        file=io.StringIO(), width=width, height=height, color_system=None, force_terminal=False
    )
    out.print(plain(seen, width) if state is PIPED else screen(seen, state or State(), out))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


@pytest.mark.parametrize("size", [(40, 20), (80, 24), (160, 50), (20, 10)])
def test_the_screen_is_no_larger_than_the_terminal(size: tuple[int, int]) -> None:
    width, height = size
    names = [f"a-node-of-a-long-name-{number}" for number in range(9)]
    found = drawn(seen_of(*names), width, height)
    assert len(found) <= height
    assert max(map(len, found)) <= width


def test_forty_columns_show_nodes_with_rates_and_latency() -> None:
    found = drawn(seen_of("n1", "n2"), 40, 20)
    heading = next(line for line in found if line.startswith("node"))
    assert heading.split() == ["node", "req/s", "hit", "p99"]
    assert any(line.split()[:3] == ["n1", "140", "80%"] for line in found)


def test_what_comes_from_elsewhere_is_no_markup() -> None:
    assert any("no <such> id" in line for line in drawn(seen_of("n1"), 160, 60))
    assert any(line.startswith("[red]n1") for line in drawn(seen_of("[red]n1"), 160, 60))


def seen_with(message: str, *, id: int | str = 7) -> Overview:
    seen = seen_of("n1")
    (error,) = seen.errors
    return replace(seen, errors=(replace(error, id=id, message=message),))


def test_control_characters_of_an_error_are_spelled_out() -> None:
    for seen in (seen_with("\x1b]0;mine\x07 \x9b31m"), seen_with("", id="\x1b]0;mine\x07 \x9b31m")):
        text = "\n".join(drawn(seen, 160, 60))
        assert "\\x1b]0;mine\\x07 \\x9b31m" in text
        assert not {"\x1b", "\x07", "\x9b"} & set(text)


def test_control_characters_of_news_are_spelled_out() -> None:
    state = State(note="no \x1b[2J\nnode")
    assert drawn(seen_of("n1"), 160, 60, state)[-1] == "no \\x1b[2J\\nnode"
    trouble = replace(seen_of("n1"), trouble="lost\x1b[2J", server="\x9b31m")
    text = "\n".join(drawn(trouble, 160, 60))
    assert "lost\\x1b[2J" in text
    assert "\\x9b31m" in text


@pytest.mark.parametrize("height", [20, 30, 60])
def test_an_error_of_several_lines_takes_one_and_leaves_the_foot_where_it_is(height: int) -> None:
    state = State(mode="confirm", typed="n1")
    found = drawn(seen_with("first\nsecond\r\nthird\n" * 20), 160, height, state)
    assert len(found) <= height
    assert found[-1].startswith("drain n1: ")
    assert not any("second" in line for line in found)
    if height == 60:
        assert any(line.endswith("ValueError: first") for line in map(str.rstrip, found))


@pytest.mark.parametrize(("width", "state"), [(40, None), (80, None), (160, None), (160, PIPED)])
def test_a_long_id_is_cut_and_leaves_rate_times_and_node_in_sight(
    width: int, state: State | None
) -> None:
    seen = seen_of("n1")
    long = {
        name: tuple(replace(row, id="L" * 180) for row in getattr(seen, name))
        for name in ("hot", "slow", "stuck", "errors")
    }
    shown = drawn(replace(seen, **long), width, 60, state)
    lines = [line for line in shown if "LL" in line]
    assert len(lines) == 4
    assert all("…" in line for line in lines)
    assert any(line.split()[-2:] == ["20.0", "n1"] for line in lines)
    assert any(line.split()[-3:] == ["60.0", "s", "n1"] for line in lines)
    assert any("…     1.2 s" in line or "…  1.2 s" in line for line in lines)


def test_a_long_message_is_cut_before_the_id() -> None:
    shown = drawn(seen_with("m" * 500, id="i" * 60), 160, 60)
    assert any("i" * 60 in line and "m" * 40 in line and "n1" in line for line in shown)


@pytest.mark.parametrize("text", ["\\", "[red]\\", "\\[red]"])
def test_a_backslash_is_shown_as_it_is(text: str) -> None:
    shown = drawn(seen_with(text, id=text), 160, 60)
    line = next(line for line in shown if "ValueError: " in line)
    assert line.split() == [f"price:{text}", "1.0", "s", "n1", "ValueError:", text]


def test_nodes_are_sorted_the_most_remarkable_first() -> None:
    cluster = Cluster("a", "b")
    monitor = Monitor(cluster)
    monitor.look()
    busy, idle = cluster.told
    cluster.passes(5.0, asked=100)
    cluster.told = [cluster.told[0], idle]
    rows = monitor.look().nodes
    assert busy.node == "a"
    assert [row.info.name for row in sorted_nodes(rows[::-1], "requests")] == ["a", "b"]
    assert [row.info.name for row in sorted_nodes(rows[::-1], "name")] == ["a", "b"]
