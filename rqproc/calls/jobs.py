"""Jobs on their way into the cluster: requests that are enqueued, and looked up by RQ's rules.

Knows the codec. Must not know connections, nor RQ's own classes: see ``rqproc.calls.rqjob``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypedDict

from rqproc.errors import ConfigError, RqprocError
from rqproc.ids import Id, address, check_resource
from rqproc.model import Request
from rqproc.protocol import codec
from rqproc.protocol.messages import Sent
from rqproc.protocol.reports import from_remote

if TYPE_CHECKING:
    from rq import Repeat, Retry
    from rq.rate_limit import RateLimit
    from rq.types import JobDependencyType


class JobOptions(TypedDict, total=False):
    """Options of RQ's own for a job, as ``rq.Queue.enqueue`` takes them."""

    job_id: str
    meta: dict[str, Any]
    description: str
    depends_on: JobDependencyType
    ttl: int
    failure_ttl: int
    at_front: bool
    retry: Retry
    repeat: Repeat
    rate_limit: RateLimit
    unique: bool


def check_options(options: Mapping[str, Any]) -> None:
    """Raises: ConfigError: RQ has no such option, or no such value of it."""
    if unknown := sorted(options.keys() - JobOptions.__annotations__.keys()):
        known = ", ".join(JobOptions.__annotations__)
        raise ConfigError(f"no option of a job: {', '.join(unknown)}; there are {known}")
    if not isinstance(meta := options.get("meta", {}), Mapping):
        raise ConfigError(f"invalid meta={meta!r}: a dict, which RQ keeps with the job")


def jobs_of(
    ids: Sequence[Id], resource: str, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> list[Sent]:
    """Return a job of each id, with an id of its own.

    Raises:
        ConfigError: arguments that are not JSON. PayloadTooLarge: too large ones.
    """
    resource = check_resource(resource)
    given, named = tuple(args), kwargs or {}
    return [
        Sent(
            token_hex(12),
            address(resource, id),
            codec.encode_job(Request(resource, id, given, named)),
        )
        for id in ids
    ]


def refusal(report: bytes, resource: str, id: Id, namespace: str) -> RqprocError:
    """Return the error that a function's report of a refusal stands for."""
    return from_remote(json.loads(report), resource=resource, id=id, namespace=namespace)
