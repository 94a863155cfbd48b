"""What a node tells of an id, from its entries, runs and memory of runs; without a claim."""

from __future__ import annotations

import json

from unit.dispatching import TTL_S, Bench

from rqproc.explained import AtNode
from rqproc.ids import address
from rqproc.node.past_runs import MOST_OF_AN_ID, MOST_RUNS
from rqproc.node.runs import Done, Failed
from rqproc.protocol import codec


def told(bench: Bench, id: int, resource: str = "price") -> AtNode:
    """Ask about an id: nothing of it is claimed."""
    name = bench.named(id, resource, function=codec.EXPLAIN)
    assert bench.pop(name) == []
    (end,) = bench.ends()
    assert (end.how, end.id) == ("hit", name.decode())
    return AtNode.of(end.value)


def test_what_nobody_has_asked_for_has_nothing_but_its_resource() -> None:
    found = told(Bench(), 1)
    assert (found.node, found.owns, found.is_known, found.ttl_s) == ("b", True, True, TTL_S)
    assert (found.kept, found.run, found.requests, found.behind, found.runs) == (
        None,
        None,
        0,
        0,
        (),
    )
    assert (found.lanes_busy, found.lanes) == (0, 10)
    assert not told(Bench(), 2).owns
    assert not told(Bench(), 1, "nowhere").is_known


def test_an_entry_is_told_with_age_time_left_size_and_token() -> None:
    bench = Bench()
    bench.compute(1, "abc")
    bench.now += 2.0
    kept = told(bench, 1).kept
    assert kept
    assert (kept.what, kept.age_s, kept.left_s, kept.bytes) == ("value", 2.0, TTL_S - 2.0, 5)
    assert kept.token > 0
    bench.now += TTL_S
    assert told(bench, 1).kept is None


def test_an_old_value_and_a_remembered_error_are_told_as_what_they_are() -> None:
    bench = Bench()
    bench.ask(1, "rated")
    bench.done(bench.run())
    bench.ends()
    bench.now += TTL_S + 1
    old = told(bench, 1, "rated").kept
    assert old
    assert (old.what, old.age_s) == ("stale", TTL_S + 1)


def test_a_run_under_way_is_told_with_who_waits_for_it() -> None:
    bench = Bench()
    bench.ask(1)
    bench.run()
    bench.ask(1)
    bench.now += 3.0
    found = told(bench, 1)
    assert found.run
    assert (found.run.for_s, found.run.waiting, found.run.is_stuck) == (3.0, 2, False)
    assert (found.requests, found.behind, found.lanes_busy) == (2, 0, 1)


def test_what_waits_behind_a_run_and_that_it_is_stuck_is_told() -> None:
    bench = Bench()
    bench.ask(1, "brisk", 1)
    bench.run()
    bench.ask(1, "brisk", 2)
    assert told(bench, 1, "brisk").behind == 1
    bench.now += 9.0
    bench.scheduler.mind_the_time()
    bench.ends()
    found = told(bench, 1, "brisk")
    assert found.run
    assert found.run.is_stuck


def test_the_last_runs_are_told_the_latest_first() -> None:
    bench = Bench()
    bench.ask(1, "charge", 1)
    bench.now += 0.5
    run = bench.run()
    bench.now += 2.0
    bench.scheduler.complete(run, Failed("ValueError", "no such id", "Traceback: ..."))
    bench.now += 1.0
    bench.ask(1, "charge", 2)
    bench.done(bench.run())
    bench.ends()
    bench.now += 4.0
    good, bad = told(bench, 1, "charge").runs
    assert (good.error, good.ago_s, good.queued_s, good.ran_s) == ("", 4.0, 0.0, 0.0)
    assert (bad.ago_s, bad.queued_s, bad.ran_s) == (5.0, 0.5, 2.0)
    assert (bad.error, bad.message, bad.traceback) == ("ValueError", "no such id", "Traceback: ...")
    assert told(bench, 3, "charge").runs == ()


def test_the_memory_of_runs_is_bounded() -> None:
    bench = Bench()
    for number in range(MOST_RUNS + 2):
        bench.ask(1 if number == 0 else 3, "charge", number)
        bench.scheduler.complete(bench.run(), Done("1"))
        bench.ends()
    assert told(bench, 1, "charge").runs == ()
    assert len(told(bench, 3, "charge").runs) == MOST_OF_AN_ID


def test_a_question_changes_no_count() -> None:
    bench = Bench()
    bench.compute(1)
    before = bench.dispatcher.figures.tally()
    told(bench, 1)
    assert bench.dispatcher.figures.tally() == before


def test_a_node_of_a_later_version_may_tell_more() -> None:
    text = json.loads(json.dumps({**json.loads(_plain()), "news": 1}))
    assert AtNode.of(text).node == "b"


def _plain() -> str:
    bench = Bench()
    key = address("price", 1).encode()
    return bench.intake._about.tell(key)
