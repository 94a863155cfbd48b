"""What of a trace a call carries, and that it is nothing to anybody where there is none."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from rqproc import tracing
from rqproc.calls.call import Call
from rqproc.calls.traced import traced
from rqproc.errors import ConfigError
from rqproc.ids import address
from rqproc.model import Request
from rqproc.node.runs import Done, HandlerRun, Taken
from rqproc.node.spans import RunSpans
from rqproc.protocol import codec
from rqproc.resource import ResourceSpec

TRACE = "0af7651916cd43dd8448eb211c80319c"
CARRIER = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "tracestate": "vendor=1"}


def call(*args: Any) -> Call:
    kind: Any = "a" if args else "c"
    return Call(kind, "price", (7,), (address("price", 7),), 5.0, 5.0, args=args)


def decoded(data: str | bytes) -> codec.DecodedCall:
    return codec.decode_call(data.encode() if isinstance(data, str) else data, functions={})


def test_a_call_without_a_trace_is_what_it_was() -> None:
    one = call()
    assert (one.kind, one.trace) == ("c", None)
    assert one.data(0) == '["rqproc.request",null,[7],{"resource":"price"}]'


def test_a_call_that_is_not_sampled_carries_nothing() -> None:
    one = call()
    one.take_along({})
    assert (one.kind, one.data(0)) == ("c", call().data(0))


@pytest.mark.parametrize(("flags", "carries"), [(1, True), (0, False)])
def test_a_span_that_is_not_sampled_gives_nothing_to_carry(flags: int, *, carries: bool) -> None:
    context = trace.SpanContext(
        int(TRACE, 16), 7, is_remote=False, trace_flags=trace.TraceFlags(flags)
    )
    span = tracing.RequestSpan(trace.NonRecordingSpan(context))
    assert bool(span.carrier) is carries


@pytest.mark.parametrize("args", [(), (5,)])
def test_a_traced_call_carries_its_context_to_who_claims_it(args: tuple[Any, ...]) -> None:
    one = call(*args)
    if args:
        one.data(0)  # checked before it is sent
    one.take_along(CARRIER)
    found = decoded(one.data(0))
    assert (one.kind, found.trace, found.request.args) == ("a", CARRIER, args)


def test_a_context_is_left_out_where_there_is_no_room_for_it() -> None:
    one = call("x" * (codec.MAX_ARGUMENT_BYTES - 100))
    one.take_along(CARRIER)
    assert decoded(one.data(0)).trace is None


@pytest.mark.parametrize(
    "trace",
    [5, "00-1-2-3", [], {}, {"tracestate": "a=1"}, {"traceparent": 7}, {"traceparent": "0" * 600}],
)
def test_what_is_no_context_is_ignored_and_the_call_is_served(trace: object) -> None:
    data = json.dumps(["rqproc.request", None, [7], {"resource": "price", "trace": trace}])
    found = decoded(data)
    assert (found.trace, found.request.id) == (None, 7)


def test_of_a_context_nothing_else_is_taken() -> None:
    data = json.dumps(["rqproc.request", None, [7], {"trace": {**CARRIER, "baggage": "a=1"}}])
    assert decoded(data).trace == CARRIER


@pytest.mark.parametrize(
    "text", ["", "00-zz-11-01", f"00-{TRACE}", f"00-{'0' * 32}-b7ad6b7169203331-01"]
)
def test_a_run_has_no_span_by_a_malformed_traceparent(text: str) -> None:
    assert tracing.start_run("price", [{"traceparent": text}], {}, waited_s=0.0) is None


@pytest.fixture
def without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("opentelemetry", "opentelemetry.trace"):
        monkeypatch.setitem(sys.modules, name, None)
    tracing._api.cache_clear()
    yield
    tracing._api.cache_clear()


@pytest.mark.usefixtures("without_opentelemetry")
def test_without_opentelemetry_callers_are_told_what_to_install_and_nodes_serve() -> None:
    with pytest.raises(ConfigError, match=r"rqproc\[otel\]"):
        tracing.enable()
    assert tracing.tracer is None
    assert tracing.start_run("price", [CARRIER], {}, waited_s=0.0) is None


def test_an_sdk_that_fails_is_told_of_and_harms_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **more: object) -> None:
        raise RuntimeError("no room for spans")

    monkeypatch.setattr(tracing, "start_run", broken)
    place = address("price", 7)
    taken = Taken(b"rab-a0-" + place.encode(), place, place.encode(), 1, trace=CARRIER)
    resource = ResourceSpec(lambda id: id, name="price", ttl_s=60)
    run = HandlerRun(place, place.encode(), resource, Request("price", 7), 1, [taken])
    spans = RunSpans("a", "default", lambda: 1.0)
    spans.begin(run)
    spans.end(run, Done("7"))
    assert "no room for spans" in caplog.text


class Failing(SpanProcessor):
    """Raises where a span starts, or where it ends."""

    def __init__(self, where: str) -> None:
        self._where = where

    def on_start(self, span: object, parent_context: object = None) -> None:
        self._raise_in("start")

    def on_end(self, span: object) -> None:
        self._raise_in("end")

    def _raise_in(self, here: str) -> None:
        if self._where == here:
            raise RuntimeError("no room for spans")


@pytest.mark.parametrize("where", ["start", "end"])
@pytest.mark.parametrize("ids", [(7,), (7, 8)])
def test_an_sdk_that_fails_is_told_of_and_harms_no_request(
    where: str, ids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    provider = TracerProvider()
    provider.add_span_processor(Failing(where))
    monkeypatch.setattr(tracing, "tracer", provider.get_tracer("rqproc"))
    one = Call("c", "price", ids, [address("price", id) for id in ids], 5.0, 5.0)
    with traced(one, "default"):
        for place in range(len(ids)):
            one.take(place, b"hit 0 0 1 n1 7")
    assert "no room for spans" in caplog.text
    with pytest.raises(ValueError, match="of the caller"), traced(one, "default"):
        raise ValueError("of the caller")
