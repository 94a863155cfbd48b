"""From what a function or a node reports of a call that failed to the error that its caller gets.

Knows the fields of reports, which are part of the protocol, and the tree of errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rqproc.errors import (
    START_WITH_THE_APP,
    STUCK,
    Crowded,
    HandlerFailed,
    HandlerTimeout,
    LocallyOverloaded,
    NodeLost,
    NoLiveNode,
    Overloaded,
    OwnerLost,
    ProtocolMismatch,
    RateLimited,
    RequestCycle,
    RqprocError,
    UnknownResource,
)

Build = Callable[[Mapping[str, Any], str, object], RqprocError]

_BUILD: Mapping[str, Build] = {
    "Overloaded": lambda found, *_: Overloaded(found["node"], found["queued"], found["limit"]),
    "Crowded": lambda found, *_: Crowded(found["node"], found["queued"], found["limit"]),
    "LocallyOverloaded": lambda found, *_: LocallyOverloaded(found["node"], found["limit"]),
    "RateLimited": lambda found, *_: RateLimited(
        found["node"], found["resource"], found["retry_after_s"]
    ),
    "UnknownResource": lambda found, name, _: UnknownResource(
        name, found["known"], advice=found.get("advice", START_WITH_THE_APP)
    ),
    "HandlerTimeout": lambda found, name, id: HandlerTimeout(
        name, id, found["timeout_s"], stuck=found["stuck"], advice=found.get("advice", STUCK)
    ),
    "RequestCycle": lambda found, name, id: RequestCycle(name, id, list(map(_key, found["way"]))),
    "NodeLost": lambda found, name, id: NodeLost(name, id, found["attempts"]),
    "OwnerLost": lambda found, name, id: OwnerLost(
        name, id, found["node"], found["silent_ms"] / 1000
    ),
    "HandlerFailed": lambda found, name, id: HandlerFailed(
        name,
        id,
        found["remote_type"],
        found["message"],
        found.get("traceback", ""),
        remembered=found.get("remembered", False),
    ),
}


def from_remote(
    report: Mapping[str, Any], *, resource: str, id: object, namespace: str
) -> RqprocError:
    """Build the error that a report from a function or a node stands for."""
    if report["type"] == "NoLiveNode":
        return NoLiveNode(namespace)
    if report["type"] == "OtherProtocol":
        return ProtocolMismatch(report["mine"], report["others"], namespace)
    return _BUILD[report["type"]](report, resource, id)


def _key(text: str) -> tuple[str, str]:
    resource, _, id = text.partition(":")
    return resource, id
