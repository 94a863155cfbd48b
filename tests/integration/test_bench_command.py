"""`rqproc bench`: a figure for every row, for people and for programs, and nothing left."""

from __future__ import annotations

import json
import math
import re
import signal
import sys

import pytest
from integration import kit
from integration.kit import Line
from integration.test_demo_command import Stage

from rqproc.lab.bench.environment import Bench, BenchPlan
from rqproc.lab.bench.rounds import Result, run_rounds
from rqproc.lab.bench.rows import NAMES, ROWS
from rqproc.lab.servers import ServerProcess

pytestmark = pytest.mark.slow

SHORT = ("--seconds", "0.1", "--rounds", "1")


@pytest.mark.timeout(400)
def test_every_row_comes_to_a_figure_and_no_key_stays(server: ServerProcess) -> None:
    few = BenchPlan(seconds=0.1, rounds=1, entries=2000, requests=2000, settle_s=0.1)
    *_, result = run_rounds(server.url, few, ROWS)
    assert isinstance(result, Result)
    figures = {row.name: result.figure(row) for row in result.rows}
    assert set(figures) == set(NAMES)
    missing = {name for name, figure in figures.items() if figure is None}
    assert missing == (set() if sys.platform == "linux" else {"entry", "idle-cpu"})
    assert all(math.isfinite(figures[name] or 0.0) for name in NAMES)
    with server.client() as redis:
        for_ever = {key for key in redis.scan_iter() if redis.ttl(key) == -1}
    assert for_ever <= {b"rq:workers:keys"}


def test_a_rival_is_waited_for_longer_than_redis_py_waits_by_itself(server: ServerProcess) -> None:
    with Bench(server.url, BenchPlan()) as bench:
        assert bench.redis.blpop(["nothing"], timeout=6) is None


@pytest.mark.timeout(120)
def test_programs_read_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = Line(capsys)("bench", *SHORT, "--rows", "hit,threads,stock-rq", "--json")
    assert code == 0
    found = json.loads(out)
    assert {"cores", "server", "python", "rqproc", "redis", "rq"} <= set(found["machine"])
    assert (found["seconds"], found["rounds"], found["nodes"]) == (0.1, 1, 1)
    hit, stock, threads = found["rows"]
    assert [hit["name"], stock["name"], threads["name"]] == ["hit", "stock-rq", "threads"]
    assert hit["rounds"] == [hit["figure"]]
    assert hit["target"] == {"at_most": 0.75}
    assert hit["verdict"] == ("met" if hit["figure"] <= 0.75 else "missed")
    measured = hit["measured"]
    assert hit["figure"] == pytest.approx(measured["hit.p50_s"] / measured["pair.p50_s"])
    assert (stock["target"], stock["verdict"]) == (None, "")
    assert threads["target"] == {"at_least": 60}
    assert "round 1 of 1: hits, one caller" in err


@pytest.mark.timeout(120)
def test_people_read_a_chart_with_targets_and_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--rows", "members,hit", "--against", "raw", "--nodes", "2")
    code, out, _ = Line(capsys)("bench", *SHORT, *options)
    assert code == 0
    hit, members = (line for line in out.splitlines() if re.match("(hit|members): ", line))
    assert re.search(
        r"  [#.|]{21} +[\d.]+ x  at most 0.75 +(met|missed) +[\d,.]+ [µm]s to [\d,.]+ [µm]s", hit
    )
    assert re.search(r"at most 1.2 +(met|missed)", members)
    assert re.search(r"^[012] of 2 targets met; missed: ", out, re.MULTILINE)
    assert re.search(r"^cores \d+, .*rqproc \d", out, re.MULTILINE)
    assert out.isascii() or not set(out) & set("█│━┃")


def test_the_list_names_every_row_with_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = Line(capsys)("bench", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(NAMES)
    assert "at least 60 x" in out
    assert "1,000,000 entries" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--against", "raw,celery"), "'celery' is none of raw, rq, redis-get"),
        (("--rows", "hit,hits"), "'hits' is none of hit, "),
        (("--rows", ""), "'' is none of"),
        (("--rows", "hit,near-get", "--against", "raw"), "near-get needs rivals"),
        (("--rounds", "0"), "--rounds"),
        (("--nodes", "0"), "--nodes"),
    ],
)
def test_wrong_words_are_usage_errors(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], says: str
) -> None:
    code, out, err = Line(capsys)("bench", *options)
    assert (code, out) == (2, "")
    assert says in err


def test_sentinels_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = Line(capsys)("--url", "redis+sentinel://localhost:1/main", "bench")
    assert code == 2
    assert "the primary's own address" in err


def test_a_server_that_is_not_there_is_said_to_be_unavailable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = Line(capsys)("--url", "redis://localhost:1", "bench", *SHORT)
    assert (code, out) == (5, "")
    assert "Redis at localhost:1 is not available" in err


@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", ["warming up: misses", "round 1 of 9: hits, many threads"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing(moment: str, number: signal.Signals) -> None:
    options = ("--rows", "miss,threads", "--seconds", "0.2", "--rounds", "9")
    stage = Stage(command=("bench", *options))
    try:
        kit.eventually(lambda: moment in stage.running.stderr, within_s=90, what=moment)
        stage.running.signal(number)
        assert stage.running.wait() == 130
        assert "Traceback" not in stage.running.stderr
        stage.leaves_nothing()
    finally:
        stage.close()
