"""What nodes log: events by name, quiet where nothing happens, and the request from end to end."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Running

from rqproc.errors import HandlerFailed, RequestTimeout

JSON = ("--json-logs", *kit.PATIENT)


def _events(node: Running, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in node.lines if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def _awaited(node: Running, event: str, count: int) -> list[dict[str, Any]]:
    """Wait until a node has logged so many; return them."""
    kit.eventually(lambda: len(_events(node, event)) >= count, what=f"{count} times {event}")
    return _events(node, event)


def test_a_callers_error_its_log_and_the_nodes_line_name_the_same_request(
    cluster: Cluster, ids: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rqproc.client")
    (node,) = cluster.start("a", options=JSON)
    one, two, three = ids(3)
    with pytest.raises(HandlerFailed) as raised:
        cluster.client.request(one, "explode")
    many = cluster.client.request_many([two, three], "explode", return_exceptions=True)
    requests = [raised.value.request, *(error.request for error in many.values())]
    told = [vars(record) for record in caplog.records if record.name == "rqproc.client"]
    assert [(one["event"], one["request"]) for one in told] == [
        ("request_failed", request) for request in requests
    ]
    assert len(set(requests)) == 3
    assert all(requests)
    failed = {line["id"]: line["request"] for line in _awaited(node, "handler_failed", 3)}
    assert failed == dict(zip((one, two, three), requests, strict=True))


def test_a_request_that_was_given_up_is_found_at_its_node(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=("--log-level", "debug", *JSON))
    (id,) = ids(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cluster.client.request, id, "gated", timeout=2.0)
        book.started("gated", id)  # a request that is given up before that is never run
        with pytest.raises(RequestTimeout) as raised:
            waiting.result()
    book.release("gated", id)
    found = kit.eventually(lambda: [e for e in _events(node, "answered") if e["id"] == id])
    assert [(line["request"], line["source"]) for line in found] == [(raised.value.request, "miss")]


def test_answers_of_entries_name_the_request_too_alone_and_together(
    cluster: Cluster, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=("--log-level", "debug", *JSON))
    some = ids(3)
    cluster.client.request_many(some, "instant")
    cluster.client.request_many(some, "instant")
    cluster.client.request(some[0], "instant")
    hits = kit.eventually(
        lambda: (
            (found := [e for e in _events(node, "answered") if e["source"] == "hit"])[3:] and found
        )
    )
    together, alone = hits[:3], hits[3]
    prefixes = {line["request"].rsplit(f"-{line['id']}-instant-", 1)[0] for line in together}
    assert len(prefixes) == 1, "they were asked in one group"
    assert alone["request"] not in {line["request"] for line in together}


def test_a_job_is_followed_by_its_own_id(cluster: Cluster, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=JSON)
    job = cluster.client.enqueue(ids(1)[0], "explode")
    kit.ended(job)
    (line,) = _awaited(node, "handler_failed", 1)
    assert (line["job"], line["request"], line["node"]) == (job.id, job.id, "a")


def test_a_node_that_serves_logs_nothing(cluster: Cluster, ids: Fresh) -> None:
    (node,) = cluster.start("a", options=JSON)
    (id,) = ids(1)
    kit.settle(cluster.client)
    said = len(node.lines)
    for _ in range(3):
        cluster.client.request(id, "price")
        kit.settle(cluster.client)
    assert node.lines[said:] == []
    assert node.stop() == 0
    lines = [json.loads(line) for line in node.lines]
    assert [(line["event"], line["node"]) for line in lines] == [
        ("node_ready", "a"), ("node_drains", "a"),
    ]  # fmt: skip


def test_a_supervisors_lines_name_the_node_that_they_are_about(cluster: Cluster) -> None:
    options = ("--count", "2", "--max-age", "1", *JSON)
    with kit.node(cluster.url, cluster.namespace, "w", *options) as supervisor:
        kit.eventually(lambda: _events(supervisor, "child_recycled"))
        supervisor.stop()
    first = _events(supervisor, "child_recycled")[0]
    assert first["node"] in ("w-1", "w-2")
    assert first["reason"].startswith("--max-age")
    assert first["pid"] > 0


def test_what_drops_a_value_is_not_logged_as_a_value_that_was_computed(
    cluster: Cluster, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=("--log-level", "debug", *JSON))
    (id,) = ids(1)
    cluster.client.request(id, "echo")
    cluster.client.invalidate(id, "echo")
    cluster.client.invalidate_all("echo")
    found = _awaited(node, "answered", 3)
    assert [(line["id"], line["source"]) for line in found] == [
        (id, "miss"),
        (id, "changed"),
        ("*", "changed"),
    ]
