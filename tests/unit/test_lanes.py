"""Lanes: one at a time for each key, in order, and no more side by side than the limit."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rqproc.node.lanes import Lanes


def test_work_of_one_key_runs_in_order_and_one_at_a_time() -> None:
    lanes = Lanes[str](10)
    for item in ("first", "second", "third"):
        lanes.add("k", item)
    started = []
    while item := lanes.next():
        started.append(item)
        assert lanes.next() is None
        lanes.done("k")
    assert started == ["first", "second", "third"]


def test_lanes_run_side_by_side_up_to_the_limit() -> None:
    lanes = Lanes[str](2)
    for key in "abc":
        lanes.add(key, key)
    assert [lanes.next(), lanes.next(), lanes.next()] == ["a", "b", None]
    assert lanes.running == 2
    lanes.done("a")
    assert lanes.next() == "c"


def test_they_are_full_when_one_more_key_would_have_to_wait() -> None:
    lanes = Lanes[str](2)
    lanes.add("a", "a1")
    lanes.add("a", "a2")
    assert lanes.room
    lanes.add("b", "b1")
    assert not lanes.room, "both are ready"
    assert [lanes.next(), lanes.next()] == ["a1", "b1"]
    assert not lanes.room
    lanes.pause("b")
    assert lanes.room
    lanes.go_on("b")
    lanes.done("a")
    assert not lanes.room, "the next of the same key is ready"


def test_a_busy_key_does_not_keep_others_waiting() -> None:
    lanes = Lanes[str](10)
    lanes.add("a", "a1")
    lanes.add("a", "a2")
    lanes.add("b", "b1")
    assert [lanes.next(), lanes.next(), lanes.next()] == ["a1", "b1", None]


def test_keys_with_work_take_turns() -> None:
    lanes = Lanes[str](1)
    for item in ("a1", "a2", "b1"):
        lanes.add(item[0], item)
    order = []
    while item := lanes.next():
        order.append(item)
        lanes.done(item[0])
    assert order == ["a1", "b1", "a2"]


def test_what_runs_keeps_its_key_when_what_waits_is_forgotten() -> None:
    lanes = Lanes[str](10)
    lanes.add("a", "old")
    lanes.add("a", "forgotten")
    assert lanes.next() == "old"
    lanes.clear()
    lanes.add("a", "new")
    assert lanes.next() is None, "the old one still runs"
    lanes.done("a")
    assert lanes.next() == "new"


def test_nothing_is_kept_of_a_key_that_has_no_work() -> None:
    lanes = Lanes[int](10)
    for key in range(100):
        lanes.add(str(key), key)
        lanes.next()
        lanes.done(str(key))
    assert lanes.running == 0
    assert not lanes._waiting
    assert not lanes._ready


class LaneSchedule(RuleBasedStateMachine):
    """Held against the plainest model: a list for each key."""

    LIMIT = 3

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes[int](self.LIMIT)
        self.waiting: dict[str, list[int]] = defaultdict(list)
        self.running: list[str] = []
        self.last = 0

    @rule(key=st.sampled_from("abcde"))
    def add(self, key: str) -> None:
        self.last += 1
        self.waiting[key].append(self.last)
        self.lanes.add(key, self.last)

    @rule()
    def start(self) -> None:
        ready = [key for key, items in self.waiting.items() if items and key not in self.running]
        item = self.lanes.next()
        if len(self.running) == self.LIMIT or not ready:
            assert item is None
            return
        key = next(key for key in ready if self.waiting[key][0] == item)
        self.waiting[key].pop(0)
        self.running.append(key)

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 2))
    def finish(self, pick: int) -> None:
        self.lanes.done(self.running.pop(pick % len(self.running)))

    @rule()
    def forget(self) -> None:
        self.lanes.clear()
        self.waiting.clear()

    @invariant()
    def as_many_run_as_were_started(self) -> None:
        assert self.lanes.running == len(self.running)


TestLaneSchedule = LaneSchedule.TestCase
TestLaneSchedule.settings = settings(max_examples=40, stateful_step_count=30)


def test_what_shares_a_place_may_run_past_the_limit() -> None:
    lanes = Lanes[str](1)
    for key in ("a1", "b1", "a2", "a3"):
        lanes.add(key, key)
    assert lanes.next() == "a1"
    assert lanes.next_sharing(1, lambda item: item.startswith("a")) == ["a2"]
    assert lanes.next_sharing(9, lambda item: item.startswith("a")) == ["a3"]
    assert lanes.running == 3
    lanes.done("a1")
    assert lanes.next() == "b1", "the others take no place"
    lanes.share("a2", shares=False)
    lanes.done("b1")
    lanes.add("b2", "b2")
    assert lanes.next() is None, "now one of them does"
    lanes.pause("a2")
    assert lanes.next() == "b2"


def test_what_begins_to_share_leaves_its_place() -> None:
    lanes = Lanes[str](2)
    for key in "abc":
        lanes.add(key, key)
    assert [lanes.next(), lanes.next(), lanes.next()] == ["a", "b", None]
    lanes.share("b")
    assert lanes.next() == "c"
    lanes.pause("b")
    lanes.go_on("b")
    lanes.add("d", "d")
    assert lanes.next() is None
    lanes.done("b")
    assert lanes.next() is None, "it gives back nothing that it has not"
