"""What handlers of a torture write is what its judge reads; and what callers choose."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from rqproc.context import CURRENT, Current
from rqproc.errors import NoLiveNode
from rqproc.lab.torture.choices import COUNTING, LANE, NESTED, PROBED, SERIAL, SLOW_ID, Choices
from rqproc.lab.torture.ledger import Ledger
from rqproc.lab.torture.records import Value
from rqproc.lab.torture.run_log import LoggedRun, writing_into


def test_a_run_and_what_it_asks_are_read_as_they_were_written(tmp_path: Path) -> None:
    token = CURRENT.set(Current(1, "nested", "a", token=7, deadline=None))
    try:
        with writing_into(tmp_path / "run_log") as run_log:
            logged = LoggedRun("r1")
            names = [logged.name() for _ in range(3)]
            for name in names:
                logged.asks(name, "charge:2", tag=name, timeout_s=8.0)
            logged.hears(names[0], NoLiveNode("torture"))
            value = logged.end()
            logged.hears(names[1], value)
            (run,), asks = run_log.told()
    finally:
        CURRENT.reset(token)
    assert (run.key, run.tag, run.token, run.node, run.local) == ("nested:1", "r1", 7, "a", False)
    assert run.ended == value["at"]
    assert {ask.by for ask in asks} == {run.id}
    assert [ask.tag for ask in asks] == names
    assert [ask.error for ask in asks] == ["NoLiveNode", "", ""]
    assert [ask.value for ask in asks] == [None, Value(**value), None]
    assert asks[2].answered is None


def test_no_handler_is_told_to_ask_for_its_own_id() -> None:
    choices = Choices(Ledger(), "1", longest_s=2.0)
    for choice in (choices.nested() for _ in range(500)):
        way = [choice.key, *choice.args[2]]
        assert all(one != other for one, other in pairwise(way))
        assert all(key.partition(":")[0] in NESTED for key in way[:-1])


def test_all_kinds_of_runs_are_chosen_and_who_is_in_a_hurry_never_waits_for_a_slow_one() -> None:
    choices = Choices(Ledger(), "1", longest_s=2.0)
    found = [choices.call() for _ in range(2000)]
    assert {choice.resource for choice in found} == {*PROBED, LANE, *COUNTING}
    assert {choice.how("request") for choice in found} == {
        "request",
        "on_lost=local",
        "on_lost=error",
    }
    assert not [
        w for w in found if w.on_lost != "wait" and w.id == SLOW_ID and w.resource in SERIAL
    ]
