"""A resource and the function that it wraps: whose attribute is whose."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from rqproc import App
from rqproc.errors import ConfigError

app = App("redis://nowhere")


def cached(handler: Any) -> Any:
    """As libraries do: a function with attributes of its own."""
    handler.invalidate = "the library's"
    handler.name = "the library's"
    handler.ttl_s = "the library's"
    handler.renew = "the library's"
    return handler


@app.resource(ttl=5)
@cached
def price(id: int) -> int:
    """What it costs."""
    return id


async def fetch(id: int) -> int:
    return id


def test_the_functions_attributes_do_not_replace_the_resources() -> None:
    assert (price.name, price.ttl_s) == ("price", 5.0)
    assert callable(price.invalidate)


def test_the_functions_other_attributes_can_be_had_from_the_resource() -> None:
    assert price.renew == "the library's"
    assert price.__doc__ == "What it costs."
    assert not hasattr(price, "no_such_thing")


def test_a_resource_of_a_resource_is_one_of_its_own() -> None:
    shop = App("redis://nowhere")
    inner = shop.resource(ttl=5, name="inner")(fetch)
    outer = shop.resource(ttl=9, name="outer")(inner)
    assert [(found.name, found.ttl_s) for found in (inner, outer)] == [("inner", 5), ("outer", 9)]
    assert inner.is_async
    assert outer.is_async, "its coroutine is awaited"


def test_a_resource_can_be_copied() -> None:
    for found in (price, price.with_options(timeout=2.0)):
        assert (copy.copy(found).name, copy.deepcopy([found])[0].name) == ("price", "price")


def test_a_resource_is_pickled_by_its_name_as_a_function_is() -> None:
    assert pickle.loads(pickle.dumps(price)) is price
    assert pickle.loads(pickle.dumps(price.request)) == price.request


def test_a_resource_that_its_module_does_not_have_is_not_pickled() -> None:
    elsewhere = App("redis://nowhere").resource(ttl=5, name="elsewhere")(fetch)
    for found in (price.with_options(timeout=2.0), elsewhere):
        with pytest.raises(ConfigError, match=rf"enqueue\('{found.name}', ID\)"):
            pickle.dumps(found)
