"""What a resource's options come to: bounds, and the life of a value."""

from __future__ import annotations

from typing import Any

import pytest

from rqproc import App
from rqproc.errors import ConfigError
from rqproc.policy import Life, Policy, check_own_ttl, policy_of


def test_without_options_a_value_is_a_hit_until_its_ttl_and_nothing_after() -> None:
    policy = policy_of(30.0, {})
    assert policy == Policy(30.0)
    assert policy.ttl_of("null", None, lambda: 0.5) == policy.ttl_of("1", None, lambda: 0.5) == 30
    assert policy.life(100.0, 30.0) == Life(130.0, 130.0, 130.0)
    assert not policy.keeps_late
    assert not policy.remembers(LookupError())


def test_a_life_with_all_options_is_in_order() -> None:
    policy = policy_of(30.0, {"refresh_ahead": 0.5, "stale_ttl": 10, "stale_on_error": 60})
    assert policy.life(100.0, 30.0) == Life(115.0, 130.0, 190.0)
    assert policy.life(100.0, 10.0) == Life(105.0, 110.0, 170.0)
    assert policy.keeps_late
    assert policy.late_s == 60


@pytest.mark.parametrize(("chance", "ttl_s"), [(0.0, 30.0), (0.5, 28.5), (1.0, 27.0)])
def test_a_ttl_is_shortened_by_up_to_its_jitter(chance: float, ttl_s: float) -> None:
    policy = policy_of(30.0, {"ttl_jitter": 0.1})
    assert policy.ttl_of("1", None, lambda: chance) == pytest.approx(ttl_s)
    assert policy.ttl_of("1", 7.0, lambda: chance) == 7.0, "what the handler says is meant so"


def test_none_and_what_is_listed_have_a_ttl_of_their_own() -> None:
    policy = policy_of(30.0, {"negative_ttl": 2, "negative": LookupError})
    assert policy.ttl_of("null", None, lambda: 0.0) == 2
    assert policy.ttl_of("0", None, lambda: 0.0) == 30
    assert policy.remembers(KeyError(1))
    assert not policy.remembers(ValueError())


def test_a_run_is_tried_again_as_often_as_allowed_and_for_what_is_listed() -> None:
    policy = policy_of(0.0, {"retries": 2, "retry_on": (ConnectionError,), "backoff": 1.0})
    broken = ConnectionResetError()
    assert [policy.tries_again(broken, tried) for tried in (0, 1, 2)] == [True, True, False]
    assert not policy.tries_again(ValueError(), 0)
    assert policy.backoff_s == 1.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttl_jitter": 1.5}, "invalid ttl_jitter=1.5: a number from 0 to 1"),
        ({"stale_ttl": -1}, "invalid stale_ttl=-1"),
        ({"stale_ttl": True}, "invalid stale_ttl=True"),
        ({"stale_on_error": "60"}, "invalid stale_on_error='60'"),
        ({"refresh_ahead": float("nan")}, "invalid refresh_ahead=nan"),
        ({"retries": 1.5}, "invalid retries=1.5: a whole number"),
        ({"negative": (404,), "negative_ttl": 1}, "invalid negative=.*classes of exceptions"),
        ({"negative": (KeyboardInterrupt,), "negative_ttl": 1}, "classes of exceptions"),
        ({"negative": (LookupError,)}, "negative needs a negative_ttl"),
        ({"stale": 5}, "unknown options of a resource: stale"),
    ],
)
def test_what_is_out_of_bounds_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        App().resource(ttl=30, **options)


def test_what_keeps_nothing_may_be_tried_again_and_no_more() -> None:
    assert policy_of(0.0, {"retries": 1}).retries == 1
    with pytest.raises(ConfigError, match="stale_ttl is for a resource that keeps its values"):
        policy_of(0.0, {"stale_ttl": 1})


@pytest.mark.parametrize("ttl", [-1, 86_401, "5", None, True, float("nan")])
def test_a_values_own_ttl_has_bounds(ttl: object) -> None:
    assert check_own_ttl(5) == 5.0
    with pytest.raises(ValueError, match="is 0 to 86400 seconds, not"):
        check_own_ttl(ttl)
