"""`rqproc doctor` and clusters, each broken in one way."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import redis
from integration import kit
from integration.doctoring import Doctor, run_doctor
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Running
from rq import Queue

from rqproc.calls.functions import connector
from rqproc.lab.servers import ServerProcess
from rqproc.monitor.doctor import CHECKS
from rqproc.protocol.keys import Keys
from rqproc.protocol.library import build

APP = """
from rqproc import App

app = App()


@app.resource(ttl=5)
def one(id):
    return {value}
"""


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], cluster: Cluster) -> Doctor:
    return partial(run_doctor, capsys, cluster.url, namespace=cluster.namespace)


@pytest.fixture
def raw(cluster: Cluster) -> Iterator[redis.Redis]:
    with connector(cluster.url).client() as client:
        yield client


@pytest.fixture
def keys(cluster: Cluster) -> Keys:
    return Keys(cluster.namespace)


def test_nothing_is_wrong_with_a_cluster_as_it_should_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        ServerProcess(keeps=True) as server,
        kit.node(server.url, "well", "n1", *kit.PATIENT, app=None) as one,
        kit.node(server.url, "well", "n2", *kit.PATIENT, app=None) as two,
    ):
        with server.client() as admin:  # any command is slow while the machine is busy
            admin.config_set("slowlog-log-slower-than", -1)
            admin.slowlog_reset()
        one.ready(), two.ready()
        found = run_doctor(capsys, server.url, namespace="well")
    assert found.code == 0, found.findings
    assert {finding.check for finding in found.findings} == set(CHECKS)
    assert found.only("nodes", "ok") == "2 members: n1, n2"


def test_a_namespace_without_nodes_is_told_with_those_that_there_are(
    cluster: Cluster, raw: redis.Redis, doctor: Doctor
) -> None:
    raw.set("rqproc:elsewhere:2:epoch", 1)
    try:
        found = doctor()
    finally:
        raw.delete("rqproc:elsewhere:2:epoch")
    assert f"no node serves the namespace {cluster.namespace}" in found.only("nodes", "warning")
    assert "elsewhere" in found.only("keys", "warning")


def test_functions_of_another_build_are_told(doctor: Doctor, raw: redis.Redis) -> None:
    raw.execute_command(*build(time="local function server_time() return 0, 0 end").load)
    try:
        assert "are another build" in doctor().only("functions", "warning")
    finally:
        raw.execute_command(*build().load)
    doctor().only("functions", "ok")


def test_a_node_that_is_late_with_its_heartbeat_is_named(cluster: Cluster, doctor: Doctor) -> None:
    late, _ = cluster.start("a", "b", options=("--lease", "10", "--heartbeat", "0.2"))
    doctor().only("nodes", "ok")
    late.signal(signal.SIGSTOP)
    kit.eventually(lambda: len(doctor().of("nodes")) == 2, every_s=0.5)
    assert "no heartbeat for a while: a (has" in doctor().worse("nodes", "warning")


def test_nodes_of_different_settings_are_told(cluster: Cluster, doctor: Doctor) -> None:
    cluster.start("a")
    cluster.start("b", options=(*kit.PATIENT, "--concurrency", "3"))
    said = doctor().only("settings", "warning")
    assert said == "nodes differ in --concurrency: 32 at a; 3 at b"


def test_nodes_of_different_code_are_told(cluster: Cluster, doctor: Doctor, tmp_path: Path) -> None:
    def node(name: str, value: int) -> Running:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.py").write_text(APP.format(value=value))
        options = (*kit.PATIENT, "--concurrency", "4")
        return kit.node(cluster.url, cluster.namespace, name, *options, app="mine:app", cwd=folder)

    with node("a", 1) as a, node("b", 1) as b:
        a.ready(), b.ready()
        doctor().only("settings", "ok")
        with node("c", 2) as c:
            c.ready()
            assert "nodes differ in the app's code: " in doctor().only("settings", "warning")


def test_stuck_handlers_are_a_fault(
    cluster: Cluster, book: Book, ids: Fresh, doctor: Doctor
) -> None:
    (node,) = cluster.start("a")
    (id,) = ids(1)
    cluster.client.enqueue(id, "overlong")
    kit.eventually(lambda: cluster.client.membership().nodes[0].stuck)
    found = doctor()
    assert found.code == 2
    assert found.only("stuck", "fault").startswith("a has 1 handlers that run past their timeout")
    book.release("overlong", id)
    assert f"pid {node.pid}" in found.of("stuck")[0].advice


def test_ids_that_nodes_die_on_are_a_fault(
    cluster: Cluster, book: Book, ids: Fresh, doctor: Doctor
) -> None:
    (id,) = ids(1)
    cluster.client.enqueue(id, "gated")
    for name in ("a", "b", "c"):
        (node,) = cluster.start(name, options=kit.BRISK)
        book.started("gated", id)
        node.kill()
        kit.eventually(lambda: cluster.client.membership().nodes == ())
    assert doctor().only("stuck", "fault").endswith(f"died on: gated:{id}")


def test_a_server_that_settles_is_told(doctor: Doctor, raw: redis.Redis, keys: Keys) -> None:
    raw.set(f"{keys.state}settling", "1 known", ex=60)
    assert "has restarted" in doctor().only("stuck", "warning")


def test_jobs_of_others_in_a_nodes_queue_are_named(
    cluster: Cluster, doctor: Doctor, raw: redis.Redis, keys: Keys
) -> None:
    (node,) = cluster.start("a", options=("--lease", "30"))
    node.signal(signal.SIGSTOP)
    own = cluster.client.enqueue(1, "echo")
    doctor().only("queues", "ok")
    job = Queue(keys.queue_name("a"), connection=raw).enqueue("time.sleep", 1)
    said = doctor().only("queues", "warning")
    assert said.endswith(f"has not put there: {job.id}")
    assert own.id not in said


def test_a_queue_that_is_nearly_full_is_told(cluster: Cluster, doctor: Doctor) -> None:
    (node,) = cluster.start("a", options=("--lease", "30", "--max-queue", "5"))
    node.signal(signal.SIGSTOP)
    ids = count()
    while cluster.client.membership().nodes[0].queued < 4:  # one may be on its way to the node
        cluster.client.enqueue(next(ids), "echo")
    assert "4 of 5 requests wait for a" in doctor().only("queues", "warning")


def test_a_suspended_rq_is_told(doctor: Doctor, raw: redis.Redis) -> None:
    raw.set("rq:suspended", 1)
    try:
        assert "RQ is suspended" in doctor().only("queues", "warning")
    finally:
        raw.delete("rq:suspended")


def test_a_stock_worker_on_a_nodes_queue_is_a_fault(
    cluster: Cluster, doctor: Doctor, keys: Keys
) -> None:
    (node,) = cluster.start("a", options=("--lease", "30"))
    doctor().only("workers", "ok")
    node.signal(signal.SIGSTOP)
    command = (kit.sys.executable, "-m", "rq.cli", "worker", keys.queue_name("a"))
    options = ("--name", "stranger", "--url", cluster.url)
    with kit.Running((*command, *options), env=kit.environ(cluster.url, cluster.namespace)):
        kit.eventually(lambda: doctor().of("workers")[0].level == "fault", every_s=0.2)
        assert doctor().only("workers", "fault").endswith("the queue of a: stranger")


def test_what_nodes_that_are_gone_have_left_is_named(
    cluster: Cluster, doctor: Doctor, raw: redis.Redis, keys: Keys
) -> None:
    cluster.start("a")
    cluster.client.request(1, "echo")
    doctor().only("keys", "ok")
    raw.hset(f"{keys.state}node:gone", "inc", "gone#7")
    raw.zadd(f"{keys.state}open:gone#7", {"r1-c1-1-echo-1": 1})
    raw.hset(f"{keys.state}claims:gone#7", "r1-c1-1-echo-1", "1 1-echo-1")
    raw.rpush(keys.queue("gone"), "r1-c1-1-echo-1")
    raw.hset(f"{keys.state}holders", "1-echo-1", "gone#7 1")
    raw.set(f"rqproc:{keys.namespace}:1:epoch", 1)
    texts = [finding.text for finding in doctor().of("keys")]
    assert len(texts) == 3
    for key in ("node:gone", "open:gone#7", "claims:gone#7"):
        assert f"{keys.state}{key}" in texts[0]
    assert keys.queue("gone") in texts[0]
    assert texts[1].endswith("which are gone: 1-echo-1")
    assert texts[2].endswith(f"another protocol: rqproc:{keys.namespace}:1:epoch")
