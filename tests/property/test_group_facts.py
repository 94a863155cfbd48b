"""Facts about jobs that carry many calls, on a real server: limits, and what anyone may write."""

from __future__ import annotations

from typing import Any

import pytest
from simnode import SimNode
from stage import LEASE_MS, Stage, claimed, started

from rqproc import wire
from rqproc.cluster import Claim, Finish, FinishMany, Job, Order, Taken
from rqproc.keys import job_key, results_key
from rqproc.placement import address

REPLY = "box"


def scattered(
    stage: Stage, job: str, ids: range, *, timeout_s: float = 5.0, fence: str = REPLY
) -> list[bytes]:
    """Send ids together; return for each why it is not queued."""
    jobs = [Job(f"{job}:{place}", address("r", id), b"") for place, id in enumerate(ids)]
    command = stage.cluster.scatter(
        jobs, data=wire.encode_many("r"), timeout_s=timeout_s, reply=REPLY, fence=fence, quiet=False
    )
    refused: list[bytes] = stage.world.run(command)
    return refused


def taken(stage: Stage, node: SimNode, most: int = 1000) -> Taken:
    found = stage.ask_to_take(node, most, session=node.session)
    assert isinstance(found, Taken)
    return found


def ids(found: Taken) -> list[str]:
    return [claim.id for claim in claimed(found)]


def finish(stage: Stage, node: SimNode, found: Taken) -> None:
    stage.world.run(stage.cluster.finish(node.inc, node.outcomes(claimed(found), 0, together=True)))


def answers(stage: Stage) -> list[wire.Answer]:
    entries = stage.world.run(("XRANGE", results_key(REPLY), "-", "+"))
    return [answer for _, flat in entries for answer in wire.answers(flat)]


def lying(stage: Stage, name: str) -> list[bytes]:
    found: list[bytes] = stage.world.run(("LRANGE", stage.world.keys.queue(name), 0, -1))
    return found


def state(stage: Stage, name: str) -> dict[bytes, bytes]:
    flat = stage.world.run(("HGETALL", f"{stage.world.keys.state}{name}"))
    return dict(zip(flat[::2], flat[1::2], strict=True))


def sheet(stage: Stage, job: str) -> dict[bytes, bytes]:
    """A job's hash."""
    flat = stage.world.run(("HGETALL", job_key(job)))
    return dict(zip(flat[::2], flat[1::2], strict=True))


# --- what goes in together ---


def test_256_calls_are_one_job_one_take_and_one_answer(stage: Stage) -> None:
    node = started(stage)
    assert scattered(stage, "j", range(256)) == [b""] * 256
    assert lying(stage, "a") == [b"j"]
    found = taken(stage, node)
    assert len(found.together) == 1
    assert len(state(stage, f"taken:{node.inc}")) == len(state(stage, "holders")) == 256
    finish(stage, node, found)
    assert stage.world.run(("XLEN", results_key(REPLY))) == 1
    assert {answer.job_id for answer in answers(stage)} == {f"j:{n}" for n in range(256)}
    assert not sheet(stage, "j")
    assert not state(stage, "holders")


def test_a_job_and_its_answers_are_kept_a_minute_past_the_deadline(stage: Stage) -> None:
    node = started(stage)
    scattered(stage, "j", range(2), timeout_s=600.0)
    assert 600_000 < stage.world.run(("PTTL", job_key("j"))) <= 660_000
    finish(stage, node, taken(stage, node))
    assert 0 < stage.world.run(("PTTL", results_key(REPLY))) <= 60_000


def test_a_job_lies_once_in_the_queue_of_each_of_its_owners(stage: Stage) -> None:
    nodes = [started(stage, name) for name in ("B", "a", "n9")]
    scattered(stage, "j", range(9))
    for node, name in zip(nodes, ("B", "a", "n9"), strict=True):
        assert lying(stage, name) == [b"j"]
        assert len(ids(taken(stage, node))) == 3


def test_what_there_is_no_room_for_keeps_its_place(stage: Stage) -> None:
    node = started(stage)
    scattered(stage, "j", range(5))
    scattered(stage, "k", range(5, 7))
    last = stage.new_job(0)._replace(address=address("r", 99))
    stage.send(Order("call", (last,), 5.0, last.id))
    first = taken(stage, node, most=3)
    assert len(ids(first)) == 3
    assert lying(stage, "a") == [b"j", b"k", last.id.encode()]
    second = taken(stage, node, most=3)
    assert sorted(ids(first) + ids(second)[:2]) == [f"j:{n}" for n in range(5)]
    assert ids(second)[2].startswith("k:")
    assert ids(taken(stage, node, most=9))[-1] == last.id


def test_tokens_of_many_rise_with_those_of_their_neighbours(stage: Stage) -> None:
    node = started(stage)
    scattered(stage, "j", range(3))
    plain = stage.new_job(0)
    stage.send(Order("call", (plain,), 5.0, plain.id))
    scattered(stage, "k", range(5, 8))
    found = taken(stage, node)
    assert [one.id for one in found.in_turn()] == ["j", plain.id, "k"]
    tokens = [claim.token for claim in claimed(found)]
    assert tokens == sorted(set(tokens))
    scattered(stage, "l", range(1))
    assert claimed(taken(stage, node))[0].token > tokens[-1]


def test_a_job_that_lies_twice_in_a_queue_is_taken_once(stage: Stage) -> None:
    node = started(stage)
    scattered(stage, "j", range(3))
    stage.world.run(("RPUSH", stage.world.keys.queue("a"), "j"))
    assert len(ids(taken(stage, node))) == 3
    assert not lying(stage, "a")


def test_of_a_job_spread_over_three_nodes_one_of_which_dies_nothing_is_lost(stage: Stage) -> None:
    nodes = {name: started(stage, name) for name in ("B", "a", "n9")}
    scattered(stage, "j", range(9))
    scattered(stage, "k", range(9, 18))
    dead = nodes.pop("a")
    assert len(ids(taken(stage, dead, most=3))) == 3
    stage.report_death(dead)
    looks = [*nodes.values()] * 2  # what is another's by now is sent on by the first look
    found = [call for node in looks for call in ids(taken(stage, node))]
    assert sorted(found) == sorted(f"{job}:{n}" for job in "jk" for n in range(9))
    assert not lying(stage, "a")


def test_a_full_queue_refuses_all_calls_of_one_owner_alone(stage: Stage) -> None:
    started(stage, "B", limit=1)
    started(stage, "a", limit=1)
    scattered(stage, "j", range(0, 6, 2))
    assert scattered(stage, "k", range(1, 7, 2)) == [b""] * 3
    refused = scattered(stage, "l", range(1, 7, 2))
    assert all(b'"Overloaded"' in report for report in refused)
    assert lying(stage, "a") == [b"k"]
    assert not sheet(stage, "l")


def test_an_id_with_too_many_waiters_is_refused_alone(stage: Stage) -> None:
    node = started(stage)
    stage.world.run(("HSET", f"{stage.world.keys.state}node:a", "max_waiters", 1))
    scattered(stage, "j", range(1))
    taken(stage, node)
    crowded, free = scattered(stage, "k", range(2))
    assert b'"Crowded"' in crowded
    assert free == b""
    assert ids(taken(stage, node)) == ["k:1"]


def test_a_job_past_its_deadline_is_gone(stage: Stage) -> None:
    node = started(stage)
    scattered(stage, "j", range(3), timeout_s=0.3)
    stage.world.advance(300)
    assert not ids(taken(stage, node))
    assert not sheet(stage, "j")


def test_what_is_taken_past_its_deadline_releases_its_holds(stage: Stage) -> None:
    node = started(stage)
    scattered(stage, "j", range(3), timeout_s=0.3)
    found = taken(stage, node)
    stage.world.advance(300)
    expired = [Finish(claim, "expired") for claim in claimed(found)]
    stage.world.run(stage.cluster.finish(node.inc, expired))
    assert not state(stage, "holders")
    assert not sheet(stage, "j")


def test_many_that_are_answered_together_are_suspected_no_more(stage: Stage) -> None:
    dying, other = started(stage, "a"), started(stage, "B")
    scattered(stage, "j", range(4))
    found = claimed(taken(stage, dying))
    stage.report_death(dying)
    ran = {claim.address.encode() for claim in found} & state(stage, "suspects").keys()
    assert ran, "of what ran where a node died"
    finish(stage, other, taken(stage, other))
    assert len(answers(stage)) == 4
    assert not ran & state(stage, "suspects").keys()


def test_what_is_stuck_of_many_is_held_though_it_is_answered(stage: Stage) -> None:
    node = started(stage)
    scattered(stage, "j", range(2))
    stuck, _ = claimed(taken(stage, node))
    report = wire.overdue_report(1.0, stuck=True)
    note = wire.note(stuck.id, "error", token=stuck.token)
    for _ in range(2):
        late = Finish(stuck, "stuck", wire.exc_string("late"), note, report)
        stage.world.run(stage.cluster.finish(node.inc, [late]))
    assert [answer.job_id for answer in answers(stage)] == ["j:0"]
    assert state(stage, "holders")[stuck.address.encode()] == f"{node.inc} 1".encode()
    released = Finish(stuck, "released", wire.exc_string("late"), note, report)
    stage.world.run(stage.cluster.finish(node.inc, [released]))
    assert [answer.job_id for answer in answers(stage)] == ["j:0"]
    assert stuck.address.encode() not in state(stage, "holders")


def test_a_session_tells_of_many_what_the_lost_take_would_have(stage: Stage) -> None:
    node = started(stage)
    scattered(stage, "j", range(3))
    lost = claimed(taken(stage, node))
    node.session += 1
    command = stage.cluster.reconcile(node.inc, session=node.session)
    told = stage.cluster.read_take(stage.world.run(command))
    assert list(told.claims) == lost


def test_an_order_that_a_new_server_has_forgotten_is_run_once_by_who_runs_it(stage: Stage) -> None:
    """
    1. a runs j:0   2. the server dies, its successor knows nothing of j   3. a says that it runs it
    4. the caller sends it again: it is queued at a, which has it already and must not take it twice
    """
    node = started(stage)
    scattered(stage, "j", range(1))
    (claim,) = claimed(taken(stage, node))
    stage.world.run(("DEL", job_key("j"), f"{stage.world.keys.state}taken:{node.inc}"))
    stage.world.run(("DEL", f"{stage.world.keys.state}holders"))
    node.session += 1
    stage.world.run(
        stage.cluster.reconcile(
            node.inc, session=node.session, server="another", rejoined=True, held=[claim]
        )
    )
    assert scattered(stage, "j", range(1), fence="") == [b""]
    stage.world.advance(LEASE_MS // 2)
    assert not ids(taken(stage, node))
    assert sheet(stage, "j")[b"0"] == f"* {claim.address}".encode()
    stage.world.run(stage.cluster.finish(node.inc, node.outcomes([claim], 0, together=True)))
    assert [answer.job_id for answer in answers(stage)] == ["j:0"]
    assert not state(stage, "holders")


def test_the_answer_to_many_stands_where_the_caller_counts_its_bytes(stage: Stage) -> None:
    """Else what was read would not be removed until there are many of them."""
    node = started(stage)
    scattered(stage, "j", range(2))
    finish(stage, node, taken(stage, node))
    ((_, flat),) = stage.world.run(("XRANGE", results_key(REPLY), "-", "+"))
    assert flat[4] == b"rqproc_many"


# --- what anyone may write ---

LATE = {"status": "queued", "rqproc_kind": "many", "rqproc_deadline": "9000000000000000"}
OURS = {**LATE, "rqproc_reply": REPLY, "rqproc_left": "2", "data": "[]"}
HOSTILE: dict[str, dict[str, Any]] = {
    "nothing else": {"rqproc_kind": "many"},
    "no numbers": OURS,
    "no deadline": {**OURS, "rqproc_deadline": "", "0": "a 1|r:1"},
    "a deadline that is no number": {**OURS, "rqproc_deadline": "soon", "0": "a 1|r:1"},
    "an endless deadline": {**OURS, "rqproc_deadline": "inf", "0": "a 1|r:1"},
    "no reply": {**LATE, "0": "a 1|r:1", "1": "a 2|r:2"},
    "a count that is no number": {**OURS, "rqproc_left": "x", "0": "a 1|r:1"},
    "no count": {**LATE, "rqproc_reply": REPLY, "0": "a 1|r:1"},
    "losses that are no number": {**OURS, "lost:0": "x", "0": "a 1|r:1"},
    "numbers with nothing": {**OURS, "0": "", "1": " ", "2": "a", "3": "a "},
    "addresses that are none": {**OURS, "0": "a x", "1": "a -1|r:1", "2": "a |", "3": "a 1|r"},
    "a slot without end": {**OURS, "0": f"a {'9' * 400}|r:1"},
    "an address without end": {**OURS, "0": f"a 1|r:{'x' * 5000}"},
    "one address twice": {**OURS, "0": "a 1|r:1", "1": "a 1|r:1"},
    "what seems taken": {**OURS, "0": "* 1|r:1"},
    "another node's": {**OURS, "0": "nobody 1|r:1", "1": " 2|r:2"},
    "a huge number": {**OURS, "9" * 300: "a 1|r:1"},
    "too many": {**OURS, **{str(n): f"a {n}|r:{n}" for n in range(2000)}},
    "no text": {**OURS, "0": b"a 1|r:\xff\xfe", b"\xff": "a 1|r:1"},
}


@pytest.mark.parametrize("how", HOSTILE)
@pytest.mark.parametrize("end", ["finish", "die", "drain"])
def test_a_job_that_anyone_wrote_ends_no_script_half_way(stage: Stage, how: str, end: str) -> None:
    """It is not rolled back: what it has popped would be lost, with what others wait for."""
    node = started(stage)
    for number in range(1, 4):
        lies_in_a_queue(stage, f"odd{number}", HOSTILE[how])
    scattered(stage, "good", range(7, 9))
    found = taken(stage, node)
    assert {"good:0", "good:1"} <= set(ids(found))
    node.session += 1
    told = stage.cluster.read_take(
        stage.world.run(stage.cluster.reconcile(node.inc, session=node.session))
    )
    assert {claim.id for claim in told.claims} == set(ids(found))
    lies_in_a_queue(stage, "odd4", HOSTILE[how])
    END[end](stage, node, found)
    stage.world.advance(LEASE_MS)
    other = started(stage, "z")
    again = ids(taken(stage, other))
    good = {"good:0", "good:1"}
    assert good.isdisjoint(again) if end == "finish" else good <= set(again)


def lies_in_a_queue(stage: Stage, id: str, fields: dict[str, Any]) -> None:
    stage.world.run(("HSET", job_key(id), *(item for pair in fields.items() for item in pair)))
    stage.world.run(("RPUSH", stage.world.keys.queue("a"), id))


def _finished(stage: Stage, node: SimNode, found: Taken) -> None:
    finish(stage, node, found)
    assert not state(stage, "holders")


def _dead(stage: Stage, node: SimNode, found: Taken) -> None:
    death = stage.cluster.report_death("a", pid=node.pid, host="host")
    assert stage.world.run(death) == 1


def _drained(stage: Stage, node: SimNode, found: Taken) -> None:
    assert stage.world.run(stage.cluster.drain("a")) == 1
    assert stage.world.run(stage.cluster.leave("a", node.inc)) == 1


END = {"finish": _finished, "die": _dead, "drain": _drained}


@pytest.mark.parametrize("field", ["rqproc_reply", "rqproc_deadline", "lost:0"])
@pytest.mark.parametrize("text", [None, "x", "many"])
def test_a_session_opens_though_someone_wrote_into_what_is_taken(
    stage: Stage, field: str, text: str | None
) -> None:
    node = started(stage)
    scattered(stage, "j", range(1))
    taken(stage, node)
    change = ("HSET", job_key("j"), field, text) if text else ("HDEL", job_key("j"), field)
    stage.world.run(change)
    node.session += 1
    told = stage.cluster.read_take(
        stage.world.run(stage.cluster.reconcile(node.inc, session=node.session))
    )
    assert [claim.id for claim in told.claims] == ["j:0"]


def test_a_job_that_turns_into_many_while_it_runs_is_told_as_what_it_was(stage: Stage) -> None:
    node = started(stage)
    job = stage.new_job(0)
    stage.send(Order("call", (job,), 5.0, job.id))
    taken(stage, node)
    stage.world.run(("HSET", job_key(job.id), "rqproc_kind", "many"))
    node.session += 1
    told = stage.cluster.read_take(
        stage.world.run(stage.cluster.reconcile(node.inc, session=node.session))
    )
    assert [claim.kind for claim in told.claims] == ["call"]


def test_answers_to_calls_of_nobody_change_nothing(stage: Stage) -> None:
    node = started(stage)
    claim = Claim("j:0", 7, address("r", 1), "part", REPLY, 0, b"", 0)
    before = stage.world.dump()
    stage.world.run(
        stage.cluster.finish(node.inc, [FinishMany("j", REPLY, 60.0, [(claim, b"0", "[]")])])
    )
    assert stage.world.dump() == before
