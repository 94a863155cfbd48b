"""An app whose nodes write their spans into a file, as lines of JSON."""

from __future__ import annotations

import os
from pathlib import Path

import redis
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from rqproc import App

GATE_S = 30

if path := os.environ.get("SPANS_FILE"):
    provider = TracerProvider()
    lines = ConsoleSpanExporter(
        out=Path(path).open("a", encoding="utf-8"),  # noqa: SIM115 - as long as the process
        formatter=lambda span: span.to_json(indent=None) + "\n",
    )
    provider.add_span_processor(SimpleSpanProcessor(lines))
    trace.set_tracer_provider(provider)

app = App()


@app.resource(ttl=60)
def price(id: int) -> int:
    with trace.get_tracer("shop").start_as_current_span("look up"):
        return id


@app.resource(ttl=60)
async def aprice(id: int) -> int:
    with trace.get_tracer("shop").start_as_current_span("look up"):
        return id


@app.resource(ttl=0)
def fail(id: int, why: str) -> None:
    raise ValueError(why)


@app.resource(ttl=60)
def gated(id: int) -> int:
    with redis.Redis.from_url(os.environ["SHOP_URL"], socket_timeout=None) as book:
        book.rpush("traced:began", id)
        if book.blpop(["traced:gate"], timeout=GATE_S) is None:
            raise TimeoutError("the test did not open the gate")
    return id
