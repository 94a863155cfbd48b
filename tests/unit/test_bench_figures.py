"""How bench comes to its figures and verdicts, and how it draws them."""

from __future__ import annotations

import pytest

from rqproc.cli import bench as shown
from rqproc.lab.bench.environment import RIVALS, BenchPlan
from rqproc.lab.bench.rounds import Result
from rqproc.lab.bench.rows import (
    NAMES,
    PROBES,
    ROWS,
    Formula,
    at_least,
    at_most,
    choose,
    judge,
    probes_of,
)
from rqproc.lab.bench.timing import FormulaTerm, summary

HIT, PAIR = FormulaTerm("hit", "p50_s"), FormulaTerm("pair", "p50_s")


# --- figures ---


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """Not the ratio of medians: a slow round is slow for both that it compares."""
    readings = {
        "hit": [{"p50_s": 1.0}, {"p50_s": 10.0}, {"p50_s": 3.0}],
        "pair": [{"p50_s": 1.0}, {"p50_s": 5.0}, {"p50_s": 1.0}],
    }
    formula = Formula(HIT, PAIR)
    assert formula.rounds(readings) == [1.0, 2.0, 3.0]
    assert formula.figure(readings) == 2.0


def test_a_figure_of_one_term_is_its_median_in_its_own_unit() -> None:
    readings = {"hit": [{"p50_s": 1e-6}, {"p50_s": 4e-6}, {"p50_s": 2e-6}]}
    assert Formula(HIT, scale=1e6).figure(readings) == pytest.approx(2.0)


def test_what_could_not_be_measured_has_no_figure() -> None:
    assert Formula(FormulaTerm("idle", "cpu_share")).figure({"idle": [{"sent_per_s": 1.0}]}) is None
    assert Formula(HIT).figure({}) is None


def test_a_latency_has_the_median_and_the_99th_of_a_hundred() -> None:
    found = summary([float(number) for number in range(101)])
    assert found == {"p50_s": 50.0, "p99_s": 99.0}


def test_a_latency_is_never_longer_than_the_longest_time() -> None:
    assert summary([1.0, 2.0])["p99_s"] <= 2.0


# --- verdicts ---


@pytest.mark.parametrize(
    ("figure", "target", "verdict"),
    [
        (0.99, at_most(1.0), "met"),
        (1.0, at_most(1.0), "met"),
        (1.01, at_most(1.0), "missed"),
        (45.0, at_least(45), "met"),
        (44.9, at_least(45), "missed"),
        (0.0, at_most(1.0), "met"),
        (-3.0, at_most(64), "met"),
        (0.0, at_least(45), "missed"),
        (None, at_most(1.0), "n/a"),
        (None, None, "n/a"),
        (12.0, None, ""),
    ],
)
def test_a_verdict_follows_from_the_target_alone(figure, target, verdict) -> None:  # type: ignore[no-untyped-def]
    assert judge(figure, target) == verdict


def test_a_target_says_in_words_what_it_asks_for() -> None:
    assert [str(at_most(1.25)), str(at_least(300))] == ["at most 1.25", "at least 300"]


def test_a_score_is_how_many_times_better_than_asked_for() -> None:
    assert at_most(2.0).score(1.0) == 2.0
    assert at_least(50).score(100) == 2.0
    assert at_least(50).score(25) == 0.5


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (1.7, True)])
def test_a_machine_that_others_use_is_told_from_a_quiet_one(load: float, busy: bool) -> None:
    assert Result(BenchPlan(), {"load": load}, (), {}).busy is busy


# --- the chart ---


def drawn(score: float) -> str:
    return shown.bar(score, width=9, ink=shown.PLAIN)


def test_a_bar_reaches_its_mark_where_the_target_is_just_met() -> None:
    assert drawn(1.0) == "#####...."
    assert drawn(0.999)[4] == "|"


def test_a_bar_is_empty_at_a_quarter_and_full_at_four_times() -> None:
    assert drawn(0.25) == drawn(0.01) == drawn(0.0) == "....|...."
    assert drawn(4.0) == drawn(100.0) == drawn(float("inf")) == "#########"


def test_a_bar_grows_with_the_logarithm_of_its_score() -> None:
    assert [drawn(score).count("#") for score in (0.5, 1.0, 2.0)] == [2, 5, 7]


def test_every_bar_is_as_wide_as_the_others() -> None:
    scores = [place / 50 for place in range(500)]
    assert {len(shown.bar(score)) for score in scores} == {shown.WIDTH}


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("p50_s", 0.000231, "231 µs"),
        ("call_s", 1.2345e-06, "1.23 µs"),
        ("command_s", 0.31, "310 ms"),
        ("floor_s", 2.5, "2.5 s"),
        ("per_s", 12345.6, "12,346/s"),
        ("entry_bytes", 400.0, "400 bytes"),
        ("grown_bytes", 3.2e6, "3.2 MB"),
        ("cpu_share", 0.004, "0.4 %"),
        ("connections", 4.0, "4"),
    ],
)
def test_an_amount_is_written_in_the_unit_of_its_name(field: str, value: float, text: str) -> None:
    assert shown.amount(field, value) == text


# --- the table ---


def test_no_two_rows_bear_one_name() -> None:
    assert len(set(NAMES)) == len(ROWS)


def test_every_probe_is_of_some_use() -> None:
    assert [probe.name for probe in probes_of(ROWS)] == list(PROBES)


def test_rows_are_chosen_by_name_in_the_tables_order() -> None:
    assert [row.name for row in choose(("miss", "hit"), RIVALS)] == ["hit", "miss"]


def test_rows_that_need_a_rival_that_is_left_out_are_left_out() -> None:
    left = {row.name for row in choose((), ("raw",))}
    assert {"hit", "miss", "near", "memory"} <= left
    assert not left & {"threads", "many", "near-get", "stock-rq"}
    assert choose(("threads",), ("raw",)) == ()


def test_a_probe_of_several_rows_is_measured_once() -> None:
    rows = choose(("hit", "hit-p99", "miss"), RIVALS)
    assert [probe.name for probe in probes_of(rows)] == ["pair", "hit", "miss"]


def test_a_row_says_with_how_many_it_was_measured() -> None:
    (row,) = choose(("entries",), RIVALS)
    assert "100,000 entries" in row.title(BenchPlan())
    assert "1,000,000 entries" in row.title(BenchPlan().with_millions())
