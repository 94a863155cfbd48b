"""Facts about jobs, on a real server: RQ's own rules, and what its tools see."""

from __future__ import annotations

import pytest
from callers import Callers
from ledger import LEASE_MS, Wanted
from rq import Queue, Worker
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer
from serving import started
from steps import called, ended, enqueued, state, taken

from rqproc.lab.servers import ServerProcess
from rqproc.protocol.keys import job_key, results_key
from rqproc.protocol.messages import Claimed, Sent


def fetched(server: ServerProcess, job: Wanted) -> RqJob:
    return RqJob.fetch(job.id, connection=server.client(), serializer=JSONSerializer)


def test_rq_lists_the_nodes_and_their_queues(stage: Callers, server: ServerProcess) -> None:
    node = started(stage)
    keys = stage.world.keys
    (worker,) = Worker.all(connection=server.client())
    assert worker.name == keys.queue_name("a")
    assert worker.queue_names() == [keys.queue_name("a"), keys.ingress]
    assert {queue.name for queue in Queue.all(connection=server.client())} == {
        keys.ingress,
        keys.queue_name("a"),
    }
    stage.leave(node.inc)
    assert keys.queue_name("a") not in {q.name for q in Queue.all(connection=server.client())}
    assert not Worker.all(connection=server.client())


def test_a_worker_that_is_gone_from_rq_is_registered_anew_by_a_beat(
    stage: Callers, server: ServerProcess
) -> None:
    """As after an outage that outlasts the worker's hash: RQ's tools take it off its sets then."""
    node = started(stage)
    rq, name = server.client(), stage.world.keys.queue_name("a")
    stage.beat(node)
    before = rq.hgetall(f"rq:worker:{name}")
    rq.delete(f"rq:worker:{name}")
    assert not Worker.all(connection=rq)
    stage.beat(node)
    (worker,) = Worker.all(connection=rq)
    assert worker.name == name
    after = rq.hgetall(f"rq:worker:{name}")
    moving = {b"last_heartbeat"}
    assert {field: before[field] for field in before.keys() - moving} == {
        field: after[field] for field in after.keys() - moving
    }
    assert 0 < rq.ttl(f"rq:worker:{name}") <= LEASE_MS / 1000 + 60


def test_a_finished_job_is_what_rq_makes_of_one(stage: Callers, server: ServerProcess) -> None:
    node = started(stage)
    job = enqueued(stage)
    assert fetched(server, job).get_status() is JobStatus.QUEUED
    (claim,) = taken(stage, node)
    running = fetched(server, job)
    assert running.get_status() is JobStatus.STARTED
    assert running.worker_name == stage.world.keys.queue_name("a")
    ended(stage, node)
    done = fetched(server, job)
    assert done.get_status() is JobStatus.FINISHED
    assert done.return_value() == node.word(claim)
    assert done.ended_at
    registry = FinishedJobRegistry(stage.world.keys.ingress, connection=server.client())
    assert registry.get_job_ids() == [job.id]
    assert 490 < server.client().ttl(job_key(job.id)) <= 500


def test_a_failed_job_is_what_rq_makes_of_one(stage: Callers, server: ServerProcess) -> None:
    node = started(stage)
    job = enqueued(stage)
    ended(stage, node, ok=False)
    failed = fetched(server, job)
    assert failed.get_status() is JobStatus.FAILED
    latest = failed.latest_result()
    assert latest
    assert latest.exc_string == "no"
    registry = FailedJobRegistry(stage.world.keys.ingress, connection=server.client())
    assert registry.get_job_ids() == [job.id]


@pytest.mark.parametrize(("ttl_s", "left"), [(0, -2), (-1, -1), (30, 30), (None, 500)])
def test_a_result_is_kept_as_long_as_its_job_says(
    stage: Callers, ttl_s: int | None, left: int
) -> None:
    node = started(stage)
    job = enqueued(stage, result_ttl_s=ttl_s)
    (claim,) = taken(stage, node)
    stage.world.run(stage.commands.answer(node.inc, [node.ending(claim)]))
    keys = (job_key(job.id), results_key(job.id))
    for found in (stage.world.run(("TTL", key)) for key in keys):
        assert found == left or 0 < left - found < 10, "by the server's clock, which goes on"


@pytest.mark.parametrize("ttl", ["1.5", "inf", "nan", "1e300", "-7", "soon", ""])
def test_a_senseless_result_ttl_does_not_end_an_answer_half_way(stage: Callers, ttl: str) -> None:
    node = started(stage)
    job = enqueued(stage)
    stage.world.run(("HSET", job_key(job.id), "result_ttl", ttl))
    ended(stage, node)
    assert stage.world.run(("HGET", job_key(job.id), "status")) == b"finished"


def test_an_answer_names_the_jobs_that_others_depend_on_repeated_too(stage: Callers) -> None:
    node = started(stage)
    awaited, lonely = enqueued(stage), enqueued(stage)
    stage.world.run(("SADD", f"{job_key(awaited.id)}:dependents", "next"))
    endings = [node.ending(claim) for claim in taken(stage, node)]
    assert {ending[1] for ending in endings} == {awaited.id, lonely.id}
    for _ in range(2):
        told = stage.world.run(stage.commands.answer(node.inc, endings))
        assert told == [awaited.id.encode()]


@pytest.mark.parametrize("how", ["canceled", "deleted"])
def test_an_answer_names_a_job_that_held_a_place_under_a_rate_limit(
    stage: Callers, how: str
) -> None:
    """It was cancelled or deleted while it ran."""
    node = started(stage)
    job, lonely = enqueued(stage), enqueued(stage)
    stage.world.run(("HSET", job_key(job.id), "rate_limit_key", "k"))
    endings = [node.ending(claim) for claim in taken(stage, node)]
    for one in (job, lonely):
        if how == "canceled":
            stage.world.run(("HSET", job_key(one.id), "status", "canceled"))
        else:
            stage.world.run(("DEL", job_key(one.id)))
    told = stage.world.run(stage.commands.answer(node.inc, endings))
    assert told == [job.id.encode()]
    assert not stage.world.run(("KEYS", "rq:execution*"))


def test_a_jobs_ttl_goes_on_while_it_waits_to_be_adopted(stage: Callers) -> None:
    """RQ counts it from the enqueueing, as the expiry of the job's hash."""
    started(stage)
    place, data = stage.new_call(0)
    wanted = Wanted("foreign", place, "job", data, foreign=True, ttl_s=60)
    fields: dict[str, str | bytes] = {"status": "queued", "data": data, "ttl": "60"}
    stage.put(wanted, stage.world.keys.ingress_queue, fields)
    stage.world.run(("EXPIRE", job_key("foreign"), "10"))
    stage.carry()
    deadline = int(stage.world.run(("HGET", job_key("foreign"), "rqproc_deadline")))
    assert 0 < deadline - stage.now <= 10_000


@pytest.mark.parametrize("text", [None, "text"])
def test_arrivals_read_what_there_is_and_take_nothing(stage: Callers, text: str | None) -> None:
    ids, list_ = ["bad", "good", "\udcff"], stage.world.keys.ingress_queue
    stage.world.run(("HSET", job_key("good"), "data", "data"))
    if text:
        stage.world.run(("SET", job_key("bad"), text))
    raw = [id.encode(errors="surrogateescape") for id in ids]
    stage.world.run(("RPUSH", list_, *raw))
    found = stage.world.run(stage.commands.arrivals("a#1", most=9))
    read = stage.commands.read_arrivals(found)
    assert [(one.id, one.data) for one in read] == [
        (raw[0], b""), (raw[1], b"data"), (raw[2], b""),
    ]  # fmt: skip
    assert stage.world.run(("LRANGE", list_, "0", "-1")) == raw


def test_one_node_looks_into_arrivals_at_a_time(stage: Callers) -> None:
    stage.world.run(("RPUSH", stage.world.keys.ingress_queue, "job"))
    assert stage.world.run(stage.commands.arrivals("a#1", most=9))
    assert stage.world.run(stage.commands.arrivals("a#1", most=9)), "it looks again"
    key = f"{stage.world.keys.state}carrier"
    # Without an end of its own: that is by the server's clock, which goes on.
    stage.world.run(("SET", key, f"a#1 {stage.world.now + 100}"))
    assert not stage.world.run(stage.commands.arrivals("b#2", most=9))
    stage.world.run(("DEL", key))
    assert stage.world.run(stage.commands.arrivals("b#2", most=9)), "where the other has gone"
    stage.world.run(("SET", key, f"b#2 {stage.world.now + 100}"))
    stage.world.advance(100)
    assert stage.world.run(stage.commands.arrivals("a#1", most=9)), "by the clock, too"


@pytest.mark.parametrize("before", [0, 1, 6, 7])
def test_what_no_node_has_is_found_behind_what_nodes_have(stage: Callers, before: int) -> None:
    started(stage)
    for _ in range(before):
        enqueued(stage)
    new = [f"new{n}" for n in range(9)]
    stage.world.run(("RPUSH", stage.world.keys.ingress_queue, *new))
    found = stage.commands.read_arrivals(stage.world.run(stage.commands.arrivals("a#1", most=4)))
    assert [one.id.decode() for one in found] == new[:4]
    assert not any(one.is_front for one in found)


def test_what_is_enqueued_at_the_front_is_adopted_last_first(stage: Callers) -> None:
    started(stage)
    enqueued(stage)
    stage.world.run(("LPUSH", stage.world.keys.ingress_queue, "earlier", "later"))
    found = stage.commands.read_arrivals(stage.world.run(stage.commands.arrivals("a#1", most=4)))
    assert [(one.id, one.is_front) for one in found] == [(b"earlier", True), (b"later", True)]


def test_a_job_behind_what_no_node_has_looked_into_is_left_to_be_found(stage: Callers) -> None:
    node = started(stage)
    stage.world.run(("RPUSH", stage.world.keys.ingress_queue, "foreign"))
    (report,) = stage.world.run(stage.commands.enqueue([Sent("job", *stage.new_call(0))]))
    assert report == b""
    assert not state(stage, f"open:{node.inc}")
    assert stage.world.run(("LRANGE", stage.world.keys.ingress_queue, "0", "-1"))[1] == b"job"


def test_a_job_waits_for_its_turn_and_is_started_then(
    stage: Callers, server: ServerProcess
) -> None:
    node = started(stage)
    first, second = enqueued(stage), enqueued(stage)
    stage.pop(node, 100)
    told = stage.claim(node, list(node.taken))
    assert isinstance(told, Claimed)
    assert [claim.what for claim in told.claims] == ["job", "waits"]
    assert fetched(server, second).get_status() is JobStatus.QUEUED
    assert stage.view.ingress == [second.id]
    stage.answer(node, [node.ending(node.known.pop(first.id))])
    told = stage.claim(node, [], turns=[second.id])
    assert isinstance(told, Claimed)
    assert [claim.what for claim in told.claims] == ["job"]
    assert stage.view.ingress == []
    stage.check()


def test_no_more_jobs_are_started_than_there_is_room_for(stage: Callers) -> None:
    node = started(stage)
    for pick in range(3):
        place, data = stage.new_call(pick)
        job = stage.ledger.add(Wanted(f"job{pick}", place, "job", data))
        stage.function(stage.commands.enqueue([Sent(job.id, place, data)]))
        job.state = "open"
    stage.pop(node, 100)
    told = stage.claim(node, list(node.taken), room=2)
    assert isinstance(told, Claimed)
    assert [claim.what for claim in told.claims] == ["job", "job", "waits"]


def test_while_rq_is_suspended_jobs_are_given_back_and_calls_are_run(stage: Callers) -> None:
    node = started(stage)
    job, call = enqueued(stage), called(stage)
    stage.look(("SET", "rq:suspended", "1"))
    assert [claim.id for claim in taken(stage, node)] == [call.id]
    assert stage.view.ingress == [job.id]
    assert job.id not in stage.view.open[node.inc]
    assert not stage.carry()
    late = enqueued(stage, placed=False)
    assert stage.view.ingress == [job.id, late.id]
    stage.look(("DEL", "rq:suspended"))
    assert stage.carry()
    assert {job.id, late.id} <= stage.view.open[node.inc].keys()


def test_what_had_been_started_by_a_dead_node_waits_before_all_others(stage: Callers) -> None:
    node = started(stage)
    jobs = [enqueued(stage) for _ in range(3)]
    for _ in range(2):
        stage.pop(node, 1)
        stage.claim(node, list(node.taken), turns=list(node.waiting))
    stage.claim(node, [], turns=list(node.waiting))
    assert stage.view.ingress == [jobs[2].id]
    stage.nodes.remove(node)
    stage.report_death(node)
    assert stage.view.ingress == [job.id for job in jobs]
    assert not stage.view.wip
    stage.check()


def test_an_end_of_a_job_that_was_cancelled_while_it_ran_is_not_kept(stage: Callers) -> None:
    node = started(stage)
    job = enqueued(stage)
    (claim,) = taken(stage, node)
    stage.world.run(("HSET", job_key(job.id), "status", "canceled"))
    stage.world.run(stage.commands.answer(node.inc, [node.ending(claim)]))
    assert stage.world.run(("HGET", job_key(job.id), "status")) == b"canceled"
    assert stage.world.run(("XLEN", results_key(job.id))) == 0
    assert not state(stage, "holders")


def test_what_waits_and_is_taken_off_the_list_ends_no_more(stage: Callers) -> None:
    """1. A job waits for a run that it has joined. 2. It is cancelled. 3. The run answers it."""
    node = started(stage)
    enqueued(stage)
    second = enqueued(stage)
    stage.pop(node, 100)
    stage.claim(node, list(node.taken))
    ending = node.ending(node.waiting[second.id])
    stage.world.run(("LREM", stage.world.keys.ingress_queue, "1", second.id))
    stage.world.run(stage.commands.answer(node.inc, [ending]))
    assert stage.world.run(("XLEN", results_key(second.id))) == 0


def test_a_job_that_was_cancelled_is_not_run(stage: Callers) -> None:
    node = started(stage)
    job = enqueued(stage)
    stage.world.run(("HSET", job_key(job.id), "status", "canceled"))
    job.state = "over"
    assert taken(stage, node) == []
    assert not stage.view.holders
    assert not stage.view.open[node.inc]


def test_a_job_that_is_enqueued_twice_is_queued_once(stage: Callers) -> None:
    started(stage)
    jobs = [Sent("job", *stage.new_call(0))]
    for _ in range(2):
        assert stage.world.run(stage.commands.enqueue(jobs)) == [b""]
    assert stage.world.run(("LRANGE", stage.world.keys.queue("a"), "0", "-1")) == [b"job"]


def test_an_end_of_a_job_that_arrives_twice_adds_no_result(stage: Callers) -> None:
    node = started(stage)
    job = enqueued(stage)
    (claim,) = taken(stage, node)
    for _ in range(2):
        stage.world.run(stage.commands.answer(node.inc, [node.ending(claim)]))
    assert stage.world.run(("XLEN", results_key(job.id))) == 1


def test_a_late_end_of_a_job_that_another_node_runs_by_now_changes_nothing(
    stage: Callers,
) -> None:
    paused, other = started(stage, "a"), started(stage, "B")
    job = enqueued(stage)
    first, second = (paused, other) if stage.view.open[paused.inc] else (other, paused)
    (late,) = taken(stage, first)
    stage.nodes.remove(first)
    stage.report_death(first)
    (claim,) = taken(stage, second)
    stage.world.run(stage.commands.answer(first.inc, [first.ending(late)]))
    assert stage.world.run(("HGET", job_key(job.id), "status")) == b"started"
    assert len(stage.world.run(("ZRANGE", f"rq:wip:{stage.world.keys.ingress}", "0", "-1"))) == 1
    stage.answer(second, [second.ending(claim)])
    assert job.heard == [second.word(claim)]


def test_a_job_that_was_cancelled_while_it_ran_is_not_recovered(stage: Callers) -> None:
    node = started(stage)
    job = enqueued(stage)
    taken(stage, node)
    other = started(stage, "B")
    stage.world.run(("HSET", job_key(job.id), "status", "canceled"))
    job.state = "over"
    stage.report_death(node)
    assert job.id not in stage.view.open[other.inc]
    assert not stage.view.ingress
    assert stage.world.run(("HGET", job_key(job.id), "status")) == b"canceled"


# --- jobs that run again, and jobs whose time has come ---


def given(stage: Callers, job: Wanted, **fields: str) -> None:
    flat = [item for pair in fields.items() for item in pair]
    stage.world.run(("HSET", job_key(job.id), *flat))


def field(stage: Callers, job: Wanted, name: str) -> bytes | None:
    found: bytes | None = stage.world.run(("HGET", job_key(job.id), name))
    return found


def due(stage: Callers) -> list[bytes]:
    key = f"rq:scheduled:{stage.world.keys.ingress}"
    found: list[bytes] = stage.world.run(("ZRANGE", key, "0", "-1", "WITHSCORES"))
    return found


def test_a_job_that_fails_is_tried_again_at_once_and_keeps_no_failure(stage: Callers) -> None:
    node = started(stage)
    job = enqueued(stage)
    given(stage, job, retries_left="1")
    (claim,) = taken(stage, node)
    stage.look(stage.commands.answer(node.inc, [node.ending(claim, ok=False)]))
    assert (field(stage, job, "status"), field(stage, job, "retries_left")) == (b"queued", b"0")
    assert stage.view.ingress == [job.id]
    assert job.id not in stage.view.open[node.inc]
    assert not stage.view.wip
    assert stage.world.run(("XLEN", results_key(job.id))) == 0


@pytest.mark.parametrize(("left", "pause_s"), [("3", 10), ("2", 20), ("1", 30), ("5", 10)])
def test_a_retry_waits_for_its_interval_as_rq_counts_them(
    stage: Callers, left: str, pause_s: int
) -> None:
    node = started(stage)
    job = enqueued(stage)
    given(stage, job, retries_left=left, retry_intervals="[10, 20, 30]")
    (claim,) = taken(stage, node)
    stage.world.run(stage.commands.answer(node.inc, [node.ending(claim, ok=False)]))
    assert field(stage, job, "status") == b"scheduled"
    ((id, score),) = due(stage)
    assert (id, int(score)) == (job.id.encode(), stage.now // 1000 + pause_s)


def test_what_is_stopped_or_kills_nodes_is_not_tried_again(stage: Callers) -> None:
    node = started(stage)
    stopped, deadly = enqueued(stage), enqueued(stage)
    for job in (stopped, deadly):
        given(stage, job, retries_left="9")
    stage.pop(node, 9)
    stage.claim(node, list(node.taken))
    stage.claim(node, [], turns=list(node.waiting))
    how, *rest = node.ending(node.known[stopped.id], ok=False)
    stage.world.run(stage.commands.answer(node.inc, [(f"{how}:stopped", *rest)]))
    assert field(stage, stopped, "status") == b"stopped"
    stage.world.run(stage.commands.answer(node.inc, [node.lost(node.known[deadly.id])]))
    assert field(stage, deadly, "status") == b"failed"


def test_a_job_repeats_with_its_result_kept_and_itself_for_longer(stage: Callers) -> None:
    node = started(stage)
    job = enqueued(stage)
    given(stage, job, repeats_left="2", repeat_intervals="[5, 7]")
    (claim,) = taken(stage, node)
    stage.world.run(stage.commands.answer(node.inc, [node.ending(claim)]))
    assert (field(stage, job, "status"), field(stage, job, "repeats_left")) == (b"scheduled", b"1")
    assert field(stage, job, "repeat_intervals") == b"[7]"
    assert int(due(stage)[0][1]) == stage.now // 1000 + 5
    assert stage.world.run(("XLEN", results_key(job.id))) == 1
    assert 0 < stage.world.run(("TTL", results_key(job.id))) <= 500
    assert stage.world.run(("TTL", job_key(job.id))) == -1


def test_what_is_scheduled_is_enqueued_when_its_time_has_come_and_no_sooner(
    stage: Callers,
) -> None:
    node = started(stage)
    job = enqueued(stage)
    given(stage, job, retries_left="1", retry_intervals="[10]")
    (claim,) = taken(stage, node)
    stage.world.run(stage.commands.answer(node.inc, [node.ending(claim, ok=False)]))
    look = stage.commands.arrivals("carrier", most=9)
    stage.world.advance(9_000)
    assert stage.world.run(look) is None
    stage.world.advance(1_000)
    found = stage.commands.read_arrivals(stage.world.run(look))
    assert [one.id.decode() for one in found] == [job.id]
    assert due(stage) == []


@pytest.mark.parametrize(
    "text", ["", "x", "{}", "7", '["a"]', "[null]", "[-1]", "[1e99]", '["nan"]']
)
def test_senseless_intervals_do_not_end_an_answer_half_way(stage: Callers, text: str) -> None:
    node = started(stage)
    job = enqueued(stage)
    given(stage, job, retries_left="1", retry_intervals=text, repeats_left="1",
          repeat_intervals=text)  # fmt: skip
    (claim,) = taken(stage, node)
    stage.look(stage.commands.answer(node.inc, [node.ending(claim, ok=False)]))
    node.known.clear()
    assert field(stage, job, "status") == b"queued"
    stage.carry()
    (claim,) = taken(stage, node)
    stage.world.run(stage.commands.answer(node.inc, [node.ending(claim)]))
    assert field(stage, job, "status") == b"queued"


@pytest.mark.parametrize("name", ["success_callback_name", "webhooks"])
def test_arrivals_tell_what_no_node_does(stage: Callers, name: str) -> None:
    stage.world.run(("HSET", job_key("job"), "status", "queued", "data", "x", name, "y"))
    stage.world.run(("RPUSH", stage.world.keys.ingress_queue, "job"))
    found = stage.commands.read_arrivals(stage.world.run(stage.commands.arrivals("a", most=1)))
    assert found[0].wants in ("on_success", "webhooks")
