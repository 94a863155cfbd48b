"""What a resource is to those who serve it: a named handler, and how its values are kept.

Knows handlers. Must not know clients, apps or nodes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from functools import update_wrapper
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, Self

from rqproc.errors import ConfigError
from rqproc.model import OnLost, Request
from rqproc.policy import Policy

Around = Callable[[Any], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]
"""Makes what a run is entered and left through, of its ``Current``."""


class ResourceSpec:
    """A named handler, whose own attributes can be had from this too.

    Attributes:
        handler: ``handler(id)`` makes the value of an id; with ``ttl_s`` 0 it may take arguments;
            with ``policy.batch``, ``handler(ids)`` makes a dict of values.
        name: under which it is requested.
        ttl_s: seconds that a value is kept by its owner; 0 for a choke point, which runs one at a
            time per id and keeps nothing.
        policy: for how long values and errors are kept, and what is done where a run fails.
        timeout_s: seconds that a run may take; None for no limit.
        near: whether callers keep replies too; None where their client decides.
        on_lost: what to do where no node can answer; None where the client decides.
        is_async: the handler is a coroutine function; it runs on the node's event loop.
        around: what each run is entered through, in this order.
        lane: under whose name it is asked for, with its own as the first argument, so that of an id
            all runs of the lane are made one at a time; None where it has its own.
        members: of a lane's own resource, those that are in it, by name; None of any other.
        idle_s: of a stateful class, seconds without a call after which an object is closed; None
            for a handler.
    """

    around: Sequence[Around] = ()
    lane: str | None = None
    members: Mapping[str, ResourceSpec] | None = None
    idle_s: float | None = None

    def __init__(
        self, handler: Callable[..., Any], *, name: str, ttl_s: float,
        timeout_s: float | None = None, near: bool | None = None, on_lost: OnLost | None = None,
        policy: Policy | None = None,
    ) -> None:  # fmt: skip
        self.handler = handler
        self.name = name
        self.ttl_s = ttl_s
        self.policy = policy or Policy(ttl_s)
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

    def __reduce__(self) -> str:
        """Pickle it by its name, as a function is: so RQ applications enqueue it itself.

        Raises:
            ConfigError: it cannot be found by its name.
        """
        name: str = self.__qualname__
        with suppress(KeyError, AttributeError):
            if attrgetter(name)(sys.modules[self.__module__]) is self:
                return name
        raise ConfigError(
            f"the resource {self.name!r} cannot be pickled, as for Queue.enqueue: it is not what "
            f"the module {self.__module__} has as {name}. A copy with options is not; "
            f"any resource can be enqueued by its name, enqueue({self.name!r}, ID)"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<Resource {self.name} ttl={self.ttl_s:g}>"

    def served_by(self, handler: Callable[..., Any]) -> ResourceSpec:
        """Return the same with another handler."""
        served = ResourceSpec(
            handler, name=self.name, ttl_s=self.ttl_s, timeout_s=self.timeout_s, near=self.near,
            on_lost=self.on_lost, policy=self.policy,
        )  # fmt: skip
        served.around, served.idle_s = self.around, self.idle_s
        served.lane, served.members = self.lane, self.members
        return served

    def asked(self, args: tuple[Any, ...] = ()) -> tuple[str, tuple[Any, ...]]:
        """Return by which name, and with which arguments, it is asked for: those of its lane."""
        return (self.lane, (self.name, *args)) if self.lane else (self.name, args)

    def member(self, request: Request) -> tuple[ResourceSpec, Request]:
        """Return what is run for a request, which may be a lane's.

        Raises:
            LookupError: it has no such member, or it is in a lane and was not asked for there.
        """
        if self.lane:
            raise LookupError(
                f"{self.name} is in the lane {self.lane!r}: ask for resource={self.lane!r} with "
                f"args=({self.name!r}, ...)"
            )
        if self.members is None:
            return self, request
        name, *args = request.args or (None,)
        found = self.members.get(name) if isinstance(name, str) else None
        if found is None:
            known = ", ".join(self.members)
            raise LookupError(f"the lane {self.name} has {known}: give one as the first argument")
        return found, request._replace(resource=found.name, args=tuple(args))

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


def check_signature(
    handler: Callable[..., Any], name: str, *, keeps: bool, batch: bool = False
) -> None:
    """Check that a handler can be called: with an id alone where its values are kept, or ids.

    Raises:
        ConfigError: it cannot.
    """
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the handler of {name!r} is not a function: {error}") from error
    try:
        if keeps:
            signature.bind("id")
        else:
            signature.bind_partial("id")
    except TypeError as error:
        takes = "an id and nothing else (ttl > 0)" if keeps else "an id first"
        takes = "a list of ids and nothing else (batch)" if batch else takes
        raise ConfigError(f"the handler of {name!r} must take {takes}: {error}") from error


def code_of(resources: Mapping[str, ResourceSpec]) -> str:
    """Return a digest by which two processes see whether they serve the same code: of the names of
    the resources, and the files that their handlers are in.
    """
    digest = sha256(" ".join(sorted(resources)).encode())
    modules = {resource.handler.__module__ for resource in resources.values()}
    for name in sorted(modules):
        file = getattr(sys.modules.get(name), "__file__", None)
        with suppress(OSError):  # it was put together, or has gone since
            digest.update(Path(file).read_bytes() if file else b"")
    return digest.hexdigest()[:12]
