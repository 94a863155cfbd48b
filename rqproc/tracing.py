"""Spans of OpenTelemetry, of requests and of runs (``pip install 'rqproc[otel]'``).

Knows opentelemetry's API, and alone in the package: it is loaded where spans are to be made, and
what becomes of them is the program's own choice of an SDK. Must not know calls, runs or nodes.

A program says ``enable()`` where it configures its SDK: from then on each of its requests has a
span, and one that is sampled takes its context along, as W3C's Trace Context writes it. A node
needs no word: it makes a span of a run that such a request waits for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rqproc.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, Tracer

Carrier = Mapping[str, str]
"""A span's context as it travels: ``traceparent``, and ``tracestate`` where there is one."""

FIELDS = ("traceparent", "tracestate")
MAX_FIELD_CHARS = 512
"""W3C has every tracestate up to here passed on."""

Attributes = dict[str, str | int | float | bool]

tracer: Tracer | None = None
"""Makes the spans of requests; None where none are made."""


def enable() -> None:
    """Make spans of the requests of this process, by the tracer provider that is set.

    Raises:
        ConfigError: opentelemetry is not installed.
    """
    global tracer
    if _api() is None:
        raise ConfigError("tracing needs the extra: pip install 'rqproc[otel]'")
    tracer = _tracer()


def disable() -> None:
    """Make no more spans of requests."""
    global tracer
    tracer = None


@lru_cache(maxsize=1)
def _api() -> ModuleType | None:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace


def _tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer("rqproc", version("rqproc"))


# --- requests ---------------------------------------------------------------------------------


class RequestSpan:
    """The span of a request, from when it is about to be sent.

    Attributes:
        carrier: what it takes along; empty where it is not sampled.
        records: whether anybody is to see it.
    """

    def __init__(self, span: Span) -> None:
        self._span = span
        self.records = span.is_recording()
        self.carrier = _carrier_of(span)

    def end(self, attributes: Attributes, error: BaseException | None = None) -> None:
        """``error``: what it ended in, or the first of those that its ids ended in."""
        if self.records:
            self._span.set_attributes(attributes)
            if error is not None:
                _fail(self._span, type(error).__name__, str(error))
        self._span.end()


def start_request(making: Tracer, name: str, attributes: Attributes) -> RequestSpan:
    """Start a request's span, a child of the one that is current."""
    from opentelemetry.trace import SpanKind

    return RequestSpan(making.start_span(name, kind=SpanKind.CLIENT, attributes=attributes))


def _carrier_of(span: Span) -> Carrier:
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not span.get_span_context().trace_flags.sampled:
        return {}
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return accepted(carrier) or {}


def accepted(found: object) -> Carrier | None:
    """Return what may be a carrier, whoever wrote it; None where it is none."""
    if not isinstance(found, Mapping):
        return None
    fields = {name: found.get(name) for name in FIELDS}
    short = {
        name: text
        for name, text in fields.items()
        if isinstance(text, str) and len(text) <= MAX_FIELD_CHARS
    }
    return short if "traceparent" in short else None


# --- runs -------------------------------------------------------------------------------------


class RunSpan:
    """The span of a handler's run, from when the handler is called."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def attach(self) -> None:
        """Make it the current one of the calling context, for good."""
        from opentelemetry import context
        from opentelemetry.trace import set_span_in_context

        context.attach(set_span_in_context(self._span))

    def end(self, *, joined: Iterable[Carrier], error: tuple[str, str, str] | None) -> None:
        """``joined``: of the requests that have joined it since. ``error``: what the run ended in:
        type, message, traceback.
        """
        for carrier in joined:
            if found := _remote(carrier):
                self._span.add_link(found[1])
        if error:
            kind, message, traceback = error
            _fail(self._span, kind, f"{kind}: {message}")
            self._span.add_event(
                "exception",
                {
                    "exception.type": kind,
                    "exception.message": message,
                    "exception.stacktrace": traceback,
                },
            )
        self._span.end()


def start_run(
    name: str, carriers: Sequence[Carrier], attributes: Attributes, *, waited_s: float
) -> RunSpan | None:
    """Start a run's span, and leave one of the time for which it was queued until now.

    Both are children of the first of these requests, and the run's is linked to the others.

    Returns:
        None where none of them can be read, or opentelemetry is not installed.
    """
    if _api() is None:
        return None
    from opentelemetry.trace import Link, SpanKind

    found = [one for one in map(_remote, carriers) if one]
    if not found:
        return None
    parent, making, now = found[0][0], _tracer(), time.time_ns()
    began = now - int(max(0.0, waited_s) * 1e9)
    queued = making.start_span(f"queued {name}", parent, attributes=attributes, start_time=began)
    queued.end(now)
    links = [Link(context) for _, context in found[1:]]
    return RunSpan(
        making.start_span(
            f"run {name}", parent, kind=SpanKind.CONSUMER, attributes=attributes, links=links,
            start_time=now,
        )
    )  # fmt: skip


def _remote(carrier: Carrier) -> tuple[Context, SpanContext] | None:
    from opentelemetry.context import Context
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract(carrier, Context())
    found = get_current_span(context).get_span_context()
    return (context, found) if found.is_valid else None


def _fail(span: Span, kind: str, message: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, message))


def about(namespace: str, resource: str, **more: Any) -> Attributes:
    """Return the attributes that every span has, and more of this package's own."""
    named = {f"rqproc.{name}": value for name, value in more.items()}
    return {
        "messaging.system": "rqproc",
        "messaging.destination.name": resource,
        "rqproc.namespace": namespace,
        "rqproc.resource": resource,
        **named,
    }
