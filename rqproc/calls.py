"""What the blocking and the asyncio client share: requests made ready, answers made into values.

Knows requests, orders, answers and errors. Must not know connections, threads or event loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rqproc import wire
from rqproc.cluster import MOST_TOGETHER, Job, Kind, Order
from rqproc.errors import (
    ConfigError,
    RedisUnavailable,
    RequestTimeout,
    RqprocError,
    from_remote,
)
from rqproc.keys import Keys
from rqproc.model import Reply, Request
from rqproc.names import fresh_id
from rqproc.placement import Id, address, canonical, check_resource

MAX_TIMEOUT_S = 7 * 86400.0


class Batch(NamedTuple):
    """Requests that go out together, and the job that carries each."""

    order: Order
    requests: Mapping[str, Request]


def request_of(
    id: object, resource: str, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> Request:
    """Raises: InvalidId, ConfigError."""
    if args or kwargs:
        return Request(check_resource(resource), canonical(id), tuple(args), kwargs or {})
    try:
        return _plain_request(resource, id)
    except TypeError:  # it cannot be looked up: it is no id either
        return Request(check_resource(resource), canonical(id))


@lru_cache(maxsize=4096, typed=True)
def _plain_request(resource: str, id: object) -> Request:
    return Request(check_resource(resource), canonical(id))


def check_timeout(timeout_s: float) -> float:
    """Return a timeout unchanged.

    Raises:
        ConfigError: not a number over 0 and up to a week.
    """
    if isinstance(timeout_s, int | float) and 0 < timeout_s <= MAX_TIMEOUT_S:
        return timeout_s
    raise ConfigError(f"invalid timeout {timeout_s!r}: seconds, over 0 and up to a week")


def check_result_ttl(result_ttl: int | None) -> int | None:
    """Return a job's result ttl unchanged.

    Raises:
        ConfigError: not a whole number of seconds, -1 (for ever) or more.
    """
    if result_ttl is None or (isinstance(result_ttl, int) and -1 <= result_ttl < 2**31):
        return result_ttl
    raise ConfigError(f"invalid result_ttl {result_ttl!r}: whole seconds, 0 for none, -1 for ever")


def batch(
    requests: Sequence[Request],
    *,
    kind: Kind,
    timeout_s: float = 0.0,
    result_ttl_s: int | None = None,
    function: str = wire.REQUEST,
    parent: str = "",
) -> Batch:
    """Make one job of each request.

    ``parent`` is the address whose handler asks, empty outside of handlers.

    Raises:
        ConfigError: arguments that are not JSON. PayloadTooLarge: too large ones.
    """
    jobs = [Job(fresh_id(), *_addressed(request, function)) for request in requests]
    by_job = {job.id: request for job, request in zip(jobs, requests, strict=True)}
    data = b""
    if kind == "call" and function == wire.REQUEST and not parent and _are_plain(requests):
        data = wire.encode_many(requests[0].resource)
    return Batch(Order(kind, tuple(jobs), timeout_s, "", result_ttl_s, parent, data), by_job)


def together(resource: str, ids: Sequence[Id], *, timeout_s: float) -> Batch:
    """Make jobs of calls without arguments, each of which carries many."""
    by_job: dict[str, Request] = {}
    jobs = []
    name = ""
    for place, id in enumerate(ids):
        if not place % MOST_TOGETHER:
            name = fresh_id()
        job = Job(f"{name}:{place % MOST_TOGETHER}", _plain_address(resource, id), b"")
        jobs.append(job)
        by_job[job.id] = Request(resource, id)
    data = wire.encode_many(resource)
    return Batch(Order("call", tuple(jobs), timeout_s, together=data), by_job)


def _are_plain(requests: Sequence[Request]) -> bool:
    return bool(requests) and not any(request.args or request.kwargs for request in requests)


def _addressed(request: Request, function: str) -> tuple[str, bytes]:
    """A request's address and data; those of requests without arguments are made once."""
    if request.args or request.kwargs:
        data = wire.encode_request(request, function=function)
        return address(request.resource, request.id), data
    return _plain(request.resource, request.id, function)


@lru_cache(maxsize=4096)
def _plain(resource: str, id: Id, function: str) -> tuple[str, bytes]:
    data = wire.encode_request(Request(resource, id), function=function)
    return address(resource, id), data


@lru_cache(maxsize=4096)
def _plain_address(resource: str, id: Id) -> str:
    return address(resource, id)


def outcomes(
    sent: Batch,
    answers: Mapping[str, wire.Answer],
    keys: Keys,
    *,
    outage: RedisUnavailable | None = None,
) -> dict[Id, Reply | RqprocError]:
    """Return for each id, in the order asked, its reply or its error.

    ``outage``: why the answers that are missing did not come, if that is known.
    """
    return {
        request.id: outage
        if outage and job_id not in answers
        else _outcome(request, answers.get(job_id), sent.order, keys)
        for job_id, request in sent.requests.items()
    }


def _outcome(
    request: Request, answer: wire.Answer | None, order: Order, keys: Keys
) -> Reply | RqprocError:
    if answer is None:
        return RequestTimeout(request.resource, request.id, order.timeout_s)
    if answer.report is None:
        return answer.reply(request.id, node_queues=keys.node_queues)
    return from_remote(
        answer.report,
        resource=request.resource,
        id=request.id,
        namespace=keys.namespace,
    )


def value_or_raise(outcome: Reply | RqprocError) -> Reply:
    if isinstance(outcome, RqprocError):
        raise outcome
    return outcome


def values(outcomes: Mapping[Id, Reply | RqprocError], *, return_exceptions: bool) -> dict[Id, Any]:
    """Return each id's value; the first error is raised, or each stands as the value of its id."""
    found: dict[Id, Any] = {}
    for id, outcome in outcomes.items():
        keep = return_exceptions and isinstance(outcome, RqprocError)
        found[id] = outcome if keep else value_or_raise(outcome).value
    return found


def refusals(sent: Batch, refused: Sequence[bytes], keys: Keys) -> list[RqprocError | None]:
    """Return for each job why route did not queue it, None where it did."""
    return [
        _refusal(request, sent.order, report, keys) if report else None
        for request, report in zip(sent.requests.values(), refused, strict=True)
    ]


def _refusal(request: Request, order: Order, report: bytes, keys: Keys) -> RqprocError:
    error = _outcome(request, wire.refusal("", report), order, keys)
    assert isinstance(error, RqprocError)
    return error
