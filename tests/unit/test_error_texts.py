"""Errors: one tree, an exit code each, and a message that says what to do."""

from __future__ import annotations

import inspect
import re

import pytest

from rqproc import errors
from rqproc.errors import (
    NOT_HEARD,
    ConfigError,
    EmbeddedUnavailable,
    HandlerFailed,
    HandlerTimeout,
    InvalidId,
    LocallyOverloaded,
    NameTaken,
    NodeLost,
    NoLiveNode,
    Overloaded,
    OwnerLost,
    PayloadTooLarge,
    PlacementMismatch,
    ProtocolMismatch,
    RedisUnavailable,
    RequestCycle,
    RequestTimeout,
    RqprocError,
    UnknownResource,
)
from rqproc.protocol.reports import from_remote

EXAMPLES: dict[RqprocError, tuple[int, str]] = {
    InvalidId("a\nb", "an id has no control characters"): (2, r"invalid id 'a\\nb': an id has no"),
    PayloadTooLarge(70_000, 65_536): (2, r"70000 bytes.*65536.*pass a reference"),
    NoLiveNode("shop"): (3, r"'shop'.*rqproc node start"),
    RequestTimeout("price", 42, 2.5): (4, r"price 42 within 2.5 s.*`timeout`.*rqproc node list"),
    RequestTimeout("price", 1, 2.5, advice=NOT_HEARD): (4, r"nor did the server.*--latency"),
    RedisUnavailable("host:1", "refused"): (5, r"host:1.*refused.*--url, RQPROC_REDIS_URL"),
    EmbeddedUnavailable("no binary"): (5, r"no binary.*--url redis://"),
    Overloaded("n1", 9, 8): (6, r"n1.*9.*8.*add nodes.*--max-queue"),
    errors.Crowded("n1", 9, 8): (6, r"n1 has 9.*8.*--max-waiters"),
    errors.RateLimited("n1", "price", 12.34): (6, r"rate of price.*n1.*12.3 s.*`timeout`"),
    HandlerFailed("price", 42, "ValueError", "no"): (1, r"price 42.*ValueError: no"),
    HandlerFailed("price", 42, "UnservableValue", "no JSON"): (1, r"price 42: no JSON$"),
    HandlerTimeout("price", 42, 2.5, stuck=True): (1, r"price 42.*2.5 s; it still runs.*stuck"),
    RequestCycle("a", 1, [("b", 2), ("a", 1)]): (1, r"b 2 waits for a 1 waits for b 2: a handler"),
    UnknownResource("x", ["a", "b"]): (2, r"'x'.*a, b.*rqproc node start MODULE:APP"),
    LocallyOverloaded("host:1", 16): (6, r"no node can answer.*16 handlers.*host:1.*node start"),
    OwnerLost("price", 42, "n1", 3.21): (1, r"price 42: .*withdrawn.*n1.*3.2 s.*Try again"),
    errors.StateSuperseded(): (1, r"not kept.*lost its lease.*another has the id"),
    NodeLost("price", 42, 3): (1, r"price 42: 3 nodes died.*nodes' logs"),
    ProtocolMismatch("2", "1", "shop"): (2, r"'shop' speak protocol 1.*speaks 2.*same version"),
    PlacementMismatch("modulo", "slots", "shop"): (2, r"'shop'.*'slots'.*--placement slots.*stop"),
    NameTaken("n1", 4.25): (2, r"'n1' is alive.*4.2 s.*--name"),
    ConfigError("--lease must be at least 0.2 s"): (2, r"--lease"),
}


def classes() -> set[type[RqprocError]]:
    found = (item for _, item in inspect.getmembers(errors, inspect.isclass))
    return {item for item in found if issubclass(item, RqprocError)}


def test_there_is_one_root() -> None:
    ours = {item for _, item in inspect.getmembers(errors, inspect.isclass)}
    assert {i for i in ours if issubclass(i, Exception) and i.__module__ == errors.__name__} == (
        classes()
    )


def test_every_class_has_an_example_here() -> None:
    abstract = {RqprocError, errors.RemoteError}
    assert classes() - abstract == {type(error) for error in EXAMPLES}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_the_message_says_what_to_do_and_the_exit_code_fits(error: RqprocError) -> None:
    code, text = EXAMPLES[error]
    assert error.exit_code == code
    assert re.search(text, str(error)), str(error)
    assert "\n" not in str(error)


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(InvalidId, ValueError)
    assert issubclass(RequestTimeout, TimeoutError)
    assert issubclass(RedisUnavailable, ConnectionError)


REPORTS = [
    ({"type": "NoLiveNode"}, NoLiveNode, {"namespace": "shop"}),
    (
        {"type": "Overloaded", "node": "n", "queued": 9, "limit": 8},
        Overloaded,
        {"node": "n", "queued": 9, "limit": 8},
    ),
    ({"type": "UnknownResource", "known": ["a"]}, UnknownResource, {"known": ("a",)}),
    (
        {"type": "OtherProtocol", "mine": "2", "others": "1"},
        ProtocolMismatch,
        {"mine": "2", "others": "1"},
    ),
    (
        {"type": "RequestCycle", "way": ["price:1", "cost:2"]},
        RequestCycle,
        {"id": 42, "way": (("price", "1"), ("cost", "2"))},
    ),
    ({"type": "NodeLost", "attempts": 3}, NodeLost, {"id": 42, "attempts": 3}),
    (
        {"type": "OwnerLost", "node": "n", "silent_ms": 1500},
        OwnerLost,
        {"id": 42, "node": "n", "silent_s": 1.5, "attempts": 0},
    ),
    (
        {"type": "HandlerFailed", "remote_type": "E", "message": "m", "traceback": "t"},
        HandlerFailed,
        {"resource": "price", "id": 42, "type": "E", "reason": "m", "traceback": "t"},
    ),
]


@pytest.mark.parametrize(("report", "kind", "attributes"), REPORTS)
def test_a_report_becomes_its_error(
    report: dict[str, object], kind: type[RqprocError], attributes: dict[str, object]
) -> None:
    error = from_remote(report, resource="price", id=42, namespace="shop")
    assert type(error) is kind
    assert {name: getattr(error, name) for name in attributes} == attributes
