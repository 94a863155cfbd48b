"""Traces from a caller's span through the queue to the handler's own, over real processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import redis
from integration import kit, traced
from integration.fixtures import Cluster
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from rqproc import AsyncClient, Client, tracing
from rqproc.errors import HandlerFailed

Found = dict[str, Any]


@cache
def _exporter() -> InMemorySpanExporter:
    """A process has one tracer provider."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Those of this process; its requests are traced."""
    exporter = _exporter()
    exporter.clear()
    tracing.enable()
    yield exporter
    tracing.disable()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nodes write their spans."""
    path = tmp_path / "spans"
    monkeypatch.setenv("SPANS_FILE", str(path))
    return path


@pytest.fixture
def one(cluster: Cluster, file: Path) -> Cluster:
    cluster.start("a", app="traced:app")
    return cluster


def written(path: Path, *names: str) -> list[Found]:
    """Wait until a node has written spans of these names; return them, in this order."""

    def look() -> list[Found]:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # the last may be half written
        found = {span["name"]: span for span in map(json.loads, whole)}
        return [found[name] for name in names] if found.keys() >= set(names) else []

    return kit.eventually(look, what=f"spans {names}")


def context_of(span: Any) -> tuple[str, str]:
    """Return the ids of the trace and of the span, as a node writes them."""
    context = span.get_span_context()
    return f"0x{context.trace_id:032x}", f"0x{context.span_id:016x}"


def place_of(span: Found) -> tuple[str, str]:
    return span["context"]["trace_id"], span["parent_id"]


@pytest.mark.parametrize("resource", ["price", "aprice"])
def test_a_request_its_queueing_its_run_and_what_the_handler_does_are_one_trace(
    one: Cluster, file: Path, spans: InMemorySpanExporter, resource: str
) -> None:
    assert one.client.request(7, resource) == 7
    (request,) = spans.get_finished_spans()
    queued, run, own = written(file, f"queued {resource}", f"run {resource}", "look up")
    assert request.name == f"request {resource}"
    assert place_of(queued) == place_of(run) == context_of(request)
    assert place_of(own) == (run["context"]["trace_id"], run["context"]["span_id"])
    assert queued["end_time"] == run["start_time"]
    assert queued["start_time"] <= queued["end_time"]
    asked, ran = dict(request.attributes or {}), run["attributes"]
    assert (asked["rqproc.source"], asked["rqproc.node"], asked["rqproc.id"]) == ("miss", "a", "7")
    assert (ran["rqproc.node"], ran["rqproc.id"]) == ("a", "7")
    assert ran["messaging.message.id"] == asked["messaging.message.id"]
    assert run["kind"] == "SpanKind.CONSUMER"


def test_a_hit_has_its_callers_span_alone(
    one: Cluster, file: Path, spans: InMemorySpanExporter
) -> None:
    one.client.request(7, "price")
    written(file, "run price")
    before = file.read_text(encoding="utf-8")
    one.client.request(7, "price")
    _, hit = spans.get_finished_spans()
    assert (hit.attributes or {})["rqproc.source"] == "hit"
    assert file.read_text(encoding="utf-8") == before


def test_a_run_is_linked_to_the_requests_that_joined_it(
    one: Cluster, file: Path, spans: InMemorySpanExporter
) -> None:
    with ThreadPoolExecutor(2) as pool, redis.Redis.from_url(one.url) as book:
        first = pool.submit(one.client.request, 7, "gated")
        assert book.blpop(["traced:began"], timeout=20)
        second = pool.submit(one.client.request, 7, "gated")
        kit.eventually(lambda: one.client.membership().nodes[0].joined, what="a joiner")
        book.rpush("traced:gate", "open")
        assert (first.result(), second.result()) == (7, 7)
    by_source = {
        (span.attributes or {})["rqproc.source"]: span for span in spans.get_finished_spans()
    }
    (run,) = written(file, "run gated")
    assert place_of(run) == context_of(by_source["miss"])
    (link,) = run["links"]
    joined = link["context"]
    assert (joined["trace_id"], joined["span_id"]) == context_of(by_source["joined"])


def test_what_a_handler_raises_is_the_error_of_both_spans(
    one: Cluster, file: Path, spans: InMemorySpanExporter
) -> None:
    with pytest.raises(HandlerFailed):
        one.client.request(7, "fail", args=("no stock",))
    (request,) = spans.get_finished_spans()
    (run,) = written(file, "run fail")
    assert request.status.status_code is StatusCode.ERROR
    assert (request.attributes or {})["error.type"] == "HandlerFailed"
    assert run["status"] == {"status_code": "ERROR", "description": "ValueError: no stock"}
    (raised,) = run["events"]
    assert "raise ValueError(why)" in raised["attributes"]["exception.stacktrace"]


def test_an_array_has_one_span_and_a_run_of_each_id_is_its_child(
    one: Cluster, file: Path, spans: InMemorySpanExporter
) -> None:
    assert one.client.request_many([7], "price") == {7: 7}
    assert one.client.request_many([8, 9], "aprice") == {8: 8, 9: 9}
    _, request = spans.get_finished_spans()
    attributes = request.attributes or {}
    assert (attributes["messaging.batch.message_count"], attributes["rqproc.errors"]) == (2, 0)
    (run,) = written(file, "run aprice")
    assert place_of(run) == context_of(request)


def test_a_request_from_asyncio_is_a_child_of_the_tasks_span(
    one: Cluster, file: Path, spans: InMemorySpanExporter
) -> None:
    async def ask() -> None:
        async with AsyncClient(one.url, namespace=one.namespace) as client:
            with trace.get_tracer("web").start_as_current_span("page"):
                assert await client.request(7, "price") == 7

    asyncio.run(ask())
    request, page = spans.get_finished_spans()
    (run,) = written(file, "run price")
    assert request.parent is not None
    assert request.parent.span_id == page.get_span_context().span_id
    assert place_of(run) == context_of(request)


def test_what_is_traced_is_kept_near_as_ever(
    one: Cluster, file: Path, spans: InMemorySpanExporter
) -> None:
    with Client(one.url, namespace=one.namespace, near=10) as client:
        client.request(7, "price")
        kit.eventually(lambda: client.reply(7, "price").source == "near", what="a reply kept near")
        spans.clear()
        client.request(7, "price")
    assert not spans.get_finished_spans()


def test_without_tracing_a_node_makes_no_spans(one: Cluster, file: Path) -> None:
    one.client.request(7, "price")
    (own,) = written(file, "look up")
    assert own["parent_id"] is None
    one.client.request(8, "price")
    lines = file.read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["name"] for line in lines} == {"look up"}


def test_it_is_the_same_without_a_server(spans: InMemorySpanExporter) -> None:
    with traced.app.at("local://"):
        assert traced.price.request(7) == 7
    found = {span.name: span for span in spans.get_finished_spans()}
    run, request = found["run price"], found["request price"]
    assert run.parent is not None
    assert run.parent.span_id == request.get_span_context().span_id
    own = found["look up"].parent
    assert own is not None
    assert own.span_id == run.get_span_context().span_id
