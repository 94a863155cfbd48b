"""What a resource is to those who serve it: a named handler, and how its values are kept.

Knows handlers. Must not know clients, apps or nodes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import update_wrapper
from typing import Any, Protocol

from rqproc.model import OnLost

Around = Callable[[Any], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]
"""Makes what a run is entered and left through, of its ``Current``."""


class ResourceSpec:
    """A named handler, whose own attributes can be had from this too.

    Attributes:
        handler: ``handler(id)`` makes the value of an id; with ``ttl_s`` 0 it may take arguments.
        name: under which it is requested.
        ttl_s: seconds that a value is kept by its owner; 0 for a choke point, which runs one at a
            time per id and keeps nothing.
        timeout_s: seconds that a run may take; None for no limit.
        near: whether callers keep replies too; None where their client decides.
        on_lost: what to do where no node can answer; None where the client decides.
        is_async: the handler is a coroutine function; it runs on the node's event loop.
        around: what each run is entered through, in this order.
    """

    around: Sequence[Around] = ()

    def __init__(
        self, handler: Callable[..., Any], *, name: str, ttl_s: float,
        timeout_s: float | None = None, near: bool | None = None, on_lost: OnLost | None = None,
    ) -> None:  # fmt: skip
        self.handler = handler
        self.name = name
        self.ttl_s = ttl_s
        self.timeout_s = timeout_s
        self.near = near
        self.on_lost = on_lost
        inner = handler.is_async if isinstance(handler, ResourceSpec) else None
        self.is_async = inspect.iscoroutinefunction(handler) if inner is None else inner
        # Its name and texts alone: what else a function has on it must not replace what is ours.
        update_wrapper(self, handler, updated=())  # type: ignore[arg-type]  # a function, with more

    def __getattr__(self, name: str) -> Any:
        """Return what the handler has on it, where this has nothing of that name."""
        if name == "handler":  # not there yet, as while it is being copied
            raise AttributeError(name)
        return getattr(self.handler, name)

    def __repr__(self) -> str:
        return f"<Resource {self.name} ttl={self.ttl_s:g}>"

    def served_by(self, handler: Callable[..., Any]) -> ResourceSpec:
        """Return the same with another handler."""
        served = ResourceSpec(
            handler, name=self.name, ttl_s=self.ttl_s, timeout_s=self.timeout_s, near=self.near,
            on_lost=self.on_lost,
        )  # fmt: skip
        served.around = self.around
        return served

    @property
    def unique_name(self) -> str:
        """A name that no other resource in this process has, while this one lives."""
        return f"{self.name[:80]}.{id(self):x}"

    @property
    def path(self) -> str:
        """The handler's dotted path, by which RQ applications may name it."""
        return f"{self.handler.__module__}.{self.handler.__qualname__}"


class Declaring(Protocol):
    """Who declares resources: an ``App``."""

    @property
    def resources(self) -> Mapping[str, ResourceSpec]: ...
