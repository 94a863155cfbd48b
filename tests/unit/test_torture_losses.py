"""The judge of a torture on callers that do not want to wait where no node can answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.torture_records import LEASE_S, TTL_S, ask, broken, fault, history, local, run

from rqproc.lab.torture.figures import Times, figures
from rqproc.lab.torture.records import Ask, Stop

KILL = fault("kill", 0.5, 0.6, 2.5)
MINE = local(1.7, 1.8, tag="r1")
"""A run in a caller's own process."""


def wants(how: str, asked: float, answered: float, **said: object) -> Ask:
    return ask(asked, answered, **{"how": f"on_lost={how}", "tag": "r1", "timeout_s": 2.0, **said})


# --- local ---


def test_a_caller_that_runs_the_handler_itself_is_lawful() -> None:
    assert broken(KILL, MINE, wants("local", 0.7, 1.9, made=MINE)) == []


@pytest.mark.parametrize("error", ["NoLiveNode", "RedisUnavailable", "Overloaded"])
def test_whoever_could_have_run_it_itself_must_not_be_refused(error: str) -> None:
    outage = fault("stall", 0.5, 1.0)
    assert broken(outage, wants("local", 0.7, 1.9, error=error)) == ["local answers"]
    assert broken(outage, wants("error", 0.7, 1.9, error=error)) == []


def test_it_may_run_out_of_time_but_no_sooner() -> None:
    assert broken(KILL, wants("local", 0.7, 2.7, error="RequestTimeout")) == []
    assert broken(KILL, wants("local", 0.7, 2.5, error="RequestTimeout")) == ["local answers"]


def test_running_out_of_time_needs_a_reason() -> None:
    found = broken(wants("local", 0.7, 2.7, error="RequestTimeout"))
    assert found == ["no needless errors"]


def test_a_local_run_needs_a_fault() -> None:
    mine = wants("local", 1.5, 1.9, made=MINE)
    assert broken(KILL, MINE, mine) == []
    assert broken(MINE, mine) == ["local for a reason"]
    assert broken(replace(KILL, kind="join"), MINE, mine) == ["local for a reason"]


def test_a_server_may_seem_away_to_who_has_little_time() -> None:
    """A busy machine is late: so it is, too, with an error."""
    asks = [wants("local", 1.7 - early, 1.9, made=MINE) for early in (0.49, 0.51)]
    assert [broken(MINE, one) for one in asks] == [["local for a reason"], []]
    assert broken(MINE, replace(asks[1], timeout_s=8.0)) == ["local for a reason"]
    away = [wants("error", 1.0, 1.0 + late, error="RedisUnavailable") for late in (0.49, 0.51)]
    assert [broken(one) for one in away] == [["no needless errors"], []]
    assert broken(replace(away[1], timeout_s=8.0)) == ["no needless errors"]


def test_a_local_run_needs_a_caller_that_wants_it() -> None:
    assert broken(KILL, MINE) == ["local for a reason"]
    assert broken(KILL, MINE, ask(0.7, 1.9, MINE)) == ["local for a reason"]


def test_a_local_run_may_be_shared() -> None:
    kept = local(1.7, 1.8, key="kept:1")
    both = [wants("local", 0.7, 1.9, made=kept, tag="") for _ in range(2)]
    assert broken(KILL, kept, *both) == []


def test_a_local_run_may_overlap_one_of_a_node_and_has_no_token_to_rise() -> None:
    theirs = run(1.0, 2.0, tag="r1")
    later = run(2.1, 2.2, pid=2)
    assert broken(KILL, theirs, MINE, later, wants("local", 0.7, 1.9, made=MINE)) == []


def test_local_runs_of_an_id_must_not_overlap_in_one_process() -> None:
    other = local(1.75, 1.85, tag="r2")
    asks = (wants("local", 0.7, 1.9, made=MINE), wants("local", 0.7, 1.9, made=other, tag="r2"))
    assert broken(KILL, MINE, other, *asks) == ["serial"]
    elsewhere = replace(other, pid=98)
    asks = (asks[0], wants("local", 0.7, 1.9, made=elsewhere, tag="r2"))
    assert broken(KILL, MINE, elsewhere, *asks) == []


def test_nodes_are_still_bound_while_callers_run_handlers_themselves() -> None:
    nodes = (run(1.6, 1.9, pid=1), run(1.8, 2.0, pid=2))
    assert broken(KILL, MINE, *nodes, wants("local", 0.7, 1.9, made=MINE)) == ["serial"]


def test_a_value_that_a_caller_made_itself_binds_nobody_else() -> None:
    older = run(1.0, 1.9 - TTL_S / 2, key="kept:1")
    mine = local(1.7, 1.8, key="kept:1")
    asks = (wants("local", 0.7, 1.9, made=mine, tag=""), ask(2.0, 2.1, older))
    assert broken(KILL, older, mine, *asks) == []


# --- error ---


def test_a_silent_owner_is_lawful_where_a_fault_silenced_it() -> None:
    assert broken(KILL, wants("error", 0.7, 1.8, error="OwnerLost")) == []
    assert broken(wants("error", 0.7, 1.8, error="OwnerLost")) == ["no needless errors"]


@pytest.mark.parametrize("how", ["request", "many", "nested", "on_lost=local"])
def test_only_who_asks_for_it_is_told_of_a_silent_owner(how: str) -> None:
    found = broken(KILL, replace(wants("error", 0.7, 1.8, error="OwnerLost"), how=how))
    assert "named errors" in found


def test_an_owner_is_granted_half_of_the_time() -> None:
    assert broken(KILL, wants("error", 0.7, 1.5, error="OwnerLost")) == ["owner granted time"]


def test_what_was_withdrawn_must_not_be_begun_by_another_node() -> None:
    lost = wants("error", 0.7, 1.8, error="OwnerLost", detail="since node n1 has it and is silent")
    theirs, others = run(1.9, 2.0, tag="r1"), run(1.9, 2.0, tag="r1", pid=2)
    assert broken(KILL, lost, theirs) == []
    assert broken(KILL, lost, others) == ["withdrawn not begun"]
    assert broken(KILL, lost, run(1.7, 1.9, tag="r1", pid=2)) == []
    assert broken(KILL, replace(lost, detail="since the server has lost it"), others) == []


def test_what_was_withdrawn_must_not_be_begun_much_later() -> None:
    lost = wants("error", 0.7, 1.8, error="OwnerLost", detail="since node n1 has it and is silent")
    later = run(1.9 + LEASE_S, 2.0 + LEASE_S, tag="r1")
    assert broken(KILL, lost, later) == ["withdrawn not begun"]
    assert broken(KILL, lost, later, Stop(1, 1.0, 1.2)) == []
    assert broken(KILL, lost, replace(later, tag="r2")) == []


# --- figures ---


def test_local_runs_are_counted_and_are_no_failover() -> None:
    kill = replace(KILL, pids=(1,), owned=("charge:1",))
    after = run(2.0, 2.1, pid=2)
    answers = (wants("local", 0.7, 1.9, made=MINE), ask(0.7, 2.5, after))
    found = figures(history(kill, MINE, after, *answers))
    assert found.local == 1
    assert found.failover == Times(1, 2.0, 2.0)
    assert found.ways == {"on_lost=local": 1, "request": 1}
