"""RQ's own tests of its queues, jobs and registries, from its source distribution, where nodes are.

Beside nodes: RQ's workers and queues have theirs, on the server of three nodes. Through nodes: RQ's
default queue is the one that the nodes serve, suspended, so that what is enqueued waits there.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import pytest
from integration import kit
from ports import free_ports
from rq import Queue
from rq.job import JobStatus

from rqproc.lab.servers import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

NODES = ("n1", "n2", "n3")

FILES = (
    "callbacks", "dependencies", "executions", "group", "intermediate_queue", "job",
    "job_lifecycle", "queue", "queue_unique", "rate_limit", "registry", "repeat", "results",
    "retry",
)  # fmt: skip
"""RQ's tests that apply beside nodes. The others are about what has no part in a cluster: RQ's
command line, cron, scheduler and connections; how its workers fork, register and end, or race.
"""

THROUGH = ("group", "job", "queue", "queue_unique", "registry", "results")
"""Those that apply to a queue that nodes serve, less each that has a stock worker run a function: a
node runs its app's resources alone.
"""

ALL_QUEUES = dict.fromkeys(
    (
        "test_queue.TestQueue.test_all_custom_job",
        "test_queue.TestQueue.test_all_queues_with_only_deferred_jobs",
        "test_queue.TestQueue.test_enqueue_many_internal_pipeline",
        "test_queue.TestQueue.test_queue_delete",
        "test_queue.TestQueue.test_queue_delete_but_keep_jobs",
    ),
    "counts all queues of the server; those of nodes are there too",
)

BESIDE = {"test_queue.TestQueue.test_all_queues": "counts them too, and has a worker run jobs"}

ITS_NAME = dict.fromkeys(
    (
        "test_queue.TestQueue.test_create_default_queue",
        "test_queue.TestQueue.test_enqueue",
        "test_queue.TestUniqueJob.test_enqueue_unique_stores_job_data_correctly",
        "test_registry.TestRegistry.test_key",
        "test_registry.TestFinishedJobRegistry.test_key",
        "test_registry.TestDeferredRegistry.test_key",
    ),
    "says that the queue is called `default`",
)

ALWAYS_THERE = {
    "test_queue.TestQueue.test_enqueue_many_rejects_duplicate_job_ids": (
        "says that a queue without jobs is not in RQ's list; that of nodes is, while one lives"
    ),
}

DIFFERENT = {
    "beside": ALL_QUEUES | BESIDE,
    "through": ALL_QUEUES | ITS_NAME | ALWAYS_THERE,
}
"""Those that cannot pass, by how they are run, and why."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with RQ's tests of the version that is installed."""
    folder = tmp_path_factory.mktemp("rq")
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "rq")
    got = subprocess.run(
        (*pip, "--dest", folder, f"rq=={version('rq')}"),
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    if got.returncode:
        pytest.skip(f"no index has RQ's source: {got.stderr.strip()[-200:]}")
    (archive,) = folder.glob("rq-*.tar.gz")
    with tarfile.open(archive) as files:
        names = [name for name in files.getnames() if name.split("/")[1:2] == ["tests"]]
        files.extractall(folder, [files.getmember(name) for name in names], filter="data")
    (place,) = folder.glob("rq-*/")
    (place / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n  ssl_test\n")
    return place


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """A server with the port that RQ's tests need."""
    with ServerProcess(port=free_ports(1)[0]) as running:
        yield running


@pytest.mark.parametrize("how", ["beside", "through"])
def test_rqs_own_tests_pass_but_for_those_that_are_listed(
    how: str, suite: Path, server: ServerProcess, tmp_path: Path
) -> None:
    url = f"{server.url}?db=4"
    env = kit.environ(url, "rq", RQ_TESTS_PORT=str(server.port))
    for ours in ("RQPROC_REDIS_URL", "RQPROC_NAMESPACE", "SHOP_URL"):
        del env[ours]
    with ExitStack() as stack:
        redis = stack.enter_context(server.client())
        redis.select(4)
        if how == "through":
            env["RQ_TESTS_THROUGH"] = "1"
            redis.set("rq:suspended", 1)
        nodes = [stack.enter_context(kit.node(url, "rq", name, app=None)) for name in NODES]
        for node in nodes:
            node.ready()
        passed, failed, said = played(suite, how, env, tmp_path / "report.xml")
        assert failed == set(DIFFERENT[how]), said
        assert passed >= 200
        redis.delete("rq:suspended")
        job = Queue("rqproc.rq", connection=redis).enqueue("rqproc.request", 1)
        assert kit.ended(job) == JobStatus.FINISHED, "the nodes serve"
        assert [node.stop() for node in nodes] == [0] * 3
        assert not any("Traceback" in node.stderr for node in nodes)


def played(suite: Path, how: str, env: dict[str, str], report: Path) -> tuple[int, set[str], str]:
    """Run the tests that apply; return how many passed, which failed, and what was said last."""
    files = [f"tests/test_{name}.py" for name in (THROUGH if how == "through" else FILES)]
    pytest_ = (sys.executable, "-m", "pytest", "-q", "-p", "rq_suite", "-p", "no:cacheprovider")
    options = ("--tb=short", "-W", "ignore", f"--junitxml={report}", *files)
    done = subprocess.run(
        (*pytest_, *options), cwd=suite, env=env, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    outcomes = {
        f"{case.get('classname')}.{case.get('name')}".removeprefix("tests."): [
            found.tag for found in case if found.tag in ("failure", "error", "skipped")
        ]
        for case in ET.parse(report).iter("testcase")
    }
    failed = {name for name, found in outcomes.items() if set(found) & {"failure", "error"}}
    return sum(not found for found in outcomes.values()), failed, done.stdout[-3000:]
