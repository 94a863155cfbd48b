"""`rqproc node start --count N`: what a supervisor does for its nodes, and they without it."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Running
from ports import free_ports
from rq.job import JobStatus
from watch import Watch

pytestmark = pytest.mark.slow

LONG = ("--lease", "30", "--heartbeat", "0.3")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _pids(cluster: Cluster) -> dict[str, int]:
    return {node.name: node.pid for node in cluster.client.membership().nodes}


@pytest.fixture
def pair(cluster: Cluster) -> Iterator[Running]:
    """A supervisor of w-1 and w-2, with leases so long that nobody waits for one to run out."""
    with kit.node(cluster.url, cluster.namespace, "w", "--count", "2", *LONG) as supervisor:
        pids = []
        try:
            kit.eventually(lambda: cluster.client.members() == ("w-1", "w-2"))
            pids = list(_pids(cluster).values())
            yield supervisor
        finally:
            supervisor.stop()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_a_child_that_ends_in_peace_but_has_not_left_is_started_anew_too(
    cluster: Cluster, book: Book, ids: Fresh, pair: Running
) -> None:
    (id,) = ids(1, of=0, modulo=2)
    before = _pids(cluster)
    cluster.client.enqueue(id, "die", args=(0,))
    book.started("die", id)
    pair.says(r"w-1 \(pid \d+\) died: exit code 0")
    kit.eventually(lambda: _pids(cluster).get("w-1", before["w-1"]) != before["w-1"])


def test_a_killed_child_is_reported_at_once_and_started_anew(
    cluster: Cluster, book: Book, ids: Fresh, pair: Running
) -> None:
    (id,) = ids(1, of=0, modulo=2)
    victim = _pids(cluster)["w-1"]
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(cluster.client.reply, id, "gated")
        book.started("gated", id)
        watch = Watch()
        os.kill(victim, signal.SIGKILL)
        book.started("gated", id)
        assert watch.stop() < 10, "the lease is 30 s"
        book.release("gated", id)
        assert held.result().value["n"] == 1
    pair.says(rf"w-1 \(pid {victim}\) died: SIGKILL; starting it anew")
    kit.eventually(lambda: cluster.client.members() == ("w-1", "w-2"))
    assert _pids(cluster)["w-1"] != victim


def test_sigterm_drains_every_child(
    cluster: Cluster, book: Book, ids: Fresh, pair: Running
) -> None:
    one, two = ids(2)
    jobs = [cluster.client.enqueue(id, "gated") for id in (one, two)]
    for id in (one, two):
        book.started("gated", id)
    pair.signal(signal.SIGTERM)
    kit.eventually(lambda: cluster.client.members() == ())
    for id in (one, two):
        book.release("gated", id)
    assert pair.wait() == 0
    assert [job.get_status() for job in jobs] == ["finished", "finished"]
    assert cluster.client.membership().nodes == ()


def test_children_without_their_supervisor_drain_and_end(
    cluster: Cluster, book: Book, ids: Fresh, pair: Running
) -> None:
    (id,) = ids(1)
    job = cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    pids = _pids(cluster).values()
    pair.kill()
    kit.eventually(lambda: cluster.client.members() == ())
    book.release("gated", id)
    assert kit.ended(job) == JobStatus.FINISHED
    kit.eventually(lambda: not any(_alive(pid) for pid in pids), what="the children's end")


def test_a_child_that_dies_again_and_again_does_not_delay_the_report_of_another(
    cluster: Cluster, book: Book, ids: Fresh, pair: Running
) -> None:
    def kill(name: str) -> None:
        pid = kit.eventually(lambda: _pids(cluster).get(name))
        os.kill(pid, signal.SIGKILL)
        kit.eventually(lambda: _pids(cluster).get(name) != pid)

    for _ in range(5):  # pauses of 0.1, 0.2, 0.4, 0.8 s; the last, of 1.6 s, goes on below
        kill("w-1")
    other = _pids(cluster)["w-2"]
    watch = Watch()
    os.kill(other, signal.SIGKILL)
    kit.eventually(lambda: _pids(cluster).get("w-2") != other)
    assert watch.stop() < 1.2


def test_a_child_whose_name_is_still_taken_waits_for_it(cluster: Cluster) -> None:
    """As after a death that could not be reported: the dead one's lease is still there."""
    (other,) = cluster.start("w-1", options=("--lease", "1.5", "--heartbeat", "0.2"))
    with kit.node(cluster.url, cluster.namespace, "w", "--count", "2", *LONG) as supervisor:
        kit.eventually(lambda: "w-2" in cluster.client.members())
        other.kill()
        kit.eventually(lambda: {"w-1": other.pid, **_pids(cluster)}["w-1"] != other.pid)
        assert cluster.client.members() == ("w-1", "w-2")
        assert supervisor.stop() == 0


def test_a_supervisor_whose_app_is_wrong_ends(cluster: Cluster) -> None:
    with kit.node(
        cluster.url, cluster.namespace, "w", "--count", "2", app="nothing_here:app"
    ) as supervisor:
        assert supervisor.wait() == 2
    assert "cannot import" in supervisor.stderr


def test_each_child_has_a_metrics_port_of_its_own(cluster: Cluster) -> None:
    pytest.importorskip("prometheus_client")
    port, second = free_ports(2)
    options = ("--count", "2", "--metrics-port", str(port), "--metrics-host", "127.0.0.1")
    with kit.node(cluster.url, cluster.namespace, "w", *options) as supervisor:
        kit.eventually(lambda: cluster.client.members() == ("w-1", "w-2"))
        for number in (port, second):
            socket.create_connection(("127.0.0.1", number), timeout=5).close()
            if sys.platform == "linux":  # where the machine has a second address of its own
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.2", number), timeout=5)
        assert supervisor.stop() == 0


def _marked(mark: str) -> list[int]:
    """Processes that have inherited a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_count_from_the_environment_is_the_supervisors_alone(cluster: Cluster) -> None:
    mark = token_hex(8)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans come to us, not to init
    with kit.node(
        cluster.url, cluster.namespace, "w", RQPROC_NODE_START_COUNT="2", MARK=mark
    ) as supervisor:
        try:
            kit.eventually(lambda: cluster.client.members() or len(_marked(mark)) > 3)

            def names() -> tuple[str, ...]:
                running = len(_marked(mark))
                if running > 3:
                    return ("too many",)
                return cluster.client.members() if running == 3 else ()

            assert set(kit.eventually(names)) <= {"w-1", "w-2"}
            assert supervisor.stop() == 0
        finally:
            _end_all(mark)


def _end_all(mark: str) -> None:
    """End processes that may be starting others as fast as they are ended."""
    while left := _marked(mark):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


def test_the_names_of_children_can_be_told_from_their_host(cluster: Cluster) -> None:
    command = (*kit.RQPROC, "node", "start", "--count", "2")
    with kit.Running(command, env=kit.environ(cluster.url, cluster.namespace)) as supervisor:
        kit.eventually(lambda: len(cluster.client.members()) == 2)
        host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:48]
        assert cluster.client.members() == (f"{host}-1", f"{host}-2")
        assert supervisor.stop() == 0


def test_a_group_that_is_signalled_whole_finishes_what_it_holds(
    cluster: Cluster, book: Book, ids: Fresh, pair: Running
) -> None:
    """A manager signals supervisor and children, and the supervisor its children once more."""
    one, two = ids(2)
    jobs = [cluster.client.enqueue(id, "gated") for id in (one, two)]
    for id in (one, two):
        book.started("gated", id)
    for pid in [*_pids(cluster).values(), pair.pid]:
        os.kill(pid, signal.SIGTERM)
    kit.eventually(lambda: cluster.client.members() == ())
    for id in (one, two):
        book.release("gated", id)
    assert pair.wait() == 0
    assert [job.get_status() for job in jobs] == ["finished", "finished"]


def _supervisor(cluster: Cluster, tmp_path: Path, name: str, app: str) -> Running:
    """A supervisor of two in a folder that has an app."""
    (tmp_path / "found.py").write_text(app)
    # As the script `rqproc`, and unlike `python -m`: the folder is not the first of the path.
    command = (sys.executable, "-P", "-m", "rqproc", "node", "start", "found:app")
    environ = kit.environ(cluster.url, cluster.namespace)
    return Running((*command, "--name", name, "--count", "2"), env=environ, cwd=tmp_path)


APP = "from rqproc import App\n\napp = App()\n"


def test_a_name_that_no_child_can_have_is_refused_at_once(cluster: Cluster, tmp_path: Path) -> None:
    with _supervisor(cluster, tmp_path, "a b", APP) as supervisor:
        assert supervisor.wait() == 2
    assert "invalid node name 'a b-1'" in supervisor.stderr


def test_a_module_named_as_one_of_pythons_stands_beside_the_app(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "queue.py").write_text("raise AssertionError('this is the app's own')\n")
    with _supervisor(cluster, tmp_path, "w", APP) as supervisor:
        kit.eventually(lambda: cluster.client.members() == ("w-1", "w-2"))
        assert supervisor.stop() == 0


def test_a_child_that_cannot_start_ends_its_supervisor_with_its_code(
    cluster: Cluster, tmp_path: Path
) -> None:
    breaks = "import os, sys\n\nif '--parent' in sys.argv:\n    os._exit(7)\n"
    with _supervisor(cluster, tmp_path, "w", APP + breaks) as supervisor:
        assert supervisor.wait(within_s=55) == 7
    said = r"w-[12] cannot start: exit code 7, 3 times in a row"
    assert re.search(said, supervisor.stderr), "whichever was the first"
