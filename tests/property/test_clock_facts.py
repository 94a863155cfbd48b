"""Facts about a server whose clock is set forward or back while nodes live, die and serve."""

from __future__ import annotations

import json

import pytest
from callers import Callers
from ledger import LEASE_MS, LONG_MS
from serving import sent, started
from stage import HOST
from steps import called, ended, enqueued, lying, taken

from rqproc.protocol.keys import RQ_PREFIX, job_key
from rqproc.protocol.messages import Claimed, Settling

HOUR_MS = 3_600_000


def silent(stage: Callers, ms: int) -> None:
    """Nobody beats for so long, and then someone looks."""
    stage.world.advance(ms)
    stage.function(stage.commands.survey())


def own_clock(stage: Callers) -> int:
    """The server's, in ms."""
    return stage.now - stage.world.ahead


# --- set back ---


@pytest.mark.parametrize("replaced", [False, True])
def test_a_dead_nodes_lease_is_no_longer_for_a_clock_that_was_set_back(
    stage: Callers, replaced: bool
) -> None:
    """``replaced``: by another process of the server, which remembers nothing but its keys."""
    dead, other = started(stage, "a"), started(stage, "B")
    stage.world.advance(300)
    stage.beat(other)
    stage.set_clock(-HOUR_MS)
    if replaced:
        stage.be_another_process()
    for _ in range(2):
        stage.world.advance(350)
        stage.beat(other)
    assert stage.view.leases.keys() == {other.inc}
    assert not stage.live(dead)
    started(stage, "a")
    stage.check()


def test_the_last_node_that_dies_is_known_to_be_dead_though_the_clock_was_set_back(
    stage: Callers,
) -> None:
    started(stage)
    stage.set_clock(-HOUR_MS)
    silent(stage, LEASE_MS)
    silent(stage, LEASE_MS // 2)
    order = stage.new_order([0])
    stage.send(order)
    assert order.wanted[0].state == "refused"


def test_a_request_is_not_run_after_its_time_though_the_clock_was_set_back(stage: Callers) -> None:
    node = started(stage)
    called(stage, timeout_s=0.4)
    stage.set_clock(-HOUR_MS)
    stage.world.advance(400)
    assert taken(stage, node) == []


def test_requests_keep_their_order_through_a_clock_that_is_set_back(stage: Callers) -> None:
    node, other = started(stage, "a"), started(stage, "B")
    first = called(stage, 0)
    stage.set_clock(-HOUR_MS)
    second = called(stage, 0)
    dying, heir = (node, other) if lying(stage, "a") else (other, node)
    stage.nodes.remove(dying)
    stage.report_death(dying)
    assert lying(stage, heir.name) == [first.id, second.id]


def test_nodes_wait_no_longer_for_others_to_speak_after_a_clock_is_set_back(stage: Callers) -> None:
    """Another process of the server gives out nothing until all have said what they run."""
    node = started(stage, "B")
    started(stage, "a")
    stage.world.server = "another"
    stage.open_session(node)
    called(stage, 0)
    called(stage, 1)
    stage.set_clock(-HOUR_MS)
    stage.pop(node, 9)
    assert stage.claim(node, list(node.taken)) is Settling
    stage.world.advance(LEASE_MS)
    stage.beat(node)
    assert isinstance(stage.claim(node, list(node.taken)), Claimed)


def test_an_id_that_kills_nodes_is_refused_for_a_minute_though_the_clock_was_set_back(
    stage: Callers,
) -> None:
    enqueued(stage)
    for name in ("a", "B", "n9"):
        node = started(stage, name)
        taken(stage, node)
        stage.nodes.remove(node)
        stage.report_death(node)
    stage.set_clock(-HOUR_MS)
    stage.world.advance(60_000)
    node = started(stage)
    call = called(stage)
    assert call.id in {claim.id for claim in taken(stage, node)}


def test_tokens_rise_through_a_clock_that_is_set_back(stage: Callers) -> None:
    node = started(stage)
    called(stage)
    (first,) = taken(stage, node)
    stage.set_clock(-HOUR_MS)
    stage.be_another_process()
    late = started(stage, "B")
    for pick in range(4):
        called(stage, pick)
    (second, *_) = [*taken(stage, late), *taken(stage, node)]
    assert second.token > first.token


def test_what_rq_reads_is_by_the_servers_own_clock(stage: Callers) -> None:
    """Its registries are cleaned by others, who go by their own clocks."""
    stage.set_clock(-HOUR_MS)
    node = started(stage)
    job = enqueued(stage)
    ended(stage, node)
    registry = f"{RQ_PREFIX}:finished:{stage.world.keys.ingress}"
    score = stage.world.run(("ZSCORE", registry, job.id))
    assert int(score) == own_clock(stage) // 1000 + 500


def test_what_rq_has_scheduled_is_due_by_the_servers_own_clock(stage: Callers) -> None:
    started(stage)
    stage.set_clock(-HOUR_MS)
    scheduled = f"{RQ_PREFIX}:scheduled:{stage.world.keys.ingress}"
    stage.world.run(("HSET", job_key("job"), "status", "scheduled", "data", "[]"))
    stage.world.run(("ZADD", scheduled, str(own_clock(stage) // 1000 + 2), "job"))
    look = stage.commands.arrivals("carrier", most=9)
    assert stage.world.run(look) is None
    stage.world.advance(2000)
    found = stage.commands.read_arrivals(stage.world.run(look))
    assert [one.id for one in found] == [b"job"]


# --- set forward ---


@pytest.mark.parametrize("by_ms", [LEASE_MS * 6 // 10, LEASE_MS * 9 // 10, LEASE_MS, HOUR_MS])
def test_no_node_that_lives_is_dropped_for_a_clock_that_is_set_forward(
    stage: Callers, by_ms: int
) -> None:
    first, second = started(stage, "a"), started(stage, "B")
    stage.world.advance(300)
    stage.beat(first)
    stage.set_clock(by_ms)
    stage.beat(first)
    stage.world.advance(LEASE_MS // 2 - 1)
    stage.beat(second)
    assert stage.view.members == (second.inc, first.inc)
    stage.check()


def test_who_does_not_speak_after_a_clock_is_set_forward_is_dropped_in_half_a_lease(
    stage: Callers,
) -> None:
    dead, other = started(stage, "a"), started(stage, "B")
    stage.set_clock(HOUR_MS)
    stage.world.advance(LEASE_MS // 2 - 1)
    stage.beat(other)
    assert stage.view.leases[dead.inc] == stage.now + 1
    silent(stage, 1)
    assert stage.view.leases.keys() == {other.inc}


@pytest.mark.parametrize("group", [False, True])
def test_a_run_is_answered_though_its_hash_has_expired_while_it_ran(
    stage: Callers, group: bool
) -> None:
    """Keys expire by the server's clock: where that is set forward, all at once. Its caller would
    ask again, and it would be run again.
    """
    node = started(stage)
    order = stage.new_group([0]) if group else stage.new_order([0])
    stage.send(order)
    stage.pop(node, 9)
    if group:
        stage.read_group(node, order.group)
        stage.settle(node, order.group, 0)
    else:
        stage.claim(node, list(node.taken))
    (claim,) = node.known.values()
    stage.look(("DEL", job_key(claim.id)))
    stage.answer(node, [node.ending(claim)])
    assert order.wanted[0].heard == [node.word(claim)]
    kept = stage.world.run(("GET", stage.world.keys.answer(claim.id)))
    assert stage.world.answer(kept)[1] == node.word(claim)
    assert not stage.view.claims[node.inc]


# --- a long silence, which may be a clock that was set forward ---


@pytest.mark.parametrize("group", [False, True])
def test_callers_of_a_cluster_that_is_dead_for_long_are_told_so_after_half_a_lease(
    stage: Callers, group: bool
) -> None:
    started(stage)
    stage.world.advance(LEASE_MS + LONG_MS)
    order = stage.new_group([0, 1]) if group else stage.new_order([0, 1])
    stage.send(order)
    assert [wanted.state for wanted in order.wanted] == ["open"] * 2
    stage.world.advance(LEASE_MS // 2)
    stage.ask_again(order)
    assert [wanted.heard for wanted in order.wanted] == [["NoLiveNode"]] * 2
    assert not stage.view.waiting
    assert not stage.view.places()
    stage.check()


def test_jobs_of_a_cluster_that_is_dead_for_long_wait_for_a_node(stage: Callers) -> None:
    started(stage)
    stage.world.advance(LEASE_MS + LONG_MS)
    job = enqueued(stage)
    silent(stage, LEASE_MS // 2)
    assert stage.view.ingress == [job.id]
    node = started(stage)
    stage.carry()
    assert [claim.id for claim in taken(stage, node)] == [job.id]


def test_what_was_asked_before_a_long_silence_waits_for_a_node(stage: Callers) -> None:
    started(stage)
    call = called(stage, timeout_s=600.0)
    silent(stage, LEASE_MS + LONG_MS)
    silent(stage, LEASE_MS // 2)
    assert stage.view.waiting == [call.id]


def test_callers_after_a_long_silence_are_served_by_whoever_is_left(stage: Callers) -> None:
    """One of two speaks: what came to the other meanwhile is its, too."""
    alive, _ = started(stage, "a"), started(stage, "B")
    stage.world.advance(LEASE_MS + LONG_MS)
    calls = [called(stage, pick) for pick in range(4)]
    stage.beat(alive)
    silent(stage, LEASE_MS // 2)
    claims = {claim.id for claim in taken(stage, alive)}
    assert claims == {call.id for call in calls}


def test_after_a_silence_that_another_process_has_slept_through_nobody_is_waited_for(
    stage: Callers,
) -> None:
    """It is no clock that was set forward: the server's process is new."""
    started(stage)
    stage.world.advance(LEASE_MS + LONG_MS)
    stage.be_another_process()
    assert not stage.view.leases
    started(stage)


def test_whatever_anyone_has_written_at_a_group_on_trial_ends_no_function_half_way(
    stage: Callers,
) -> None:
    node = started(stage)
    stage.world.advance(LEASE_MS + LONG_MS)
    stage.function(stage.commands.survey())
    key = f"{stage.world.keys.state}open:{node.inc}"
    moment = str(stage.now * 1000 + 10**6)
    for number, junk in enumerate(("SET", "HSET")):
        name = f"rff-g{number}"
        text = ("text",) if junk == "SET" else (node.inc, "0 nonsense 1 1-r-1")
        stage.world.run((junk, job_key(name), *text))
        stage.world.run(("ZADD", key, moment, name))
    order = stage.new_order([0])
    stage.send(order)
    stage.world.advance(LEASE_MS // 2)
    stage.world.run(stage.commands.report_death("nobody", pid=1, host=HOST))
    told = stage.world.run(stage.commands.withdraw([sent(order.wanted[0])], timeout_s=1.0))
    assert b"NoLiveNode" in told[0]


# --- other protocols, which go by the server's own clock ---


def test_a_protocol_whose_lease_is_too_far_off_is_in_nobodys_way(stage: Callers) -> None:
    """It was given before the clock was set back; who lives says so again."""
    protocols = "rqproc:w:protocols"
    order = stage.new_order([0])
    for too_far, told in ((1, "NoLiveNode"), (0, "OtherProtocol")):
        expires = str(stage.now + HOUR_MS + too_far)
        stage.world.run(("ZADD", protocols, expires, "3"))
        stage.world.run(("ZADD", "rqproc:w:leases", expires, "a@1"))
        (report,) = stage.world.run(stage.commands.route([sent(order.wanted[0])], timeout_s=1.0))
        assert json.loads(report)["type"] == told


def test_how_long_a_protocol_is_spoken_is_said_by_the_servers_own_clock(stage: Callers) -> None:
    node = started(stage)
    for by_ms in (-HOUR_MS - LEASE_MS, HOUR_MS):
        stage.set_clock(by_ms)
        stage.beat(node)
        score = stage.world.run(("ZSCORE", "rqproc:w:protocols", "2"))
        assert int(score) == own_clock(stage) + LEASE_MS
