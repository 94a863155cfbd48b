"""A job that nobody should have sent fails, or vanishes, alone; and nothing that it names is run.

Each cluster here is of one node, so that what stops one node is seen at once.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import signal
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import redis
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from rqproc.errors import RqprocError
from rqproc.ids import address
from rqproc.lab.servers import ServerProcess

WITHIN_S = 10
GOOD = json.dumps(["rqproc.request", None, [1], {"resource": "price"}])
HERE, THERE = address("price", 1), address("price", 2)
OURS = {"data": GOOD, "rqproc_address": HERE, "rqproc_deadline": "0"}
CALL, GROUP = f"r0dd-c1-{address('charge', 1)}".encode(), b"r0dd-g2"
ENDLESS = "9" * 400
OWN = "the incarnation's own field"
"""Stands for the incarnation of the node where something lies, which each test has to look up."""

Written = dict[str, Any] | str | None
"""What stands at a job's key: a hash, which is queued unless it says otherwise, a string, or
nothing."""


class Runs:
    """An object whose unpickling runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (self.command,)


class Victim:
    """A cluster of one node, for one test after the other; a new one where it was damaged."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = ExitStack()
        self._sound = False
        self._cluster: Cluster | None = None

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def ready(self) -> Cluster:
        if self._cluster is None or not self._sound:
            self._stack.close()
            self._cluster = Cluster(self._stack, self._url, f"t{token_hex(4)}")
            self._cluster.start("a", options=())
        self._sound = False
        return self._cluster

    def goes_on(self, book: Book, id: int) -> None:
        """The cluster serves every kind of caller as if nothing had been."""
        cluster = self._cluster
        assert cluster
        assert cluster.client.request(id, "charge", timeout=WITHIN_S)["n"] == 1
        queue = Queue(f"rqproc.{cluster.namespace}", connection=book.redis)
        job = queue.enqueue("rqproc.request", id, resource="charge")
        result = job.latest_result(timeout=WITHIN_S)
        assert result, "the ingress queue is not served any more"
        assert result.return_value["n"] == 2
        kit.eventually(
            lambda: [node.held for node in cluster.client.membership().nodes] == [0],
            within_s=WITHIN_S,
            what="a claim is held for ever",
        )
        self._sound = True


@pytest.fixture(scope="module")
def victim(shop_server: ServerProcess) -> Iterator[Victim]:
    with Victim(shop_server.url) as victim:
        yield victim


def _send(cluster: Cluster, book: Book, job_id: bytes, fields: dict[str, Any] | str) -> None:
    """Put a job on the ingress queue, as anyone who can write to Redis may."""
    key = b"rq:job:" + job_id
    if isinstance(fields, str):
        book.redis.set(key, fields)
    else:
        book.redis.hset(key, mapping={"status": "queued", **fields})
    book.redis.rpush(f"rq:queue:rqproc.{cluster.namespace}", job_id)


def _awaited(cluster: Cluster, book: Book) -> None:
    """Wait until the ingress queue has been dealt with."""
    queue = f"rq:queue:rqproc.{cluster.namespace}"
    kit.eventually(lambda: not book.redis.exists(queue, f"{queue}:intermediate"), within_s=WITHIN_S)


@pytest.mark.parametrize(
    "function",
    ["os.system", "subprocess.getoutput", "shop.os.system", "shop._count", "rqproc.invalidate",
     "rqproc.node.node.Node", "builtins.exec", "price.handler", ""],
)  # fmt: skip
@pytest.mark.parametrize("serializer", [pickle, JSONSerializer])
def test_a_job_that_names_anything_else_fails_and_runs_nothing(
    shop: str, book: Book, tmp_path: Path, function: str, serializer: Any
) -> None:
    canary = tmp_path / "canary"
    data = serializer.dumps([function, None, [f"touch {canary}"], {}])
    job_id = f"hostile-{abs(hash((function, str(serializer))))}"
    fields = {"data": zlib.compress(data), "status": "queued", "origin": "rqproc.shop"}
    book.redis.hset(f"rq:job:{job_id}", mapping=fields)
    book.redis.rpush("rq:queue:rqproc.shop", job_id)
    job = Job(job_id, connection=book.redis)
    result = job.latest_result(timeout=4)
    assert result
    assert job.get_status() == "failed"
    assert result.exc_string
    assert not canary.exists()


@pytest.mark.parametrize("place", ["function", "instance", "id", "argument", "keyword", "whole"])
def test_a_pickle_that_runs_code_is_not_run(
    shop: str, book: Book, tmp_path: Path, place: str
) -> None:
    canary = tmp_path / "canary"
    evil = Runs(f"touch {canary}")
    call: dict[str, Any] = {
        "function": (evil, None, (1,), {}),
        "instance": ("request", evil, (1,), {}),
        "id": ("rqproc.request", None, (evil,), {}),
        "argument": ("echo", None, (1, evil), {}),
        "keyword": ("echo", None, (1,), {"key": evil}),
        "whole": evil,
    }
    fields = {"data": pickle.dumps(call[place]), "status": "queued", "origin": "rqproc.shop"}
    job_id = f"pickle-{place}"
    book.redis.hset(f"rq:job:{job_id}", mapping=fields)
    book.redis.rpush("rq:queue:rqproc.shop", job_id)
    result = Job(job_id, connection=book.redis).latest_result(timeout=4)
    assert result
    assert "does not unpickle" in str(result.exc_string)
    assert not canary.exists()
    assert pickle.loads(fields["data"]) is not None
    assert canary.exists(), "this test's own bait does not work"


def _pickled_call(id: bytes) -> bytes:
    return b"\x80\x04(X\x0e\x00\x00\x00rqproc.requestN(" + id + b"t}t."


def _nested(levels: int) -> bytes:
    """A pickled list in a list in a list ..."""
    return b"]" * levels + b"a" * (levels - 1)


def _doubled(levels: int) -> bytes:
    """A pickled list of two times the same list of two times ...: 2**levels when written out."""
    parts = [b"]\x94"]
    for level in range(levels):
        name = b"h" + bytes([level])
        parts.append(b"0](" + name + name + b"e\x94")
    return b"".join(parts)


JOBS: dict[str, dict[str, Any] | str] = {
    "no hash": "x",
    "no data": {},
    "empty": {"data": b""},
    "noise": {"data": b"\x00\xff\x17"},
    "cut short": {"data": zlib.compress(GOOD.encode())[:-9]},
    "a bomb": {"data": zlib.compress(b"[" + b"1," * 50_000_000 + b"1]", 9)},
    "too large": {"data": b'["' + b"x" * 70_000 + b'"]'},
    "no call": {"data": b"[1,2]"},
    "a number": {"data": b"1"},
    "deep json": {"data": b"[" * 60_000},
    "deep id": {"data": f'["rqproc.request",null,[{"[" * 900 + "]" * 900}],{{}}]'},
    "deep pickled id": {"data": _pickled_call(_nested(15_000))},
    "doubled pickled id": {"data": _pickled_call(_doubled(40))},
    "odd keys": {"data": pickle.dumps(("echo", None, (1,), {1: 2}))},
    "a set": {"data": pickle.dumps(("echo", None, (1, {1, 2}), {}))},
    "no id": {"data": b'["rqproc.request",null,[],{}]'},
    "two ids": {"data": b'["rqproc.request",null,[1,2],{}]'},
    "odd resource": {"data": b'["rqproc.request",null,[1],{"resource":"a:b\\n| c"}]'},
    "surrogate resource": {"data": b'["rqproc.request",null,[1],{"resource":"\\ud800"}]'},
    "surrogate argument": {"data": b'["echo",null,[1,"\\ud800"],{}]'},
    "number as resource": {"data": b'["rqproc.request",null,[1],{"resource":1}]'},
    "odd ttl": {"data": GOOD, "ttl": "x"},
    "odd result ttl": {"data": GOOD, "result_ttl": "0.5"},
    "odd failure ttl": {"data": b"", "failure_ttl": "soon"},
    "done already": {"data": GOOD, "status": "finished"},
}


@pytest.fixture
def clean(book: Book) -> Iterator[None]:
    yield
    book.redis.delete(
        b"rq:job:\xff\xfe", *book.redis.keys("rq:*:odd"), *book.redis.keys("rq:*:r0dd-*")
    )


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("name", JOBS)
def test_a_malformed_job_of_the_ingress_queue_fails_alone(
    victim: Victim, book: Book, ids: Fresh, name: str
) -> None:
    cluster = victim.ready()
    _send(cluster, book, b"odd", JOBS[name])
    _awaited(cluster, book)
    victim.goes_on(book, ids(1)[0])


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("queue", ["", ".a"], ids=["ingress", "own queue"])
def test_a_job_whose_id_is_no_text_fails_alone(
    victim: Victim, book: Book, ids: Fresh, queue: str
) -> None:
    cluster = victim.ready()
    good, after = ids(2)
    book.redis.hset(b"rq:job:\xff\xfe", mapping={"status": "queued", **OURS})
    book.redis.rpush(f"rq:queue:rqproc.{cluster.namespace}{queue}", b"\xff\xfe")
    assert cluster.client.enqueue(good, "charge").latest_result(timeout=WITHIN_S)
    _awaited(cluster, book)
    victim.goes_on(book, after)


@pytest.mark.usefixtures("clean")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_small_pickle_does_not_take_a_gigabyte(victim: Victim, book: Book, ids: Fresh) -> None:
    cluster = victim.ready()
    node = cluster.nodes["a"]
    _send(cluster, book, b"odd", {"data": b"\x80\x04Nr\x00\x00\x00\x02."})  # half of one, in fact
    kit.eventually(lambda: book.redis.hget("rq:job:odd", "status") == b"failed")
    victim.goes_on(book, ids(1)[0])
    peak_kb = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{node.pid}/status").read_text())
    assert peak_kb
    assert int(peak_kb[1]) < 200_000


STRAYS: dict[str, tuple[bytes, Written, str]] = {
    "no job": (b"odd", None, ""),
    "no hash": (b"odd", "x", ""),
    "foreign": (b"odd", {"data": GOOD}, "finished"),
    "foreign, forbidden": (b"odd", {"data": b'["os.system",null,["false"],{}]'}, "failed"),
    "no data": (b"odd", {"rqproc_address": HERE}, "failed"),
    "started": (b"odd", {**OURS, "status": "started"}, "started"),
    "addressed to another id": (b"odd", {**OURS, "rqproc_address": THERE}, "finished"),
    "addressed to none": (b"odd", {**OURS, "rqproc_address": "hello"}, "finished"),
    "a call": (CALL, OURS, "queued"),
    "a call with arguments": (CALL.replace(b"-c", b"-a"), OURS, "queued"),
    "an invalidation": (CALL.replace(b"-c", b"-i"), OURS, "queued"),
    "a question": (CALL.replace(b"-c", b"-e"), OURS, "queued"),
    "a question about no text": (b"r0dd-e1-1-_ff-1", OURS, "queued"),
    "a question about an id that is no text": (b"r0dd-e1-1-price-_ff", OURS, "queued"),
    "a question about an endless slot": (b"r0dd-e1-" + b"9" * 5000 + b"-price-1", OURS, "queued"),
    "a call of a resource that is no text": (b"r0dd-c1-1-_ff-1", OURS, "queued"),
    "a group": (GROUP, {**OURS, OWN: f"0 {HERE}"}, "queued"),
}
"""What lies in a node's queue and is not open there, with the status that it has in the end. Jobs
go to the ingress queue and are looked into there, whatever they say of themselves; calls and groups
are dropped."""


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("name", STRAYS)
def test_what_anyone_pushed_into_a_nodes_own_queue_is_looked_into_like_any_job(
    victim: Victim, book: Book, ids: Fresh, name: str
) -> None:
    cluster = victim.ready()
    job_id, fields, status = STRAYS[name]
    good, after = ids(2)
    with book.redis.pipeline(transaction=True) as pipe:
        _write(pipe, job_id, fields, incarnation=_incarnation(cluster, book))
        _write(pipe, b"good", _charge(good))
        pipe.rpush(f"rq:queue:rqproc.{cluster.namespace}.a", job_id, "good")
        pipe.execute()
    kit.eventually(lambda: book.count("charge", good) == 1, within_s=WITHIN_S, what="the other")
    kit.eventually(lambda: _status(book, job_id) == status, within_s=WITHIN_S, what=status)
    victim.goes_on(book, after)
    assert _status(book, job_id) == status


OPEN: dict[str, tuple[bytes, Written, str]] = {
    "no job": (b"odd", None, ""),
    "no hash": (b"odd", "x", ""),
    "no data": (b"odd", {"rqproc_address": HERE}, "canceled"),
    "failed": (b"odd", {**OURS, "status": "failed"}, "failed"),
    "noise": (b"odd", {**OURS, "data": b"\x00\xff\x17"}, "failed"),
    "forbidden": (b"odd", {**OURS, "data": b'["os.system",null,["false"],{}]'}, "failed"),
    "addressed to another id": (b"odd", {**OURS, "rqproc_address": THERE}, "failed"),
    "no address": (b"odd", {"data": GOOD}, "finished"),
    "odd address": (b"odd", {**OURS, "rqproc_address": "hello"}, "finished"),
    "empty address": (b"odd", {**OURS, "rqproc_address": ""}, "finished"),
    "address without id": (b"odd", {**OURS, "rqproc_address": "1-price-"}, "finished"),
    "address that is no text": (b"odd", {**OURS, "rqproc_address": b"1-price-\xff"}, "finished"),
    "endless address": (b"odd", {**OURS, "rqproc_address": f"{ENDLESS}-price-1"}, "finished"),
    "odd deadline": (b"odd", {**OURS, "rqproc_deadline": "soon"}, "finished"),
    "endless deadline": (b"odd", {**OURS, "rqproc_deadline": ENDLESS}, "finished"),
    "past deadline": (b"odd", {**OURS, "rqproc_deadline": "1"}, "canceled"),
    "odd losses": (b"odd", {**OURS, "rqproc_lost": "many"}, "finished"),
    "many losses": (b"odd", {**OURS, "rqproc_lost": "3"}, "failed"),
    "odd time": (b"odd", {**OURS, "enqueued_at": b"\xff"}, "finished"),
    "a call without a hash": (CALL, None, ""),
    "a call without data": (CALL, {"rqproc_deadline": "0"}, ""),
    "a call with an odd deadline": (CALL, {"data": "", "rqproc_deadline": "soon"}, ""),
    "a call with odd data": (CALL.replace(b"-c", b"-a"), {"data": b"\xff"}, ""),
    "a call of an entry without a hash": (f"r0dd-c3-{HERE}".encode(), None, ""),
    "a call without an id": (b"r0dd-c1-1-price-", {"data": ""}, ""),
    "a call of an endless slot": (f"r0dd-c1-{ENDLESS}-price-1".encode(), {"data": ""}, ""),
    "a group without a hash": (GROUP, None, ""),
    "a group of half a call": (GROUP, {OWN: "5 hello"}, ""),
    "a group that begins with noise": (GROUP, {OWN: f"x 0 {HERE}"}, ""),
    "a group of no address": (GROUP, {OWN: "hello"}, ""),
    "a group of a place beyond": (GROUP, {OWN: f"{ENDLESS} {HERE}"}, ""),
    "a group that is nowhere": (GROUP, {"data": GOOD}, "queued"),
}
"""What is open at a node, as ``put`` in placement.lua leaves it (and a job in RQ's list), and was
written to since, with the status that it has in the end; "" where nothing is left that has one."""


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("name", OPEN)
def test_what_is_open_at_a_node_and_malformed_fails_alone(
    victim: Victim, book: Book, ids: Fresh, name: str
) -> None:
    cluster = victim.ready()
    job_id, fields, status = OPEN[name]
    good, after = ids(2)
    incarnation = _incarnation(cluster, book)
    opened = cluster.client.keys.state + "open:" + incarnation
    with book.redis.pipeline(transaction=True) as pipe:
        _write(pipe, job_id, fields, incarnation=incarnation)
        _write(pipe, b"good", _charge(good))
        pipe.zadd(opened, {job_id: 1, b"good": 2})
        lying = [id for id in (job_id, b"good") if not id.startswith(b"r")]
        pipe.rpush(f"rq:queue:rqproc.{cluster.namespace}", *lying)
        pipe.rpush(f"rq:queue:rqproc.{cluster.namespace}.a", job_id, "good")
        pipe.execute()
    kit.eventually(lambda: book.count("charge", good) == 1, within_s=WITHIN_S, what="the other")
    kit.eventually(lambda: _status(book, job_id) == status, within_s=WITHIN_S, what=status)
    kit.eventually(lambda: not book.redis.exists(opened), within_s=WITHIN_S, what="it is ended")
    victim.goes_on(book, after)
    assert _status(book, job_id) == status


def _charge(id: int) -> dict[str, Any]:
    """A well-formed job, as routing.lua writes it."""
    data = json.dumps(["rqproc.request", None, [id], {"resource": "charge"}])
    return {"data": data, "rqproc_address": address("charge", id), "rqproc_deadline": "0"}


def _write(pipe: redis.Redis, job_id: bytes, fields: Written, *, incarnation: str = "") -> None:
    if isinstance(fields, str):
        pipe.set(b"rq:job:" + job_id, fields)
    elif fields is not None:
        written = {incarnation if key == OWN else key: value for key, value in fields.items()}
        pipe.hset(b"rq:job:" + job_id, mapping={"status": "queued", **written})


def _status(book: Book, job_id: bytes) -> str:
    """The status of a job; "" where there is none, or no job."""
    with contextlib.suppress(redis.ResponseError):
        return (book.redis.hget(b"rq:job:" + job_id, "status") or b"").decode()
    return ""


def _incarnation(cluster: Cluster, book: Book) -> str:
    """That of node a."""
    found = book.redis.hget(cluster.client.keys.state + "nodes", "a")
    assert found
    return found.decode()


def test_what_lies_odd_in_a_dead_nodes_queue_does_not_stop_the_cluster(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    """What a dead node leaves is placed anew by whichever function comes first."""
    doomed, _ = cluster.start("a", "b", options=kit.BRISK)
    (id,) = ids(1)
    doomed.signal(signal.SIGSTOP)
    with book.redis.pipeline() as pipe:
        _write(pipe, b"foreign", {"data": GOOD})
        _write(pipe, b"good", _charge(id))
        _push_behind_the_pop(
            pipe, f"rq:queue:rqproc.{cluster.namespace}.a", "foreign", "gone", "good"
        )
        pipe.execute()
    kit.eventually(lambda: cluster.client.members() == ("b",))
    kit.eventually(lambda: book.count("charge", id) == 1)
    kit.eventually(lambda: book.redis.hget("rq:job:foreign", "status") == b"finished")


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    "odd", [None, "x", {**OURS, "rqproc_address": "hello"}, {**OURS, "rqproc_lost": "many"}],
    ids=["no job", "no hash", "odd address", "odd losses"],
)  # fmt: skip
def test_what_is_open_at_a_dead_node_and_malformed_loses_nothing_else(
    cluster: Cluster, book: Book, ids: Fresh, odd: Written
) -> None:
    doomed, _ = cluster.start("a", "b", options=kit.BRISK)
    (id,) = ids(1)
    opened = cluster.client.keys.state + "open:" + _incarnation(cluster, book)
    doomed.signal(signal.SIGSTOP)
    with book.redis.pipeline() as pipe:
        _write(pipe, b"odd", odd)
        _write(pipe, b"good", _charge(id))
        pipe.zadd(opened, {b"odd": 1, b"good": 2})
        pipe.rpush(f"rq:queue:rqproc.{cluster.namespace}", "odd", "good")
        pipe.execute()
    kit.eventually(lambda: "a" not in _members(cluster))
    kit.eventually(lambda: book.count("charge", id) == 1, within_s=WITHIN_S)


def _push_behind_the_pop(pipe: Any, queue: str, *ids: str) -> None:
    """What a node's blocking pop takes is the node's: these lie there when it has been given
    one.
    """
    pipe.rpush(queue, "not-a-job")
    pipe.execute()
    pipe.rpush(queue, *ids)


def _members(cluster: Cluster) -> tuple[str, ...]:
    """The members; where a function fails, none that anyone could rely on."""
    with contextlib.suppress(RqprocError):
        return cluster.client.members()
    return ("a",)


def test_a_result_that_cannot_be_stored_is_lost_alone(
    victim: Victim, book: Book, ids: Fresh
) -> None:
    cluster = victim.ready()
    bad, good, after = ids(3)
    job = cluster.client.enqueue(bad, "gated")
    book.started("gated", bad)
    book.redis.set(f"rq:results:{job.id}", "not a stream")
    book.release("gated", bad)
    kit.eventually(lambda: book.count("gated", bad) == 1)
    assert cluster.client.request(good, "charge", timeout=WITHIN_S)["n"] == 1
    victim.goes_on(book, after)
