"""A call within a span of its own, where requests are traced.

Knows what of a call its span tells. Must not know how spans are made or carried.

A request without arguments is answered from its id alone; its data, in which the context travels,
is read only where it is claimed. So one that is traced is sent as those with arguments are.

An SDK that fails is told of, and is nothing to whoever asks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rqproc import tracing
from rqproc.calls.call import Call
from rqproc.errors import RqprocError
from rqproc.ids import request_name
from rqproc.log_events import tell

log = logging.getLogger("rqproc.client")


@contextmanager
def traced(call: Call, namespace: str) -> Iterator[None]:
    """Around the sending of a call: it takes the context of its span along."""
    span = _start(call, namespace)
    call.take_along(span.carrier if span else {})
    if span is None:
        yield
        return
    try:
        yield
    except BaseException as error:
        _end(span, {}, error)
        raise
    if not span.records:
        _end(span, {})
    elif len(call.ids) == 1:
        _end_one(span, call, namespace)
    else:
        _end_many(span, call, namespace)


def _start(call: Call, namespace: str) -> tracing.RequestSpan | None:
    """Return the span of a call; None where tracing was switched off meanwhile, or has failed."""
    making = tracing.tracer
    if making is None:
        return None
    operation = call.function.removeprefix("rqproc.")
    attributes = tracing.about(namespace, call.resource)
    attributes |= {"messaging.operation.type": "send", "messaging.operation.name": operation}
    if len(call.ids) == 1:
        attributes["rqproc.id"] = str(call.ids[0])
    else:
        attributes["messaging.batch.message_count"] = len(call.ids)
    try:
        return tracing.start_request(making, f"{operation} {call.resource}", attributes)
    except Exception as error:  # noqa: BLE001 - whatever an SDK raises
        _failed(error)
        return None


def _end(
    span: tracing.RequestSpan, attributes: tracing.Attributes, error: BaseException | None = None
) -> None:
    try:
        span.end(attributes, error)
    except Exception as failure:  # noqa: BLE001
        _failed(failure)


def _failed(error: Exception) -> None:
    tell(log, "tracing_failed", "no span of a request: %r", error, error=error)


def _end_one(span: tracing.RequestSpan, call: Call, namespace: str) -> None:
    outcome = call.settled(namespace)[0]
    attributes: tracing.Attributes = {}
    if call.names:
        attributes["messaging.message.id"] = request_name(call.names[0])
    if isinstance(outcome, RqprocError):
        _end(span, attributes, outcome)
        return
    attributes |= {"rqproc.source": outcome.source, "rqproc.node": outcome.node}
    _end(span, attributes)


def _end_many(span: tracing.RequestSpan, call: Call, namespace: str) -> None:
    outcomes = call.settled(namespace)
    errors = [outcome for outcome in outcomes if isinstance(outcome, RqprocError)]
    _end(span, {"rqproc.errors": len(errors)}, errors[0] if errors else None)
