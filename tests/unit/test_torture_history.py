"""The shortest history, the schedule and the figures of a torture."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from unit.torture_records import ask, fault, history, killed, run

from rqproc.lab.journal import Journal
from rqproc.lab.torture.figures import Times, figures
from rqproc.lab.torture.history import check
from rqproc.lab.torture.records import HARMLESS, Ask, Stop, Value
from rqproc.lab.torture.run_log import RunLog, Told
from rqproc.lab.torture.schedule import KINDS, LASTING, SUDDEN, schedule


def test_a_violation_shows_its_own_records_and_the_faults_around_in_order_of_time() -> None:
    overlapping = (run(5.0, 5.3), run(5.2, 5.4, pid=2))
    others = [run(at / 10, at / 10 + 0.05, key="charge:2") for at in range(100)]
    near, far = fault("pause", 4.8, 5.1), fault("pause", 1.0, 1.2)
    stops = (Stop(1, 4.9, 5.1), Stop(3, 4.9, 5.1))
    (found,) = check(history(*overlapping, *others, near, far, *stops))
    told = [line.text for line in found.lines]
    assert [line.at for line in found.lines] == sorted(line.at for line in found.lines)
    assert len(told) == 8
    assert "FAULT pause" in told[0]
    assert "process 1 stopped" in told[1]
    assert "begins, token 5000" in told[2]


def test_the_violation_with_the_shortest_history_comes_first() -> None:
    four = [run(at, tag="r1", pid=at) for at in range(1, 5)]
    ends = [killed(at + 0.5, pid=at) for at in range(1, 5)]
    hung = ask(20.0, None)
    about = [fault("kill", at + 0.5, at + 0.5) for at in range(1, 5)]
    found = check(history(*four, *ends, *about, hung))
    assert [violation.law for violation in found] == ["in time", "bounded attempts"]


def test_every_kind_has_its_turn_in_every_round_short_and_long_by_turns() -> None:
    planned = list(islice(schedule(KINDS, random.Random(3)), 2 * len(KINDS)))
    rounds = planned[: len(KINDS)], planned[len(KINDS) :]
    for blows_of_round in rounds:
        assert Counter(planned.kind for planned in blows_of_round) == Counter(KINDS)
    lengths = {(planned.kind, planned.long) for planned in planned}
    assert len(lengths) == 2 * len(KINDS)


def test_a_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    one, same, other = (list(islice(schedule(KINDS, random.Random(s)), 50)) for s in (1, 1, 2))
    assert one == same != other


def test_two_faults_at_once_are_a_lasting_and_a_sudden_one() -> None:
    planned = list(islice(schedule(KINDS, random.Random(1)), 500))
    both = {(planned.kind, planned.second) for planned in planned if planned.second}
    assert {kind for kind, _ in both} == LASTING
    assert {second for _, second in both} == set(SUDDEN)


def test_only_chosen_kinds_strike() -> None:
    planned = islice(schedule(("pause", "join"), random.Random(1)), 100)
    assert {kind for planned in planned for kind in (planned.kind, planned.second)} == {
        "pause",
        "join",
        None,
    }
    assert list(schedule((), random.Random(1))) == []


def test_failover_is_from_the_kill_to_the_first_answer_of_another_process() -> None:
    kill = replace(fault("kill", 1.0, 1.0), pids=(1,), owned=("kept:1", "kept:2"))
    before = run(0.8, 0.9, key="kept:1")
    after = run(1.9, 2.0, key="kept:1", pid=2)
    answers = (ask(0.95, 1.01, before), ask(1.2, 2.1, after), ask(1.2, 2.5, after))
    found = figures(history(kill, before, after, *answers))
    assert found.failover == Times(1, 1.1, 1.1)
    assert found.failover_told is None


def test_a_distribution_has_its_middle_and_its_worst() -> None:
    assert Times.of([float(number) for number in range(1, 101)]) == Times(100, 50.0, 99.0)
    assert Times.of([]) is None


def told(path: Path, *said: dict[str, Any]) -> Told:
    """What is read of a run log in which this was written."""
    with closing(Journal(path)) as journal:
        for line in said:
            journal.write(line)
        return RunLog(journal).told()


def test_a_run_log_is_read_into_runs_whose_ends_may_be_missing(tmp_path: Path) -> None:
    about = {"tag": "", "token": 3, "pid": 7, "node": "a"}
    found = told(
        tmp_path / "log",
        {"id": "7.1", "began": 1.0, "key": "kept:1", **about},
        {"id": "7.2", "began": 1.1, "key": "kept:2", **about},
        {"id": "7.1", "ended": 1.2},
    )
    assert [(r.id, r.began, r.ended) for r in found.runs] == [("7.1", 1.0, 1.2), ("7.2", 1.1, None)]


def test_a_run_log_tells_what_handlers_asked_and_what_came_of_it(tmp_path: Path) -> None:
    def asks(name: str) -> dict[str, Any]:
        about = {"by": "7.1", "key": "charge:1", "tag": name, "timeout_s": 8.0, "asked": 1.1}
        return {"id": name, **about}

    value = {"run": "8.1", "key": "charge:1", "tag": "7.1/1", "pid": 8, "at": 1.2}
    found = told(
        tmp_path / "log",
        *map(asks, ("7.1/1", "7.1/2", "7.1/3")),
        {"id": "7.1/1", "answered": 1.3, "value": value},
        {"id": "7.1/2", "answered": 1.4, "error": "NoLiveNode", "detail": "none"},
    )
    about = {"how": "nested", "key": "charge:1", "asked": 1.1, "timeout_s": 8.0, "by": "7.1"}
    assert found.asks == (
        Ask(tag="7.1/1", answered=1.3, value=Value("8.1", "charge:1", "7.1/1", 8, 1.2), **about),
        Ask(tag="7.1/2", answered=1.4, error="NoLiveNode", detail="none", **about),
        Ask(tag="7.1/3", **about),
    )
    assert figures(history(*found.asks)).outcomes == {
        "value": 1,
        "NoLiveNode": 1,
        "cut short with who asked": 1,
    }


def test_harmless_kinds_are_kinds() -> None:
    assert set(KINDS) > HARMLESS
