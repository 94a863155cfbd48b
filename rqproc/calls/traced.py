"""A call within a span of its own, where requests are traced.

Knows what of a call its span tells. Must not know how spans are made or carried.

A request without arguments is answered from its id alone; its data, in which the context travels,
is read only where it is claimed. So one that is traced is sent as those with arguments are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rqproc import tracing
from rqproc.calls.call import Call
from rqproc.errors import RqprocError
from rqproc.ids import request_name


@contextmanager
def traced(call: Call, namespace: str) -> Iterator[None]:
    """Around the sending of a call: it takes the context of its span along."""
    making = tracing.tracer
    if making is None:  # switched off meanwhile
        call.take_along({})
        yield
        return
    operation = call.function.removeprefix("rqproc.")
    attributes = tracing.about(namespace, call.resource)
    attributes |= {"messaging.operation.type": "send", "messaging.operation.name": operation}
    if len(call.ids) == 1:
        attributes["rqproc.id"] = str(call.ids[0])
    else:
        attributes["messaging.batch.message_count"] = len(call.ids)
    span = tracing.start_request(making, f"{operation} {call.resource}", attributes)
    call.take_along(span.carrier)
    try:
        yield
    except BaseException as error:
        span.end({}, error)
        raise
    if not span.records:
        span.end({})
    elif len(call.ids) == 1:
        _end_one(span, call, namespace)
    else:
        _end_many(span, call, namespace)


def _end_one(span: tracing.RequestSpan, call: Call, namespace: str) -> None:
    outcome = call.settled(namespace)[0]
    attributes: tracing.Attributes = {}
    if call.names:
        attributes["messaging.message.id"] = request_name(call.names[0])
    if isinstance(outcome, RqprocError):
        span.end(attributes, outcome)
        return
    attributes |= {"rqproc.source": outcome.source, "rqproc.node": outcome.node}
    span.end(attributes)


def _end_many(span: tracing.RequestSpan, call: Call, namespace: str) -> None:
    outcomes = call.settled(namespace)
    errors = [outcome for outcome in outcomes if isinstance(outcome, RqprocError)]
    span.end({"rqproc.errors": len(errors)}, errors[0] if errors else None)
