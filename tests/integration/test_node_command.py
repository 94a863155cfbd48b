"""`rqproc node`: start, refuse to start, log, drain, check, leave."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Line
from ports import free_ports
from rq.job import JobStatus

from rqproc.cli.apps import load_app
from rqproc.errors import ConfigError


def test_a_node_says_when_it_is_ready_and_where(cluster: Cluster) -> None:
    (node,) = cluster.start("web-1")
    (line,) = [line for line in node.lines if "ready" in line]
    epoch = cluster.client.membership().epoch
    assert line == f"node web-1 ready (epoch {epoch}, server {cluster.url})\n"
    assert node.stop() == 0
    assert node.stdout == ""
    assert cluster.client.members() == ()


def test_nodes_without_a_name_take_the_first_that_is_free(cluster: Cluster) -> None:
    command = (*kit.RQPROC, "node", "start")
    env = kit.environ(cluster.url, cluster.namespace)
    with kit.Running(command, env=env) as one, kit.Running(command, env=env) as other:
        one.ready()
        other.ready()
        host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:48]
        assert cluster.client.members() == (f"{host}-1", f"{host}-2")


def test_a_second_node_of_a_name_is_refused_while_the_first_lives(cluster: Cluster) -> None:
    (first,) = cluster.start("a", options=kit.BRISK)
    incarnation = cluster.client.membership().nodes[0].incarnation
    with kit.node(cluster.url, cluster.namespace, "a") as second:
        assert second.wait() == 2
        assert "a node named 'a' is alive" in second.stderr
        assert "Traceback" not in second.stderr
    assert cluster.client.membership().nodes[0].incarnation == incarnation
    first.kill()
    (heir,) = cluster.start("a", options=kit.BRISK)
    assert "waiting for its lease to run out" in heir.stderr


BAD_APPS = {
    "syntax.py": "def (",
    "raises.py": "raise RuntimeError('no database')",
    "imports.py": "import nothing_of_that_name",
    "noapp.py": "app = 1",
    "exits.py": "import sys; sys.exit('gone')",
    "bad_ttl.py": "from rqproc import App\napp = App()\n@app.resource(ttl=-1)\ndef a(id): ...",
    "bad_args.py": "from rqproc import App\napp = App()\n@app.resource(ttl=1)\ndef a(id, b): ...",
    "twice.py": "from rqproc import App\napp = App()\n@app.resource(ttl=1)\ndef a(id): ...\n"
    "@app.resource(ttl=1, name='a')\ndef b(id): ...",
}


@pytest.fixture
def bad_apps(tmp_path: Path) -> Path:
    for name, text in BAD_APPS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("nothing_here:app", "cannot import 'nothing_here'"),
        ("noapp:app", "not a rqproc.App"),
        ("raises:app", "no database"),
        ("exits:app", "gone"),
    ],
)
def test_a_node_whose_app_cannot_be_had_does_not_join(
    cluster: Cluster, bad_apps: Path, app: str, says: str
) -> None:
    with kit.node(cluster.url, cluster.namespace, "a", app=app, cwd=bad_apps) as node:
        assert node.wait() == 2
    assert says in node.stderr
    assert "Traceback" not in node.stderr
    assert cluster.client.membership().epoch == 0


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("noapp", "give MODULE:APP"),
        (":app", "give MODULE:APP"),
        ("noapp:", "give MODULE:APP"),
        ("noapp:nothing", "not a rqproc.App"),
        ("noapp:app:more", "not a rqproc.App"),
        ("..noapp:app", "noapp"),
        ("syntax:app", "SyntaxError"),
        ("imports:app", "nothing_of_that_name"),
        ("bad_ttl:app", "invalid ttl"),
        ("bad_args:app", "must take an id"),
        ("twice:app", "has a resource 'a' already"),
    ],
)
def test_every_other_wrong_app_is_told_as_a_wrong_setting(
    bad_apps: Path, monkeypatch: pytest.MonkeyPatch, app: str, says: str
) -> None:
    monkeypatch.syspath_prepend(bad_apps)
    with pytest.raises(ConfigError, match=re.escape(says)):
        load_app(app)


def _logged(lines: list[str], what: str) -> list[str]:
    return [line for line in lines if what in line]


def test_a_node_logs_what_it_does_with_the_default_resource_only(
    cluster: Cluster, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=())
    id, other, last = ids(3)
    cluster.client.request(other, "price")
    cluster.client.request(id)
    cluster.client.request(id)
    value = cluster.client.request(last)["value"]
    node.says(rf"a demo {last}: computed .*\"value\":{value}")
    assert len(_logged(node.lines, f"a demo {id}: computed")) == 1
    assert len(_logged(node.lines, f"a demo {id}: answered from its entry")) == 1
    assert _logged(node.lines, "price") == []


def test_debug_shows_the_other_resources_too(cluster: Cluster, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=("--log-level", "debug"))
    (id,) = ids(1)
    cluster.client.request(id, "price")
    cluster.client.request(id, "price")
    node.says(rf"a price {id}: computed")
    node.says(rf"a price {id}: answered from its entry")


def test_warning_shows_neither(cluster: Cluster, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=("--log-level", "warning"))
    cluster.client.request(ids(1)[0])
    assert node.stop() == 0
    assert _logged(node.lines, "computed") == []


def test_json_logs_are_one_object_a_line(cluster: Cluster, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=("--json-logs",))
    (id,) = ids(1)
    cluster.client.request(id)
    node.says(f"a demo {id}: computed")
    node.stop()
    logged = [json.loads(line) for line in node.lines if line.startswith("{")]
    (line,) = [entry for entry in logged if f"demo {id}" in entry["message"]]
    assert (line["level"], line["logger"]) == ("info", "rqproc.node")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", line["time"])


def test_with_json_logs_every_line_is_json(cluster: Cluster) -> None:
    (node,) = cluster.start("a", options=("--json-logs",))
    node.stop()
    assert [line for line in node.lines if not line.startswith("{")] == []


def _metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.partition(" ") for line in lines if line[:1] != "#")
    }


def test_metrics_count_what_the_node_did(cluster: Cluster, ids: Fresh) -> None:
    pytest.importorskip("prometheus_client")
    (port,) = free_ports(1)
    cluster.start("a", options=("--metrics-port", str(port)))
    kit.settle(cluster.client)
    one, other = ids(2)
    for id in (one, one, other):
        cluster.client.request(id, "price")
    cluster.client.request_many([one], "explode", return_exceptions=True)
    kit.eventually(lambda: _metrics(port)["rq_workers_failed_total"] == 1, every_s=0.05)
    found = _metrics(port)
    assert found["rqproc_hits_total"] == 1
    assert found["rqproc_misses_total"] == 3
    assert found["rqproc_entries"] == 2
    assert found["rq_workers_success_total"] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second address of the machine's own")
def test_metrics_are_served_at_one_path_and_at_the_addresses_asked_for(cluster: Cluster) -> None:
    pytest.importorskip("prometheus_client")
    everywhere, here = free_ports(2)
    cluster.start("a", options=("--metrics-port", str(everywhere)))
    cluster.start("b", options=("--metrics-port", str(here), "--metrics-host", "127.0.0.1"))
    for address in (f"127.0.0.1:{everywhere}", f"127.0.0.2:{everywhere}", f"127.0.0.1:{here}"):
        with urllib.request.urlopen(f"http://{address}/metrics?name[]=x", timeout=5) as answer:
            assert answer.status == 200
        for path in ("/", "/metrics/", "/metricsx", "/favicon.ico", "/admin"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://{address}{path}", timeout=5)
            assert refused.value.code == 404
            refused.value.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", here), timeout=5)


def test_a_metrics_host_that_is_not_this_machines_is_told(cluster: Cluster) -> None:
    pytest.importorskip("prometheus_client")
    for host in ("192.0.2.1", "no.such.host.invalid"):
        options = ("--metrics-port", str(*free_ports(1)), "--metrics-host", host)
        with kit.node(cluster.url, cluster.namespace, "a", *options) as node:
            assert node.wait() == 2
        assert host in node.stderr
        assert "Traceback" not in node.stderr


def test_a_metrics_port_that_is_taken_is_told_and_nobody_joins(cluster: Cluster) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        with kit.node(cluster.url, cluster.namespace, "a", "--metrics-port", port) as node:
            assert node.wait() == 2
    assert f"--metrics-port {port}" in node.stderr
    assert "Traceback" not in node.stderr
    assert cluster.client.membership().epoch == 0


def test_a_drained_node_finishes_what_it_holds_and_ends(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    node, _ = cluster.start("a", "b")
    (id,) = ids(1, of=0, modulo=2)
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(cluster.client.reply, id, "gated")
        book.started("gated", id)
        drain = pool.submit(kit.finished, cluster.url, cluster.namespace, "node", "drain", "a")
        kit.eventually(lambda: cluster.client.members() == ("b",))
        (draining, _) = cluster.client.membership().nodes
        assert (draining.name, draining.state, draining.held) == ("a", "draining", 1)
        assert cluster.client.owner(id) == "b"
        book.release("gated", id)
        assert held.result().node == "a"
        assert drain.result().returncode == 0
        assert "a has left" in drain.result().stderr
    assert node.wait() == 0
    assert cluster.client.reply(id, "charge").node == "b"


def test_requests_of_a_held_id_stay_with_the_draining_holder_or_wait_for_it(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    node, _ = cluster.start("a", "b")
    (id,) = ids(1, of=0, modulo=2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cluster.client.reply, id, "gated", args=("first",))
        book.started("gated", id)
        node.signal(signal.SIGTERM)
        kit.eventually(lambda: cluster.client.members() == ("b",))
        second = pool.submit(cluster.client.reply, id, "gated", args=("second",))
        kit.eventually(lambda: sum(n.queued for n in cluster.client.membership().nodes) == 1)
        assert not book.has_started("gated", id)
        book.release("gated", id, times=2)
        assert first.result().node == "a"
        assert second.result().node == "b"
    assert node.wait() == 0
    assert kit.overlapping(book.log("gated", id)) == []


def test_draining_without_waiting_returns_at_once(
    cluster: Cluster, line: Line, book: Book, ids: Fresh
) -> None:
    (node,) = cluster.start("a")
    (id,) = ids(1)
    job = cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    here = ("--namespace", cluster.namespace, "node")
    assert line(*here, "drain", "a", "--no-wait")[0] == 0
    code, _, err = line(*here, "drain", "a", "-t", "0.3")
    assert (code, "still holds" in err) == (4, True)
    assert line(*here, "check", "a") == (3, "", "error: a is draining\n")
    book.release("gated", id)
    assert kit.ended(job) == JobStatus.FINISHED
    assert node.wait() == 0


def test_a_second_signal_stops_at_once_and_another_node_runs_what_was_held(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    node, _ = cluster.start("a", "b", options=("--lease", "1.5", "--heartbeat", "0.2"))
    (id,) = ids(1, of=0, modulo=2)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(cluster.client.reply, id, "gated")
        book.started("gated", id)
        node.signal(signal.SIGINT)
        node.says("once more to stop at once")
        node.signal(signal.SIGINT)
        assert node.wait() == 1
        book.started("gated", id)
        book.release("gated", id)
        assert held.result().node == "b"


def test_check_is_a_probe(line: Line) -> None:
    assert line("node", "check") == (0, "3 live: n1, n2, n3\n", "")
    assert line("node", "check", "n2") == (0, "n2 is a live member\n", "")


def test_a_node_whose_log_nobody_reads_any_more_drains_all_the_same(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    """As after Ctrl-C in `rqproc node start 2>&1 | tee log`: tee has gone by then."""
    cluster.start("b")
    env = kit.environ(cluster.url, cluster.namespace)
    command = (*kit.RQPROC, "node", "start", "--name", "a", "shop:app")
    (id,) = ids(1, of=0, modulo=2)
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as node:
        try:
            assert node.stderr
            node.stderr.readline()
            job = cluster.client.enqueue(id, "gated")
            book.started("gated", id)
            node.stderr.close()
            node.send_signal(signal.SIGTERM)
            kit.eventually(lambda: cluster.client.members() == ("b",))
            book.release("gated", id, times=2)
            assert kit.ended(job) == JobStatus.FINISHED
            assert node.wait(10) == 0
        finally:
            node.kill()
    assert [where for _, _, where in book.log("gated", id)] == ["a", "a"]


def test_a_handler_asks_the_server_that_its_node_was_given(cluster: Cluster, ids: Fresh) -> None:
    env = kit.environ(cluster.url, cluster.namespace)
    wrong = {**env, "RQPROC_REDIS_URL": "", "REDIS_URL": "redis://127.0.0.1:1"}
    options = ("--url", cluster.url, "--namespace", cluster.namespace)
    command = (*kit.RQPROC, *options, "node", "start", "--name", "a", "shop:app")
    with kit.Running(command, env=wrong) as node:
        node.ready()
        (id,) = ids(1)
        assert cluster.client.request(id, "nested")["n"] == 1


def test_a_node_that_has_left_leaves_no_keys(cluster: Cluster, book: Book, ids: Fresh) -> None:
    (node,) = cluster.start("a")
    cluster.client.request_many(ids(5), "charge")
    cluster.client.close()
    assert node.stop() == 0
    left = {key.decode() for key in book.redis.scan_iter(f"*{cluster.namespace}*")}
    assert left <= {
        f"rqproc:{cluster.namespace}:2:{name}" for name in ("epoch", "token", "pulse", "server")
    }


def test_the_demo_resource_is_served_beside_an_app_and_without_one(cluster: Cluster) -> None:
    cluster.start("a", app=None)
    value = cluster.client.request(1)
    assert list(value) == ["value", "node"]
    assert 1 <= value["value"] <= 1000
    assert value["node"] == "a"
    reply = cluster.client.reply(1)
    assert reply.age_s + reply.expires_in_s == pytest.approx(5, abs=0.05)


@pytest.mark.parametrize("others", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGTERM]], ids=str)
def test_signals_that_come_at_once_are_one_word(
    cluster: Cluster, book: Book, ids: Fresh, others: list[signal.Signals]
) -> None:
    """As where a manager signals the whole group, and the supervisor its children."""
    (node,) = cluster.start("a")
    (id,) = ids(1)
    job = cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    for number in (signal.SIGTERM, *others):
        node.signal(number)
    node.says("once more to stop at once")
    kit.eventually(lambda: cluster.client.members() == ())
    book.release("gated", id)
    assert kit.ended(job) == JobStatus.FINISHED
    assert node.wait() == 0


WRITER = """
import os, sys, threading
from rqproc.cli import serve

asked = threading.Event()
sys.stderr = open(2, "w", buffering=1, closefd=False)
serve._on_stop(asked.set, hard=lambda: os._exit(9))
while not asked.is_set():
    sys.stderr.write("x" * 99 + "\\n")
"""


def test_a_signal_that_interrupts_a_line_of_the_log_is_obeyed(cluster: Cluster) -> None:
    """Whoever reads the log is slow: the line waits, and with it the stream."""
    env = kit.environ(cluster.url, cluster.namespace)
    ours, theirs = os.pipe()
    program = subprocess.Popen((sys.executable, "-c", WRITER), env=env, stderr=theirs)
    os.close(theirs)
    with program, open(ours, "rb") as log:  # noqa: PTH123 - a pipe
        state = Path(f"/proc/{program.pid}/wchan")
        kit.eventually(lambda: "pipe" in state.read_text(), what="a write to a full pipe")
        program.send_signal(signal.SIGTERM)
        said = log.read()
    assert program.returncode == 0, said[-500:]
    assert b"once more to stop at once" in said


@pytest.mark.parametrize("count", [1, 2])
def test_a_hangup_drains_and_leaves_the_names_free(cluster: Cluster, count: int) -> None:
    options = ("--lease", "60", "--heartbeat", "0.2", "--count", str(count))
    (node,) = cluster.start("a", options=options)
    kit.eventually(lambda: len(cluster.client.members()) == count)
    node.signal(signal.SIGHUP)
    assert node.wait() == 0
    assert cluster.client.membership().nodes == ()
