"""What a stateful class is to those who serve it, and what its methods may ask of them.

Knows a class and its methods. Must not know where its objects live, nor where states are kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from rqproc.errors import ConfigError
from rqproc.ids import Id

CLOSE = "close"
MAX_IDLE_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class StatefulClass:
    """A class of which each id has one object.

    Attributes:
        name: of its resource.
        idle_s: seconds without a call after which an object is closed.
        methods: the names that may be called.
        is_async: some of these are coroutine functions: all run on the event loop.
    """

    name: str
    cls: type[Any]
    idle_s: float
    methods: frozenset[str]
    is_async: bool

    def make(self, id: Id, state: Any) -> Any:
        return self.cls(id, state)

    def method(self, instance: Any, name: object) -> Any:
        """Return a bound method. Raises: AttributeError: there is none that may be called."""
        if name in self.methods:
            return getattr(instance, str(name))
        known = ", ".join(sorted(self.methods))
        raise AttributeError(f"{self.name} has no method {name!r}, but {known}")

    def is_coroutine(self, name: str) -> bool:
        return inspect.iscoroutinefunction(getattr(self.cls, name))

    def close(self, instance: Any) -> Any:
        """Return what its ``close`` does, or the coroutine of it; None where it has none."""
        return getattr(instance, CLOSE)() if CLOSE in self.methods else None


def stateful_class(cls: type[Any], name: str, idle_s: float) -> StatefulClass:
    """Look at a class.

    Raises:
        ConfigError: it cannot be made of an id and a state, its ``close`` takes arguments, it has
            no methods, or ``idle_s`` is not over 0 and up to a week.
    """
    if not inspect.isclass(cls):
        raise ConfigError(f"{name!r} is not a class: @app.resource declares functions")
    if not isinstance(idle_s, int | float) or not 0 < idle_s <= MAX_IDLE_S:
        raise ConfigError(f"invalid idle={idle_s!r}: seconds, over 0 and up to a week")
    found = {
        name: method
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }
    if not found:
        raise ConfigError(f"the class {name!r} has no methods that could be called")
    try:
        inspect.signature(cls).bind("id", None)
        if CLOSE in found:
            inspect.signature(found[CLOSE]).bind("self")
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the class {name!r} must have __init__(self, id, state=None), and close(self) if any: "
            f"{error}"
        ) from error
    is_async = any(map(inspect.iscoroutinefunction, found.values()))
    return StatefulClass(name, cls, float(idle_s), frozenset(found), is_async)


class ObjectKeeper(Protocol):
    """Who has the objects: a node, or what serves ``local://``."""

    def call(
        self, kind: StatefulClass, method: object, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call a method of the object of the present run's id."""

    async def acall(
        self, kind: StatefulClass, method: object, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any: ...


OBJECTS: ContextVar[ObjectKeeper] = ContextVar("rqproc_objects")


class StateKeeper(Protocol):
    """Keeps the state of one object, in one of its runs."""

    def save(self, state: Any) -> None: ...
    async def asave(self, state: Any) -> None: ...


SAVING: ContextVar[StateKeeper] = ContextVar("rqproc_saving")


def save(state: Any) -> None:
    """Keep the state of the calling object: what it has done up to now survives its node.

    For methods of ``@app.stateful`` classes. Returns when the server has it. It is given to the
    ``__init__`` of the id's next object, unless ``close`` or another ``save`` keeps a later one.

    Args:
        state: JSON, up to 1 MiB; None for none.

    Raises:
        TypeError: it is not JSON, or too large; what was kept before stays.
        StateSuperseded: this node has lost its lease, and the next owner has taken the state.
        RedisUnavailable: nobody knows whether it is kept.
        LookupError: not called from such a method.
    """
    _keeper().save(state)


async def asave(state: Any) -> None:
    """``save`` for classes with coroutines. Raises: as ``save``."""
    await _keeper().asave(state)


def _keeper() -> StateKeeper:
    try:
        return SAVING.get()
    except LookupError:
        raise LookupError("rqproc.save() is for methods of stateful ids, while they run") from None
