"""What a change of members moves, computed and shown without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rqproc import cli
from rqproc.lab.moves import Moves, simulate
from rqproc.placement import PLACEMENTS, Placement

MANY = 20_000


def moves(placement: Placement, nodes: int, join: int = 0, leave: int = 0) -> Moves:
    return simulate(placement, nodes=nodes, join=join, leave=leave, ids=MANY)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("nodes", "join", "leave"), [(1, 1, 0), (4, 2, 1), (9, 1, 0), (3, 0, 2)])
def test_every_id_has_an_owner_before_and_after(
    placement: Placement, nodes: int, join: int, leave: int
) -> None:
    found = moves(placement, nodes, join, leave)
    assert sum(found.before.values()) == sum(found.after.values()) == MANY
    assert (len(found.before), len(found.after)) == (nodes, nodes + join - leave)
    for shares in (found.before, found.after):
        assert max(shares.values()) - min(shares.values()) < 0.02 * MANY


@pytest.mark.parametrize("nodes", [1, 2, 4, 9])
def test_one_that_joins_n_others_moves_a_share_of_slots_and_nearly_all_of_modulo(
    nodes: int,
) -> None:
    assert moves("slots", nodes, 1).moved / MANY == pytest.approx(1 / (nodes + 1), abs=0.01)
    assert moves("modulo", nodes, 1).moved / MANY == pytest.approx(nodes / (nodes + 1), abs=0.01)
    assert moves("slots", nodes, 1).least == pytest.approx(MANY / (nodes + 1))


def test_one_that_leaves_moves_what_it_had_and_no_more() -> None:
    found = moves("slots", 4, leave=1)
    assert found.moved == found.before["1"]
    assert found.least == MANY / 4
    assert moves("modulo", 4, leave=1).moved > 2 * found.moved


def test_nothing_moves_where_nobody_comes_or_goes() -> None:
    assert [moves(placement, 3).moved for placement in PLACEMENTS] == [0, 0]
    assert moves("slots", 3).least == 0


# --- the command ---


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert cli.run(("simulate", *args)) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_the_json_has_an_object_for_each_placement(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "--ids", "1000", "--json").splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [one["placement"] for one in found] == ["modulo", "slots"]
    assert list(found[0]) == ["placement", "ids", "before", "after", "moved", "least"]
    assert found[0]["before"] == dict.fromkeys("1234", 250)
    assert (found[0]["moved"], found[0]["least"]) == (800, pytest.approx(200))
    assert found[1]["moved"] < 250


def test_the_table_shows_each_node_with_a_bar_and_what_moves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown(capsys, "--nodes", "9", "--leave", "1", "--placement", "slots")
    assert text.startswith("placement slots: 100,000 ids, 9 nodes, 0 join, 1 leave")
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert len(rows) == 9
    assert ("██" in rows[0], " - " in rows[0]) == (False, True)
    assert all("██" in row and "12." in row for row in rows[1:])
    assert "moved  ████" in text
    assert "11.1%, that any placement with even shares moves" in text


def test_somebody_must_be_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(("simulate", "--nodes", "2", "--leave", "2")) == 2
    assert "at most 1 may leave" in capsys.readouterr().err
