"""Which errors mean that no node could answer, and what is done for which request."""

from __future__ import annotations

import pytest
from made_calls import a_call, answer, group_answer, rest

from rqproc import App
from rqproc.calls.fallback import Fallback
from rqproc.errors import (
    ConfigError,
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
from rqproc.model import Reply
from rqproc.protocol import answer_codec

APP = App("redis://nowhere")


@APP.resource(ttl=30)
def price(id: object) -> object:
    return id


OTHER = App("redis://nowhere")
OTHER.resource(ttl=30, name="price")(price.handler)

OVERLOADED = b'{"type": "LocallyOverloaded", "node": "n1", "queued": 16, "limit": 16}'

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


def fallen_back(*outcomes: Reply | RqprocError) -> list[object]:
    """The ids of those that this process is to answer, of ids 0, 1, ..."""
    call = a_call(*range(len(outcomes)), timeout_s=5.0)
    for place, outcome in enumerate(outcomes):
        call.take(place, outcome)
    fallback_call = Fallback.of("local", APP).fallback_call(call, "shop")
    if fallback_call is None:
        return []
    own = fallback_call.call
    assert (own.deadline, own.timeout_s, own.left) == (call.deadline, 5.0, len(own.ids))
    assert fallback_call.resource is price
    return list(own.ids)


@pytest.mark.parametrize("error", [*LOST, EmbeddedUnavailable("no binary")], ids=repr)
def test_what_no_node_could_answer_is_done_here(error: RqprocError) -> None:
    assert fallen_back(error) == [0]


@pytest.mark.parametrize("error", ANSWERED, ids=repr)
def test_what_was_answered_is_not(error: RqprocError) -> None:
    assert fallen_back(error) == []


def test_of_many_only_what_was_lost() -> None:
    assert fallen_back(REPLY, LOST[0], ANSWERED[0], LOST[2]) == [1, 3]


def test_what_was_answered_in_a_group_before_an_outage_is_not_done_here() -> None:
    call = a_call(0, 1, 2)
    call.take_group(0, rest(group_answer("g", 0, 2)))
    call.outage = RedisUnavailable("there", "away")
    fallback_call = Fallback.of("local", APP).fallback_call(call, "shop")
    assert fallback_call
    assert fallback_call.call.ids == [1]


def test_arguments_go_along() -> None:
    call = a_call(1, kind="a", args=(5,))
    call.take(0, LOST[0])
    fallback_call = Fallback.of("local", APP).fallback_call(call, "shop")
    assert fallback_call
    assert fallback_call.call.args == (5,)


def test_what_is_done_here_becomes_the_answer_and_what_is_not_is_late() -> None:
    call = a_call(0, 1, 2, 3)
    call.take(1, REPLY)
    call.outage = RedisUnavailable("there", "away")
    fallback_call = Fallback.of("local", APP).fallback_call(call, "shop")
    assert fallback_call
    fallback_call.call.take(0, rest(answer("r-1", 7)))
    fallback_call.call.take(1, answer_codec.refusal(OVERLOADED))
    fallback_call.take_over()
    done, found, refused, late = call.outcomes("shop").values()
    assert done == Reply(0, 7, "n1", "local", age_s=0.0, expires_in_s=0.0, token=0)
    assert found is REPLY
    assert isinstance(refused, LocallyOverloaded)
    assert isinstance(late, RequestTimeout)
    assert (late.resource, late.id) == ("price", 3)


def test_resources_of_one_name_are_asked_for_by_different_ones() -> None:
    names = set()
    for app in (APP, OTHER):
        call = a_call(1)
        call.take(0, LOST[0])
        fallback_call = Fallback.of("local", app).fallback_call(call, "shop")
        assert fallback_call
        names.add((fallback_call.call.resource, fallback_call.call.addresses[0]))
    assert len({name for name, _ in names}) == len({address for _, address in names}) == 2


def test_a_mapping_is_as_good_as_an_app() -> None:
    assert Fallback.of("local", {"price": price}).choose("price", None) == "local"
    assert Fallback.of("local", APP).choose("price", "wait") == "wait"


def test_a_handler_that_is_not_here_cannot_be_run_here() -> None:
    with pytest.raises(ConfigError, match="needs the handler of 'cost'"):
        Fallback.of("wait", APP).choose("cost", "local")


@pytest.mark.parametrize(("on_lost", "app"), [("never", APP), ("wait", 5)])
def test_what_is_no_policy_or_no_app_is_refused(on_lost: object, app: object) -> None:
    with pytest.raises(ConfigError):
        Fallback.of(on_lost, app)  # type: ignore[arg-type]
