"""Names in Redis: RQ's own where they are RQ's, and ours never mistaken for another's."""

from __future__ import annotations

import subprocess
import sys

import pytest
from redis import Redis
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job
from rq.results import Result

from rqproc.errors import ConfigError
from rqproc.protocol.keys import (
    RQ_PREFIX,
    Keys,
    check_node_name,
    job_key,
    namespace_of_ingress,
    results_key,
)
from rqproc.protocol.library import PROTOCOL


def test_the_prefix_is_rqs() -> None:
    assert RQ_PREFIX == RQ_KEY_PREFIX


def test_the_prefix_follows_the_environment_as_rqs_does() -> None:
    code = "from rq.defaults import RQ_KEY_PREFIX as a; from rqproc.protocol.keys import job_key; "
    shown = subprocess.run(
        [sys.executable, "-c", code + "print(a, job_key('x'))"],
        env={"RQ_KEY_PREFIX": "my.rq", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["my.rq", "my.rq:job:x"]


def test_keys_of_jobs_results_and_queues_are_rqs() -> None:
    keys = Keys("shop")
    assert job_key("x") == Job.key_for("x")
    assert results_key("x") == Result.get_key("x")  # type: ignore[no-untyped-call]
    ingress = Queue(keys.ingress, connection=Redis())
    assert keys.ingress_queue == ingress.key
    assert keys.queue("n1") == Queue(keys.queue_name("n1"), connection=Redis()).key


def test_the_default_namespace_has_the_short_ingress() -> None:
    assert Keys().ingress == "rqproc"
    assert Keys("shop").ingress == "rqproc.shop"


@pytest.mark.parametrize("namespace", ["default", "shop", "a-b_C9", "x" * 64])
def test_an_ingress_tells_its_namespace(namespace: str) -> None:
    assert namespace_of_ingress(Keys(namespace).ingress) == namespace


@pytest.mark.parametrize("queue", ["default", "mail.fast", "rqprocs", "", "a.rqproc"])
def test_another_queue_tells_no_namespace(queue: str) -> None:
    assert namespace_of_ingress(queue) is None


def test_no_nodes_queue_is_an_ingress() -> None:
    namespaces = [Keys(name) for name in ("default", "a", "b", "a-b")]
    ingresses = {keys.ingress for keys in namespaces}
    queues = {keys.queue_name(node) for keys in namespaces for node in ("a", "b", "a.b", "default")}
    assert len(queues) == 16
    assert not ingresses & queues


@pytest.mark.parametrize("name", ["", "a.b", "a:b", "a b", "a'b", "é", "x" * 65, "a\n"])
def test_a_namespace_that_keys_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="invalid namespace"):
        Keys(name)


@pytest.mark.parametrize("name", ["", "a@b", "a:b", "a b", "a'b", "é", "x" * 65, "a\n", "a|b"])
def test_a_node_name_that_keys_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="invalid node name"):
        check_node_name(name)


@pytest.mark.parametrize("name", ["n1", "host.example-1_x", "X" * 64])
def test_a_plain_node_name_is_kept(name: str) -> None:
    assert check_node_name(name) == name


def test_keys_of_the_cluster_carry_the_namespace_and_the_protocol() -> None:
    keys = Keys("shop")
    assert keys.state == f"rqproc:shop:{PROTOCOL}:"
    assert keys.reply("rab") == f"{keys.state}reply:rab"
    assert keys.answer("rab-c0-1-r-1") == f"rqproc-answers:shop:{PROTOCOL}:rab-c0-1-r-1"
    assert keys.dropped == f"{keys.state}dropped"


def test_no_namespaces_keys_begin_as_another_ones_do() -> None:
    states = [Keys(name).state for name in ("a", "a-b", "a_b", "ab", "default", "2")]
    assert not [(x, y) for x in states for y in states if x != y and x.startswith(y)]
