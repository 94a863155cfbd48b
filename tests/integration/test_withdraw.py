"""The function that takes calls back, on a clock that only the test moves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
import redis

from rqproc.protocol import answer_codec, codec
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys, job_key
from rqproc.protocol.library import build
from rqproc.protocol.messages import Claim, Limits, Sent, Tally
from rqproc.transport.connection import Command, Connection
from rqproc.transport.connector import Connector

KEYS = Keys("w")
VIRTUAL_TIME = """local function server_time()
  local ms = tonumber(call('GET', K.node .. 'clock') or 0)
  return ms, ms * 1000
end
"""
COMMANDS = Commands(KEYS, build(time=VIRTUAL_TIME))
LEASE_MS = 1000


class Bench:
    """A server on which the test plays nodes and callers, one command at a time."""

    def __init__(self, connection: Connection, client: redis.Redis) -> None:
        self._connection = connection
        self.redis = client
        self.say(COMMANDS.load)
        self.at(1_000_000)

    def at(self, ms: int) -> None:
        self.now = ms
        self.redis.set(KEYS.state + "node:clock", ms)

    def later(self, ms: int) -> None:
        self.at(self.now + ms)

    def say(self, command: Command) -> Any:
        (reply,) = self._connection.exchange((command,), timeout_s=5)
        return reply

    def join(self, name: str) -> str:
        joining = COMMANDS.join(
            name, lease_s=LEASE_MS / 1000, nonce=name, limits=Limits(9, 9, 9), pid=1, host="h",
            versions=("3", "3.11"),
        )  # fmt: skip
        return COMMANDS.read_join(name, self.say(joining)).incarnation

    def beat(self, inc: str) -> None:
        beat = COMMANDS.beat(inc, lease_s=LEASE_MS / 1000, tally=Tally())
        COMMANDS.read_beat(self.say(beat))

    def take(self, inc: str) -> list[Claim]:
        """What a node has in its queue, and may run."""
        queue = KEYS.queue(inc.partition("#")[0])
        ids = self.redis.lpop(queue, 9) or []
        claiming = COMMANDS.claim(inc, ids, session=0, epoch=0, at=codec.utc())
        claims = COMMANDS.read_claim(self.say(claiming)).claims
        return [claim for claim in claims if claim.what == "call"]

    def finish(self, inc: str, claim: Claim) -> None:
        payload = answer_codec.encode_answer(claim.id, "miss", "1", node="a", token=claim.token)
        ending = COMMANDS.call("", claim.id, claim.address, payload, 60.0)
        self.say(COMMANDS.answer(inc, [ending]))

    def route(self, calls: Sequence[Sent], *, again: bool = False) -> Any:
        return self.say(COMMANDS.route(calls, timeout_s=10.0, again=again))

    def withdraw(self, calls: Sequence[Sent]) -> list[Any]:
        """For each call the report of why it was withdrawn, "answered", or None where it was
        not.
        """
        told = self.say(COMMANDS.withdraw(calls, timeout_s=5.0))
        return [_told(payload) for payload in told]

    def open(self, inc: str) -> int:
        return int(self.redis.zcard(f"{KEYS.state}open:{inc}"))


def _told(payload: bytes) -> Any:
    if not payload:
        return None
    _, source, *_, body = payload.split(b" ", 6)
    return json.loads(body) if source == b"error" else "answered"


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    with closing(Connector(url).connect()) as connection, redis.Redis.from_url(url) as client:
        yield Bench(connection, client)


def call(*slots: int) -> list[Sent]:
    return [Sent(f"r0-c{slot}-{slot}-r-{slot}", f"{slot}-r-{slot}", b"[]") for slot in slots]


def lost(silent_ms: int, node: str = "a") -> dict[str, Any]:
    return {"type": "OwnerLost", "node": node, "silent_ms": silent_ms}


def test_what_waits_at_a_node_that_beats_is_not_lost_however_long(bench: Bench) -> None:
    inc = bench.join("a")
    bench.route(call(1))
    for _ in range(8):
        bench.later(LEASE_MS // 2)
        assert bench.withdraw(call(1)) == [None]
        bench.beat(inc)
    assert [claim.id for claim in bench.take(inc)] == [call(1)[0].id]


def test_what_a_node_that_beats_has_taken_is_not_lost(bench: Bench) -> None:
    inc = bench.join("a")
    bench.route(call(1))
    (claim,) = bench.take(inc)
    bench.later(LEASE_MS // 2)
    assert bench.withdraw(call(1)) == [None]
    bench.finish(inc, claim)
    assert bench.withdraw(call(1)) == ["answered"]


@pytest.mark.parametrize("taken", [False, True])
def test_what_a_silent_node_has_is_withdrawn_and_told_so(bench: Bench, taken: bool) -> None:
    inc = bench.join("a")
    bench.route(call(1))
    claims = bench.take(inc) if taken else []
    bench.later(LEASE_MS // 2 + 1)
    report = lost(LEASE_MS // 2 + 1)
    assert bench.withdraw(call(1)) == [report]
    kept_ms = bench.redis.pttl(f"{KEYS.state}withdrawn:{call(1)[0].id}")
    assert 60_000 < kept_ms <= 65_000
    bench.beat(inc)  # it goes on
    assert bench.take(inc) == []
    for claim in claims:
        bench.finish(inc, claim)
    assert bench.withdraw(call(1)) == [report], "a late answer is none"
    assert not bench.redis.exists(KEYS.state + "holders", f"{KEYS.state}claims:{inc}")
    assert bench.open(inc) == 0


def test_what_was_withdrawn_is_not_queued_by_one_who_asks_again_late(bench: Bench) -> None:
    inc = bench.join("a")
    bench.route(call(1, 2, 3))
    bench.later(LEASE_MS // 2 + 1)
    reports = bench.withdraw(call(1, 2, 3))
    assert reports == [lost(LEASE_MS // 2 + 1)] * 3
    bench.beat(inc)
    assert [_told(payload) for payload in bench.route(call(1, 2, 3), again=True)] == reports
    assert bench.withdraw(call(1, 2, 3)) == reports, "it is told the same again"
    assert bench.take(inc) == []


def test_only_the_silent_nodes_calls_are_withdrawn(bench: Bench) -> None:
    first, second = bench.join("a"), bench.join("b")
    bench.route(call(2, 3, 4, 5))
    (_, answered) = bench.take(first)
    bench.finish(first, answered)
    bench.later(LEASE_MS // 2 + 1)
    bench.beat(second)
    assert bench.withdraw(call(2, 3, 4, 5)) == [lost(LEASE_MS // 2 + 1), None, "answered", None]
    assert {claim.address for claim in bench.take(second)} == {"3-r-3", "5-r-5"}


def test_calls_of_a_group_are_withdrawn_from_its_silent_nodes_alone(bench: Bench) -> None:
    first, second = bench.join("a"), bench.join("b")
    group, addresses = "r0-g7", ["2-r-2", "3-r-3"]
    bench.say(COMMANDS.scatter(group, b"[]", addresses, timeout_s=10.0))
    parts = [
        Sent(f"r0-c7_{place}-{address}", address, b"[]", group)
        for place, address in enumerate(addresses)
    ]
    bench.later(LEASE_MS // 2 + 1)
    bench.beat(second)
    assert bench.withdraw(parts) == [lost(LEASE_MS // 2 + 1), None]
    bench.beat(first)
    text = bench.say(COMMANDS.group(group, first))
    settling = COMMANDS.settle(
        first, group, len(text), "", [(parts[0].id, b"[]")], session=0, epoch=0, at=codec.utc()
    )
    assert COMMANDS.read_claim(bench.say(settling)).claims == (), "it is not run any more"


def test_what_lies_in_a_silent_nodes_queue_is_lost_though_it_is_anothers_by_now(
    bench: Bench,
) -> None:
    bench.join("b")
    bench.route(call(2))
    bench.later(LEASE_MS // 2 + 1)
    bench.join("a")  # the owner of 2 by now; but only b can send it on
    assert bench.withdraw(call(2)) == [lost(LEASE_MS // 2 + 1, "b")]


def test_a_call_that_the_server_has_forgotten_is_lost(bench: Bench) -> None:
    bench.join("a")
    assert bench.withdraw(call(1)) == [lost(0, "")]


def test_what_is_answered_is_not_lost(bench: Bench) -> None:
    inc = bench.join("a")
    bench.route(call(1, 2))
    for claim in bench.take(inc):
        bench.finish(inc, claim)
    bench.later(LEASE_MS // 2 + 1)
    assert bench.withdraw(call(1, 2)) == ["answered", "answered"]


def test_the_last_node_is_silent_while_it_has_its_grace(bench: Bench) -> None:
    bench.join("a")
    bench.route(call(1))
    bench.later(LEASE_MS + 1)
    assert bench.withdraw(call(1)) == [lost(LEASE_MS + 1)]


def test_where_no_member_lives_it_is_said_so(bench: Bench) -> None:
    inc = bench.join("a")
    bench.route(call(1))
    bench.say(COMMANDS.leave("a", inc))
    assert bench.withdraw(call(1)) == [{"type": "NoLiveNode"}]
    assert not bench.redis.exists(job_key(call(1)[0].id))
    assert bench.take(bench.join("b")) == []


def test_what_the_last_node_runs_while_it_drains_is_not_lost(bench: Bench) -> None:
    inc = bench.join("a")
    bench.route(call(1))
    (claim,) = bench.take(inc)
    bench.route(call(2))
    bench.say(COMMANDS.drain("a"))
    assert bench.withdraw(call(1, 2)) == [None, {"type": "NoLiveNode"}]
    bench.finish(inc, claim)
    assert bench.withdraw(call(1)) == ["answered"]


def test_a_node_that_does_not_tell_its_lease_is_given_all_of_it(bench: Bench) -> None:
    """One whose hash somebody has cut short."""
    bench.join("a")
    bench.redis.hdel(KEYS.state + "node:a", "lease")
    bench.route(call(1))
    bench.later(LEASE_MS - 1)
    assert bench.withdraw(call(1)) == [None]
