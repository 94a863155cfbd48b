"""Single facts about the scripts, on a real server: what schedules cannot see, or once found."""

from __future__ import annotations

from random import Random
from typing import Any, Literal

import pytest
from ledger import Wanted
from rq import Queue, Worker
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer
from servers import PrivateServer
from simnode import SimNode
from stage import HOST, IDS, LEASE_MS, Stage, started

from rqproc import wire
from rqproc.cluster import Claim, Finish, Job, Order, SessionSuperseded, Taken
from rqproc.keys import job_key, results_key
from rqproc.placement import MAX_ID_CHARS, SLOT_BITS, address, owner, slot

TOP = 2**SLOT_BITS - 1


def called(stage: Stage, pick: int = 0, *, timeout_s: float = 5.0) -> Job:
    job = stage.new_job(pick)
    stage.send(Order("call", (job,), timeout_s, job.id))
    return job


def enqueued(stage: Stage, *, result_ttl_s: int | None = None) -> Job:
    job = stage.new_job(0)
    stage.send(Order("job", (job,), result_ttl_s=result_ttl_s))
    return job


def finished(stage: Stage, node: SimNode, *, ok: bool = True) -> None:
    stage.take(node, 100)
    stage.finish(node, [node.outcome(claim, stage.now, ok=ok) for claim in node.known.values()])
    node.known.clear()
    stage.check()


def fetched(stage: Stage, server: PrivateServer, job: Job) -> RqJob:
    return RqJob.fetch(job.id, connection=server.client(), serializer=JSONSerializer)


# --- one place ---


@pytest.mark.parametrize("count", range(1, 6))
def test_lua_finds_the_owner_that_python_finds(stage: Stage, count: int) -> None:
    members = [f"n{number}" for number in range(count)]
    for name in members:
        stage.join(SimNode("", stage.number(), 9), name)
    random = Random(count)
    ids: list[Any] = [0, 1, TOP, TOP - 1, TOP - 2, TOP + 1, -1, "é", "007"]
    ids += [random.randrange(TOP - 10**6, TOP + 1) for _ in range(300)]
    ids += [f"user-{number}" for number in range(100)]
    command = stage.cluster.locate("r", ids)
    found = stage.cluster.read_locate(command, stage.world.run(command))
    assert [place.owner for place in found] == [owner(slot(id), members) for id in ids]
    assert {place.owner for place in found} == set(members)


@pytest.mark.parametrize("id", ["€" * MAX_ID_CHARS, "\U0001f600" * MAX_ID_CHARS, 10**199, "-"])
def test_the_longest_id_is_served_like_any_other(stage: Stage, id: int | str) -> None:
    node = started(stage)
    job = Job("long", address("r" * 100, id), b"[]")
    stage.send(Order("call", (job,), 5.0, job.id))
    taken = stage.ask_to_take(node, 9, session=node.session)
    assert isinstance(taken, Taken)
    assert [claim.address for claim in taken.claims] == [job.address]


def test_a_paused_nodes_late_finish_changes_nothing(stage: Stage) -> None:
    paused = started(stage, "a")
    called(stage)
    stage.take(paused, 9)
    stage.let_leases_pass()
    other = started(stage, "B")
    stage.take(other, 9)
    (late,) = paused.known.values()
    (claim,) = other.known.values()
    assert claim.token > late.token
    stage.finish(paused, [paused.outcome(late, stage.now)])
    stage.check()
    finished(stage, other)
    assert stage.ledger[claim.id].expect == other.word(claim)


def test_a_claim_whose_job_is_gone_is_held_until_its_node_has_finished(stage: Stage) -> None:
    """A handler may run on when its caller has long given up and the job's hash has expired.

    1. a takes 1 and runs it      2. the hash expires      3. b joins, the owner of 1 by now
    4. a's connection breaks      5. a opens a new session: 1 must still be a's alone
    """
    busy = started(stage)
    job = called(stage, 1)
    stage.take(busy, 9)
    stage.ledger[job.id].over = stage.ledger[job.id].gone = True
    stage.look(("DEL", job_key(job.id)))
    started(stage, "n9")
    stage.open_session(busy)
    stage.check()
    finished(stage, busy)
    assert not stage.view.holders


def test_a_session_opens_though_a_taken_job_was_overwritten(stage: Stage) -> None:
    """Else its node would hold its ids for ever: it beats, but serves no more."""
    node = started(stage)
    job = called(stage)
    stage.take(node, 9)
    stage.world.run(("SET", job_key(job.id), "text"))
    stage.ledger[job.id].junk = "text"
    stage.open_session(node)
    stage.finish(node, [node.outcome(claim, stage.now) for claim in node.known.values()])
    assert not stage.view.holders


# --- nothing lost, nothing twice ---


def killed(stage: Stage, name: str) -> None:
    """A node takes what there is, and dies."""
    node = started(stage, name)
    stage.take(node, 9)
    stage.nodes.remove(node)
    stage.report_death(node)
    stage.check()


def test_a_job_on_which_three_nodes_died_is_told_so(stage: Stage) -> None:
    job = enqueued(stage)
    for name in ("a", "B", "n9"):
        assert not stage.ledger[job.id].expect
        killed(stage, name)
    assert stage.ledger[job.id].expect == "NodeLost"


def test_a_job_that_failed_and_is_requeued_has_all_its_attempts_again(
    stage: Stage, server: PrivateServer
) -> None:
    job = enqueued(stage)
    for name in ("a", "B", "n9"):
        killed(stage, name)
    registry = FailedJobRegistry(stage.world.keys.ingress, connection=server.client())
    assert registry.get_job_ids() == [job.id]
    registry.requeue(job.id)
    lists = (stage.world.keys.ingress_queue, stage.world.keys.ingress_intermediate)
    stage.world.run(("LMOVE", *lists, "LEFT", "RIGHT"))
    assert stage.world.run(stage.cluster.adopt(job.id, job.address)) == 1
    node = started(stage, "n10")
    taken = stage.ask_to_take(node, 9, session=node.session)
    assert isinstance(taken, Taken)
    assert [claim.lost for claim in taken.claims] == [0]


@pytest.mark.parametrize("bad", ["", "no-slot", "|", "-1|r:1"])
def test_a_malformed_address_takes_nothing_else_along(stage: Stage, bad: str) -> None:
    """A script that fails half-way is not rolled back: what it has popped would be lost."""
    node = started(stage)
    wanted = Wanted(Job("junk", bad, b""), "job", "junk", junk="addressed")
    fields: dict[str, str | bytes] = {"status": "queued", "data": "[]", "rqproc_address": bad}
    stage.put(wanted, stage.world.keys.queue("a"), fields)
    good = called(stage)
    taken = stage.ask_to_take(node, 9, session=node.session)
    assert isinstance(taken, Taken)
    assert good.id in {claim.id for claim in taken.claims}


def test_an_answer_is_kept_longer_than_its_caller_may_ask_again(stage: Stage) -> None:
    """Else a request that was refused would run when its order is sent again."""
    started(stage, limit=1)
    jobs = tuple(stage.new_job(0) for _ in range(3))
    stage.send(Order("call", jobs, 600.0, "shared"))
    assert [stage.ledger[job.id].expect for job in jobs] == [None, "Overloaded", "Overloaded"]
    assert stage.world.run(("PTTL", results_key("shared"))) > 600_000


def test_an_answer_is_kept_as_long_though_others_in_its_stream_are_not(stage: Stage) -> None:
    """All callers of a client have one stream; one of them may be cut off for long."""
    started(stage, limit=1)
    for timeout_s in (600.0, 1.0):
        jobs = tuple(stage.new_job(0) for _ in range(2))
        stage.send(Order("call", jobs, timeout_s, "shared"))
        assert stage.ledger[jobs[1].id].expect == "Overloaded"
    assert stage.world.run(("PTTL", results_key("shared"))) > 600_000


def test_a_running_job_that_is_enqueued_again_survives_its_node(stage: Stage) -> None:
    """RQ sets its status to queued; take leaves the second copy to the run; the run dies."""
    node = started(stage)
    job = enqueued(stage)
    stage.take(node, 9)
    stage.look(("HSET", job_key(job.id), "status", "queued"))
    stage.look(("RPUSH", stage.world.keys.ingress_queue, job.id))
    stage.carry()
    stage.ask_to_take(node, 9, session=node.session)
    stage.world.run(stage.cluster.report_death("a", pid=node.pid, host=HOST))
    stage.look()
    assert stage.view.places()[job.id] == 1


# --- RQ's own rules ---


def test_rq_lists_the_nodes_and_their_queues(stage: Stage, server: PrivateServer) -> None:
    started(stage)
    keys = stage.world.keys
    (worker,) = Worker.all(connection=server.client())
    assert worker.name == keys.queue_name("a")
    assert worker.queue_names() == [keys.queue_name("a"), keys.ingress]


def test_rq_lists_its_queues(stage: Stage, server: PrivateServer) -> None:
    node = started(stage)
    keys = stage.world.keys
    assert {queue.name for queue in Queue.all(connection=server.client())} == {
        keys.ingress,
        keys.queue_name("a"),
    }
    stage.leave(node.inc)
    assert keys.queue_name("a") not in {q.name for q in Queue.all(connection=server.client())}


def test_a_finished_job_is_what_rq_makes_of_one(stage: Stage, server: PrivateServer) -> None:
    node = started(stage)
    job = enqueued(stage)
    assert fetched(stage, server, job).get_status() is JobStatus.QUEUED
    stage.take(node, 9)
    running = fetched(stage, server, job)
    assert running.get_status() is JobStatus.STARTED
    assert running.worker_name == stage.world.keys.queue_name("a")
    (claim,) = node.known.values()
    finished(stage, node)
    done = fetched(stage, server, job)
    assert done.get_status() is JobStatus.FINISHED
    assert done.return_value() == node.word(claim)
    assert done.ended_at
    registry = FinishedJobRegistry(stage.world.keys.ingress, connection=server.client())
    assert registry.get_job_ids() == [job.id]
    assert 490 < server.client().ttl(job_key(job.id)) <= 500


def test_a_failed_job_is_what_rq_makes_of_one(stage: Stage, server: PrivateServer) -> None:
    node = started(stage)
    job = enqueued(stage)
    finished(stage, node, ok=False)
    failed = fetched(stage, server, job)
    assert failed.get_status() is JobStatus.FAILED
    latest = failed.latest_result()
    assert latest
    assert (latest.exc_string or "").startswith("a@")
    registry = FailedJobRegistry(stage.world.keys.ingress, connection=server.client())
    assert registry.get_job_ids() == [job.id]


@pytest.mark.parametrize(("ttl_s", "left"), [(0, -2), (-1, -1), (30, 30), (None, 500)])
def test_a_result_is_kept_as_long_as_its_job_says(
    stage: Stage, ttl_s: int | None, left: int
) -> None:
    node = started(stage)
    job = enqueued(stage, result_ttl_s=ttl_s)
    stage.take(node, 9)
    stage.finish(node, [node.outcome(claim, stage.now) for claim in node.known.values()])
    keys = (job_key(job.id), results_key(job.id))
    assert [stage.world.run(("TTL", key)) for key in keys] == [left, left]


@pytest.mark.parametrize("ttl", ["1.5", "inf", "nan", "1e300", "-7", "soon", ""])
def test_a_senseless_result_ttl_does_not_end_a_finish_half_way(stage: Stage, ttl: str) -> None:
    node = started(stage)
    job = enqueued(stage)
    stage.world.run(("HSET", job_key(job.id), "result_ttl", ttl))
    finished(stage, node)
    assert stage.world.run(("HGET", job_key(job.id), "status")) == b"finished"


def test_a_finish_names_the_jobs_that_others_depend_on(stage: Stage) -> None:
    node = started(stage)
    awaited, lonely = enqueued(stage), enqueued(stage)
    stage.world.run(("SADD", f"{job_key(awaited.id)}:dependents", "next"))
    stage.take(node, 9)
    finishes = [node.outcome(claim, stage.now) for claim in node.known.values()]
    assert {finish.claim.id for finish in finishes} == {awaited.id, lonely.id}
    assert stage.world.run(stage.cluster.finish(node.inc, finishes)) == [awaited.id.encode()]


def test_a_jobs_ttl_goes_on_while_it_waits_to_be_adopted(stage: Stage) -> None:
    """RQ counts it from the enqueueing, as the expiry of the job's hash."""
    started(stage)
    job = stage.new_job(0)
    wanted = Wanted(job, "job", job.id, foreign=True, ttl_s=60)
    fields: dict[str, str | bytes] = {"status": "queued", "data": job.data, "ttl": "60"}
    stage.put(wanted, stage.world.keys.ingress_queue, fields)
    stage.world.run(("EXPIRE", job_key(job.id), 10))
    stage.carry()
    deadline = int(stage.world.run(("HGET", job_key(job.id), "rqproc_deadline")))
    assert deadline - stage.now <= 10_000


# --- handlers that ask for other ids ---


def asked_by(stage: Stage, parent: int, pick: int, *, timeout_s: float = 5.0) -> Any:
    """The report of a request by the handler of another id, empty where it is queued."""
    job = stage.new_job(pick)
    order = Order("call", (job,), timeout_s, job.id, parent=address("r", parent))
    (report,) = stage.world.run(stage.cluster.route(order))
    return report


def waits(stage: Stage, id: int) -> int:
    found = stage.world.run(("HLEN", f"{stage.world.keys.state}waits:{address('r', id)}"))
    assert isinstance(found, int)
    return found


def test_a_circle_of_those_who_wait_is_refused_however_long(stage: Stage) -> None:
    started(stage)
    assert asked_by(stage, 1, 1) == b""  # IDS[1] is 2
    assert asked_by(stage, 2, 2) == b""  # IDS[2] is 5
    assert b"RequestCycle" in asked_by(stage, 5, 0)
    assert b"RequestCycle" in asked_by(stage, 5, 2)


def test_a_wait_ends_with_the_patience_of_who_waits(stage: Stage) -> None:
    started(stage)
    assert asked_by(stage, 1, 1, timeout_s=0.3) == b""
    assert b"RequestCycle" in asked_by(stage, 2, 0)
    stage.world.advance(300)
    assert asked_by(stage, 2, 0) == b"", "its caller has given up, though the job is still there"


def test_waits_that_are_over_are_forgotten(stage: Stage) -> None:
    node = started(stage)
    for _ in range(200):
        assert asked_by(stage, 1, 1) == b""
        taken = stage.ask_to_take(node, 9, session=node.session)
        assert isinstance(taken, Taken)
        done = [node.outcome(claim, stage.now) for claim in taken.claims]
        stage.world.run(stage.cluster.finish(node.inc, done))
    assert waits(stage, 1) <= 66


def test_the_child_is_blamed_for_its_nodes_death_not_only_the_parent_that_waits(
    stage: Stage,
) -> None:
    """One lane would be used up by the parent, which does nothing."""
    for name in ("a", "B", "n9"):
        node = started(stage, name)
        for parent, pick in ((1, 1), (2, 2), (5, 3)):
            if name == "a":
                called(stage, IDS.index(parent))
                assert asked_by(stage, parent, pick, timeout_s=60.0) == b""
        stage.ask_to_take(node, 9, session=node.session)
        stage.world.run(stage.cluster.report_death(name, pid=node.pid, host=HOST))
    suspects = stage.world.run(("HKEYS", f"{stage.world.keys.state}suspects"))
    assert address("r", IDS[3]).encode() in suspects, "the last child has no lane to give back"


def test_one_silent_node_that_nobody_asked_for_long_is_dead_at_once(stage: Stage) -> None:
    started(stage)
    stage.world.advance(LEASE_MS + 30_000)
    job = stage.new_job(0)
    (report,) = stage.world.run(stage.cluster.route(Order("call", (job,), 5.0, job.id)))
    assert b"NoLiveNode" in report


# --- what runs on ---


def stuck_and_taken(stage: Stage) -> tuple[SimNode, Claim]:
    node = started(stage)
    enqueued(stage)
    stage.take(node, 9)
    (claim,) = node.known.values()
    return node, claim


def overdue(claim: Claim, outcome: Literal["stuck", "released"]) -> Finish:
    report = wire.overdue_report(1.0, stuck=True)
    note = wire.note(claim.id, "error", token=claim.token)
    return Finish(claim, outcome, wire.exc_string("late"), note, report)


@pytest.mark.parametrize("sent", [("stuck", "released"), ("released",), ("released", "stuck")])
def test_what_was_stuck_is_answered_once_whichever_word_of_it_arrives(
    stage: Stage, sent: tuple[Literal["stuck", "released"], ...]
) -> None:
    node, claim = stuck_and_taken(stage)
    for outcome in sent:
        stage.world.run(stage.cluster.finish(node.inc, [overdue(claim, outcome)]))
    assert stage.world.run(("XLEN", results_key(claim.id))) == 1
    assert stage.world.run(("HGET", job_key(claim.id), "status")) == b"failed"
    assert stage.world.run(("HLEN", f"{stage.world.keys.state}holders")) == 0


def test_what_is_stuck_is_held_though_it_is_answered(stage: Stage) -> None:
    node, claim = stuck_and_taken(stage)
    for _ in range(2):
        stage.world.run(stage.cluster.finish(node.inc, [overdue(claim, "stuck")]))
    assert stage.world.run(("XLEN", results_key(claim.id))) == 1
    holder = stage.world.run(("HGET", f"{stage.world.keys.state}holders", claim.address))
    assert holder == f"{node.inc} 1".encode()


def test_a_reconciliation_that_comes_late_holds_nothing(stage: Stage) -> None:
    node = started(stage)
    still = Claim("~7", 7, address("r", 1), "call", "", 0, b"", 0)
    late = stage.cluster.reconcile(node.inc, session=node.session, held=[still])
    stage.open_session(node)
    with pytest.raises(SessionSuperseded):
        stage.cluster.read_take(stage.world.run(late))
    assert stage.world.run(("HLEN", f"{stage.world.keys.state}holders")) == 0


# --- what is dropped ---


def test_a_drop_is_published_once_and_by_who_holds_the_claim_alone(
    stage: Stage, server: PrivateServer
) -> None:
    node, other = started(stage), started(stage, "B")
    called(stage)
    for each in (node, other):
        stage.take(each, 9)
    ((owner, claim),) = [(each, one) for each in (node, other) for one in each.known.values()]
    (stranger,) = {node, other} - {owner}
    dropped = Finish(
        claim, "dropped", wire.return_value("true", "json"), wire.note(claim.id, "miss")
    )
    with server.client() as client, client.pubsub() as listener:
        listener.subscribe(stage.world.keys.dropped)
        assert listener.get_message(timeout=5)
        for each in (stranger, owner, owner):
            stage.world.run(stage.cluster.finish(each.inc, [dropped]))
        message = listener.get_message(timeout=5)
        assert message
        assert message["data"] == claim.address.encode()
        assert not listener.get_message(timeout=0.05)
    assert stage.world.run(("XLEN", results_key(claim.id))) == 1
