"""Which errors mean that no node could answer, and what is done for which request."""

from __future__ import annotations

import pytest

from rqproc import App, calls
from rqproc.errors import (
    EmbeddedUnavailable,
    HandlerFailed,
    LocallyOverloaded,
    NodeLost,
    NoLiveNode,
    Overloaded,
    OwnerLost,
    RedisUnavailable,
    RequestTimeout,
    RqprocError,
    UnknownResource,
)
from rqproc.keys import Keys
from rqproc.losses import Losses
from rqproc.model import Reply, Request

APP = App("redis://nowhere")
KEYS = Keys("shop")


@APP.resource(ttl=30)
def price(id: object) -> object:
    return id


REPLY = Reply(1, 1, "n", "hit", 0.0, 1.0, 7)

LOST = [NoLiveNode("shop"), OwnerLost("price", 1, "n", 3.0), RedisUnavailable("there", "away")]
ANSWERED = [
    HandlerFailed("price", 1, "ValueError", "no"),
    HandlerFailed("price", 1, "NoLiveNode", "of a request that the handler made"),
    NodeLost("price", 1, 3),
    Overloaded("n", 9, 8),
    LocallyOverloaded("here", 16),
    RequestTimeout("price", 1, 2.0),
    UnknownResource("price", ["a"]),
]


def errands(*outcomes: Reply | RqprocError) -> list[object]:
    """The ids of those that this process is to answer, of ids 0, 1, ..."""
    requests = [Request("price", id) for id in range(len(outcomes))]
    sent = calls.batch(requests, kind="call", timeout_s=5.0)
    found = Losses.of("local", APP).errands(
        dict(enumerate(outcomes)), sent, deadline=50.0, keys=KEYS
    )
    assert {errand.queues for errand in found} <= {len(found) > 1}
    assert {(errand.deadline, errand.timeout_s) for errand in found} <= {(50.0, 5.0)}
    return [errand.request.id for errand in found]


@pytest.mark.parametrize("error", [*LOST, EmbeddedUnavailable("no binary")], ids=repr)
def test_what_no_node_could_answer_is_done_here(error: RqprocError) -> None:
    assert errands(error) == [0]


@pytest.mark.parametrize("error", ANSWERED, ids=repr)
def test_what_was_answered_is_not(error: RqprocError) -> None:
    assert errands(error) == []


def test_of_many_only_what_was_lost() -> None:
    assert errands(REPLY, LOST[0], ANSWERED[0], LOST[2]) == [1, 3]


def test_a_mapping_is_as_good_as_an_app() -> None:
    assert Losses.of("local", {"price": price}).choose("price", None) == "local"
    assert Losses.of("local", APP).choose("price", "wait") == "wait"
