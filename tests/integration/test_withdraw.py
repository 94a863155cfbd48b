"""The script that takes calls back, on a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from rqproc import wire
from rqproc.cluster import Claim, Cluster, Finish, Job, Limits, Order, Tally
from rqproc.keys import Keys, job_key, results_key
from rqproc.link import Command, Dial, Link
from rqproc.scripts import NAMES, VIRTUAL_CLOCK, Scripts

KEYS = Keys("w")
CLUSTER = Cluster(KEYS, Scripts(KEYS, clock=VIRTUAL_CLOCK))
LEASE_MS = 1000


class Bench:
    """A server on which the test plays nodes and callers, one command at a time."""

    def __init__(self, link: Link, client: redis.Redis) -> None:
        self._link = link
        self.redis = client
        self._link.exchange(CLUSTER.load(*NAMES), timeout_s=5)
        self.at(1_000_000)

    def at(self, ms: int) -> None:
        self.now = ms
        self.redis.set(KEYS.state + "node:clock", ms)

    def later(self, ms: int) -> None:
        self.at(self.now + ms)

    def say(self, command: Command) -> Any:
        (reply,) = self._link.exchange((command,), timeout_s=5)
        return reply

    def join(self, name: str) -> str:
        joining = CLUSTER.join(
            name, lease_s=LEASE_MS / 1000, nonce=name, limits=Limits(9, 9, 9), pid=1, host="h",
            versions=("3", "3.11"),
        )  # fmt: skip
        return CLUSTER.read_join(name, self.say(joining)).incarnation

    def beat(self, inc: str) -> None:
        CLUSTER.read_beat(self.say(CLUSTER.beat(inc, lease_s=LEASE_MS / 1000, tally=Tally())))

    def take(self, inc: str) -> list[Claim]:
        taking = CLUSTER.take(inc, session=0, epoch=0, most=9, at=wire.utc())
        return list(CLUSTER.read_take(self.say(taking)).claims)

    def finish(self, inc: str, claim: Claim) -> None:
        note = wire.note(claim.id, "miss", token=claim.token)
        body = wire.return_value("1", "json")
        self.say(CLUSTER.finish(inc, [Finish(claim, "ok", body, note)]))

    def route(self, order: Order) -> None:
        self.say(CLUSTER.route(order))

    def withdraw(self, order: Order) -> int:
        taken_back: int = self.say(CLUSTER.withdraw(order, timeout_s=5.0))
        return taken_back

    def answers(self, order: Order) -> dict[str, Any]:
        """The reports of errors by job id, None for a value."""
        entries: Any = self.redis.xrange(results_key(order.reply))
        flats = ([part for pair in fields.items() for part in pair] for _, fields in entries)
        return {found.job_id: found.report for found in map(wire.answer, flats)}


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    with closing(Dial(url).connect()) as link, redis.Redis.from_url(url) as client:
        yield Bench(link, client)


def call(*slots: int, reply: str = "") -> Order:
    jobs = tuple(Job(f"j{slot}", f"{slot}|r:{slot}", b"[]") for slot in slots)
    return Order("call", jobs, 10.0, reply or jobs[0].id)


def test_what_waits_at_a_node_that_beats_is_not_lost_however_long(bench: Bench) -> None:
    inc = bench.join("a")
    order = call(1)
    bench.route(order)
    for _ in range(8):
        bench.later(LEASE_MS // 2)
        assert bench.withdraw(order) == 0
        bench.beat(inc)
    assert [claim.id for claim in bench.take(inc)] == ["j1"]


def test_what_a_node_that_beats_has_taken_is_not_lost(bench: Bench) -> None:
    inc = bench.join("a")
    order = call(1)
    bench.route(order)
    (claim,) = bench.take(inc)
    bench.later(LEASE_MS // 2)
    assert bench.withdraw(order) == 0
    bench.finish(inc, claim)
    assert bench.answers(order) == {"j1": None}


@pytest.mark.parametrize("taken", [False, True])
def test_what_a_silent_node_has_is_withdrawn_and_told_so(bench: Bench, taken: bool) -> None:
    inc = bench.join("a")
    order = call(1)
    bench.route(order)
    claims = bench.take(inc) if taken else []
    bench.later(LEASE_MS // 2 + 1)
    assert bench.withdraw(order) == 1
    report = {"type": "OwnerLost", "node": "a", "silent_ms": LEASE_MS // 2 + 1}
    assert bench.answers(order) == {"j1": report}
    assert 60_000 < bench.redis.pttl(results_key("j1")) <= 65_000
    bench.beat(inc)  # it goes on
    assert bench.take(inc) == []
    for claim in claims:
        bench.finish(inc, claim)
    assert bench.answers(order) == {"j1": report}, "a late answer is none"
    assert not bench.redis.exists(KEYS.state + "holders", f"{KEYS.state}taken:{inc}")


def test_what_was_withdrawn_is_not_queued_by_a_route_that_comes_late(bench: Bench) -> None:
    inc = bench.join("a")
    alone, shared = call(1), call(2, 3, reply="both")
    for order in (alone, shared):
        bench.route(order)
    bench.later(LEASE_MS // 2 + 1)
    assert [bench.withdraw(alone), bench.withdraw(shared)] == [1, 2]
    bench.beat(inc)
    for order in (alone, shared):
        bench.route(order)
        assert bench.withdraw(order) == 0, "it is answered"
    assert bench.take(inc) == []


def test_of_calls_in_one_stream_only_the_silent_nodes_are_withdrawn(bench: Bench) -> None:
    first, second = bench.join("a"), bench.join("b")
    order = call(2, 3, 4, 5, reply="all")
    bench.route(order)
    (_, answered) = bench.take(first)
    bench.finish(first, answered)
    bench.later(LEASE_MS // 2 + 1)
    bench.beat(second)
    assert bench.withdraw(order) == 1
    told = bench.answers(order)
    assert told["j4"] is None
    assert told["j2"]["node"] == "a"
    assert {claim.id for claim in bench.take(second)} == {"j3", "j5"}


def test_what_lies_in_a_silent_nodes_queue_is_lost_though_it_is_anothers_by_now(
    bench: Bench,
) -> None:
    bench.join("b")
    order = call(2)
    bench.route(order)
    bench.later(LEASE_MS // 2 + 1)
    bench.join("a")  # the owner of 2 by now; but only b can send it on
    assert bench.withdraw(order) == 1


def test_a_call_that_the_server_has_forgotten_is_lost(bench: Bench) -> None:
    bench.join("a")
    order = call(1)
    assert bench.withdraw(order) == 1
    assert bench.answers(order) == {"j1": {"type": "OwnerLost", "node": "", "silent_ms": 0}}


def test_what_is_answered_is_not_lost(bench: Bench) -> None:
    inc = bench.join("a")
    order = call(1, 2, reply="both")
    bench.route(order)
    for claim in bench.take(inc):
        bench.finish(inc, claim)
    bench.later(LEASE_MS // 2 + 1)
    assert bench.withdraw(order) == 0
    assert bench.answers(order) == {"j1": None, "j2": None}


def test_the_last_node_is_silent_while_it_has_its_grace(bench: Bench) -> None:
    bench.join("a")
    order = call(1)
    bench.route(order)
    bench.later(LEASE_MS + 1)
    assert bench.withdraw(order) == 1
    report = {"type": "OwnerLost", "node": "a", "silent_ms": LEASE_MS}
    assert bench.answers(order) == {"j1": report}


def test_where_no_member_lives_it_is_said_so(bench: Bench) -> None:
    inc = bench.join("a")
    order = call(1)
    bench.route(order)
    bench.say(CLUSTER.leave("a", inc))
    assert bench.withdraw(order) == 1
    assert bench.answers(order) == {"j1": {"type": "NoLiveNode"}}
    assert not bench.redis.exists(job_key("j1"))
    assert bench.take(bench.join("b")) == []


def test_what_the_last_node_runs_while_it_drains_is_not_lost(bench: Bench) -> None:
    inc = bench.join("a")
    running, waiting = call(1), call(2)
    bench.route(running)
    (claim,) = bench.take(inc)
    bench.route(waiting)
    bench.say(CLUSTER.drain("a"))
    assert [bench.withdraw(running), bench.withdraw(waiting)] == [0, 1]
    bench.finish(inc, claim)
    assert bench.answers(running) == {"j1": None}


def test_a_node_that_does_not_tell_its_lease_is_given_all_of_it(bench: Bench) -> None:
    """One that joined before nodes told it."""
    bench.join("a")
    bench.redis.hdel(KEYS.state + "node:a", "lease")
    order = call(1)
    bench.route(order)
    bench.later(LEASE_MS - 1)
    assert bench.withdraw(order) == 0
