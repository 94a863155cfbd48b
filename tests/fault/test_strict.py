"""``--strict``: a process does not outlive its lease in a handler."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

from fault.proxy import CuttingProxy
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book

from rqproc.lab.servers import ServerProcess
from rqproc.protocol.library import library

ENDED = (1, -signal.SIGSEGV)
"""The watchdog reads the stacks of threads that run, which may crash: an end, too."""

STRICT = (*kit.BRISK, "--strict")


def _partition(proxy: CuttingProxy, namespace: str) -> None:
    """Its heartbeats do not arrive any more, and it cannot know why."""
    names = [
        library().function(name).encode() for name in ("beat", "join", "answer", "claim", "settle")
    ]
    proxy.swallow = lambda chunk: any(name in chunk for name in names)


def test_a_node_cut_off_in_a_handler_ends_before_its_lease_does(
    cluster: Cluster, shop_server: ServerProcess, book: Book, ids: Fresh
) -> None:
    with CuttingProxy(shop_server.url) as proxy, ThreadPoolExecutor(1) as pool:
        (node,) = cluster.start("a", options=STRICT, url=proxy.address)
        (id,) = ids(1)
        asked = pool.submit(cluster.client.request, id, "gated", args=("first",), timeout=40)
        book.started("gated", id)
        _partition(proxy, cluster.namespace)
        leases = f"rqproc:{cluster.namespace}:2:leases"
        assert node.wait() in ENDED
        assert book.redis.zcard(leases) == 1, "the cluster has not given it up yet"
        assert "Timeout" in node.stderr or "strict" in node.stderr
        cluster.start("b", options=(*kit.PATIENT, "--strict"))
        book.started("gated", id)
        book.release("gated", id, on="b")
        assert asked.result()["node"] == "b"


def test_a_node_cut_off_without_a_handler_goes_on_living(
    cluster: Cluster, shop_server: ServerProcess, ids: Fresh
) -> None:
    with CuttingProxy(shop_server.url) as proxy:
        (node,) = cluster.start("a", options=STRICT, url=proxy.address)
        cluster.client.request(ids(1)[0], "charge")
        _partition(proxy, cluster.namespace)
        kit.eventually(lambda: cluster.client.members() == (), within_s=5)
        assert node.process.poll() is None
        proxy.swallow = lambda _: False
        kit.eventually(lambda: cluster.client.members() == ("a",), within_s=8)


def test_a_handler_that_goes_on_after_a_long_pause_takes_its_process_with_it(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=STRICT)
    (id,) = ids(1)
    cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    node.signal(signal.SIGSTOP)
    kit.eventually(lambda: cluster.client.members() == (), within_s=5)
    node.signal(signal.SIGCONT)
    assert node.wait() in ENDED
    assert [what for what, _, _ in book.log("gated", id)] == ["start"]


def test_without_strict_it_is_left_to_its_end(cluster: Cluster, book: Book, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=kit.BRISK)
    (id,) = ids(1)
    cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    node.signal(signal.SIGSTOP)
    kit.eventually(lambda: cluster.client.members() == (), within_s=5)
    node.signal(signal.SIGCONT)
    kit.eventually(lambda: cluster.client.members() == ("a",), within_s=5)
    kit.eventually(lambda: cluster.client.locate([id], "gated")[0].holder == "a")
    assert not book.has_started("gated", id), "not beside itself"
    book.release("gated", id, times=2)
    book.started("gated", id)
    kit.eventually(lambda: len(book.log("gated", id)) == 4)
    assert kit.overlapping(book.log("gated", id)) == []
    assert node.process.poll() is None


def test_a_stopped_child_is_killed_by_its_strict_supervisor(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    options = ("--count", "2", "--lease", "30", "--strict")
    with kit.node(cluster.url, cluster.namespace, "w", *options) as supervisor:
        kit.eventually(lambda: len(cluster.client.members()) == 2)
        (pid,) = (n.pid for n in cluster.client.membership().nodes if n.name == "w-1")
        os.kill(pid, signal.SIGSTOP)
        supervisor.says(rf"w-1 \(pid {pid}\) is stopped: killing it")
        kit.eventually(lambda: _pid(cluster, "w-1") not in (pid, None))
        assert cluster.client.request(ids(1)[0], "charge")["n"] == 1
        assert supervisor.stop() == 0


def _pid(cluster: Cluster, name: str) -> int | None:
    return next((n.pid for n in cluster.client.membership().nodes if n.name == name), None)


def test_the_watchdog_fires_while_a_handler_holds_the_interpreter(
    cluster: Cluster, shop_server: ServerProcess, tmp_path: object
) -> None:
    """C code that does not let go of the GIL: no thread of Python's runs, the timer does."""
    text = (
        "import re; from rqproc import App\n"
        "app = App()\n"
        "@app.resource(ttl=0)\n"
        "def stall(id): return bool(re.match('(a?){40}a{40}$', 'a' * 40 + 'b' * 4))\n"
    )
    assert isinstance(tmp_path, os.PathLike)
    with open(os.path.join(tmp_path, "stall_app.py"), "w") as file:  # noqa: PTH118, PTH123
        file.write(text)
    with kit.node(
        cluster.url, cluster.namespace, "a", *STRICT, app="stall_app:app", cwd=tmp_path
    ) as node:
        node.ready()
        cluster.client.enqueue(1, "stall")
        assert node.wait() in ENDED
        assert "stall_app.py" in node.stderr, "its stack is told"


def test_a_node_that_is_given_up_by_mistake_does_not_run_on_beside_its_successor(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    """Its lease is lost by a word, not by time: it joins anew only without what it ran."""
    (node,) = cluster.start("a", options=("--lease", "20", "--heartbeat", "0.2", "--strict"))
    (id,) = ids(1)
    cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    (info,) = cluster.client.membership().nodes
    assert cluster.client.report_death("a", pid=info.pid, host=info.host)
    assert node.wait() in ENDED
    assert "strict: a handler still runs" in node.stderr
