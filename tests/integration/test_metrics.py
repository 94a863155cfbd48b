"""What a node serves to Prometheus and to probes, over HTTP, from a real process."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, closing

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from ports import free_ports

from rqproc.cli.docs import page
from rqproc.lab.servers import ServerProcess

parser = pytest.importorskip("prometheus_client.parser")

BRISK = ("--lease", "1.5", "--heartbeat", "0.3")
Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(port: int) -> Mapping[Sample, float]:
    """Read all that is served, as Prometheus' own parser does."""
    _, text = kit.get(port, "/metrics")
    found: dict[Sample, float] = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, "no sample is there twice"
            found[key] = sample.value
    return found


def value(found: Mapping[Sample, float], name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def start(cluster: Cluster, *options: str, lease: tuple[str, ...] = kit.PATIENT) -> int:
    (port,) = free_ports(1)
    cluster.start("a", options=(*lease, "--metrics-port", str(port), *options))
    return port


def test_requests_errors_and_durations_are_served_by_resource(cluster: Cluster, ids: Fresh) -> None:
    port = start(cluster)
    one, other = ids(2)
    for id in (one, one, one, other):
        cluster.client.request(id, "price")
    cluster.client.request_many([one], "explode", return_exceptions=True)

    def all_told() -> Mapping[Sample, float] | None:
        found = samples(port)
        told = any(name == "rqproc_errors_total" for name, _ in found)
        return found if told and value(found, "rqproc_runs_total", resource="explode") else None

    found = kit.eventually(all_told, every_s=0.05)
    assert found
    assert value(found, "rqproc_answers_total", resource="price", source="hit") == 2
    assert value(found, "rqproc_answers_total", resource="price", source="miss") == 2
    assert value(found, "rqproc_runs_total", resource="price") == 2
    errors = {
        labels: count for (name, labels), count in found.items() if name == "rqproc_errors_total"
    }
    ((labels, count),) = errors.items()
    assert count == 1
    assert dict(labels)["resource"] == "explode"
    for name in ("queue", "run", "request"):
        whole = f"rqproc_{name}_duration_seconds"
        buckets = sorted(
            (float(dict(labels)["le"]), count)
            for (sample, labels), count in found.items()
            if sample == f"{whole}_bucket" and dict(labels)["resource"] == "price"
        )
        counts = [count for _, count in buckets]
        assert counts == sorted(counts), "buckets are cumulative"
        assert counts[-1] == value(found, f"{whole}_count", resource="price") == 2
        assert value(found, f"{whole}_sum", resource="price") < 10
    assert value(found, "rqproc_entries") == 2
    assert value(found, "rqproc_ready") == 1
    assert 0 < value(found, "rqproc_lease_left_seconds") <= 10


def test_resources_that_callers_make_up_are_one_label(cluster: Cluster) -> None:
    port = start(cluster)
    for number in range(20):
        cluster.client.request_many([1], f"made_up_{number}", return_exceptions=True)

    def told() -> bool:
        found = samples(port)
        kind = {"resource": "(unknown)", "type": "UnknownResource"}
        return value(found, "rqproc_errors_total", **kind) == 20

    kit.eventually(told, every_s=0.05)
    assert "made_up" not in kit.get(port, "/metrics")[1]


def test_who_asks_by_head_is_told_all_but_the_body(cluster: Cluster) -> None:
    port = start(cluster)
    for path in ("/metrics", "/healthz", "/readyz"):
        with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as asks:
            asks.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
            head, _, body = asks.makefile("rb").read().partition(b"\r\n\r\n")
            assert head.split()[1] == b"200"
            assert body == b""


def test_promtool_has_nothing_to_say_of_the_names(cluster: Cluster, ids: Fresh) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    port = start(cluster)
    cluster.client.request(ids(1)[0], "price")
    kit.eventually(lambda: "rqproc_runs_total{" in kit.get(port, "/metrics")[1], every_s=0.05)
    text = kit.get(port, "/metrics")[1]
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


def test_a_member_is_ready_and_a_draining_node_lives_and_is_not(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    port = start(cluster)
    assert kit.get(port, "/healthz") == (200, "ok\n")
    assert kit.get(port, "/readyz") == (200, "ready\n")
    (id,) = ids(1)
    job = cluster.client.enqueue(id, "gated")
    book.started("gated", id)
    cluster.client.drain("a")
    status, why = kit.eventually(
        lambda: found if (found := kit.get(port, "/readyz"))[0] != 200 else None, every_s=0.05
    ) or (0, "")
    assert (status, why) == (503, "draining: it takes nothing new\n")
    assert kit.get(port, "/healthz")[0] == 200
    book.release("gated", id)
    kit.eventually(lambda: job.get_status() == "finished")


def test_without_its_server_a_node_lives_and_is_not_ready_until_it_is_back(
    shop_server: ServerProcess,
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(keeps=True))
        probed = Cluster(stack, server.url, "probes", book_url=shop_server.url)
        port = start(probed, lease=BRISK)
        server.pause()
        status, why = kit.eventually(
            lambda: found if (found := kit.get(port, "/readyz"))[0] != 200 else None, every_s=0.05
        ) or (0, "")
        assert status == 503
        assert "no heartbeat was answered in time" in why
        assert kit.get(port, "/healthz") == (200, "ok\n")
        assert value(samples(port), "rqproc_ready") == 0
        server.go_on()
        kit.eventually(lambda: kit.get(port, "/readyz")[0] == 200, every_s=0.05)
        assert value(samples(port), "rqproc_heartbeats_missed_total") > 0


def test_the_page_on_operations_has_every_metric_that_is_served(
    cluster: Cluster, ids: Fresh
) -> None:
    port = start(cluster)
    cluster.client.request(ids(1)[0], "price")
    kit.eventually(lambda: "rqproc_runs_total{" in kit.get(port, "/metrics")[1], every_s=0.05)
    families = parser.text_string_to_metric_families(kit.get(port, "/metrics")[1])
    served = {
        family.name + "_total" * (family.type == "counter")
        for family in families
        if family.name.startswith("rq")
    }
    told = re.findall(r"^\| `(rq\w+)` \|", page("operations"), flags=re.M)
    assert sorted(told) == sorted(served)
