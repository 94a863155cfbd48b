"""Stateful ids as an app declares and calls them: one object per id, at its owner.

Knows a class and clients. Must not know where objects live.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, cast

from rqproc.calls.jobs import JobOptions
from rqproc.clients import HasClients
from rqproc.ids import Id
from rqproc.model import OnLost
from rqproc.objects import OBJECTS, StatefulClass
from rqproc.options import Options
from rqproc.resource import Around, ResourceSpec
from rqproc.stock import requester

if TYPE_CHECKING:
    from rq.job import Job as RqJob


T = TypeVar("T")


class Stateful(ResourceSpec, Generic[T]):
    """A class of which each id has one object, at its owner; its methods run one at a time.

    Called directly it makes an ordinary object, without any cluster.
    """

    def __init__(
        self, app: HasClients, kind: StatefulClass, *, options: Options, timeout_s: float | None,
        around: list[Around],
    ) -> None:  # fmt: skip
        super().__init__(
            _handler(kind), name=kind.name, ttl_s=0.0, timeout_s=timeout_s, near=False,
            on_lost=options.on_lost,
        )  # fmt: skip
        self.app = app
        self.kind = kind
        self.around = around
        self.idle_s = kind.idle_s
        self._options = options

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        made: T = (requester(self) or self.kind.cls)(*args, **kwargs)
        return made

    def at(self, id: Id) -> T:
        """Return what stands for an id's object: calling its methods is a request.

        A plain method blocks and returns its value; one that is ``async def`` is awaited. Only
        methods are there, no attributes. Raises: as ``Client.request``, when they are called.

        Example:
            >>> Account.at(42).deposit(5)
        """
        return cast(T, _Remote(self, id))

    def call(self, id: Id, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method by its name; return its value. Raises: as ``Client.request``."""
        return self.app.client.request(
            id, self.name, args=(method, *args), kwargs=kwargs, **self._options.of_request
        )

    async def acall(self, id: Id, method: str, *args: Any, **kwargs: Any) -> Any:
        """``call`` for asyncio, for plain methods too. Raises: as ``Client.request``."""
        return await self.app.async_client.request(
            id, self.name, args=(method, *args), kwargs=kwargs, **self._options.of_request
        )

    def enqueue(self, id: Id, method: str, *args: Any, **kwargs: Any) -> RqJob:
        """Enqueue a call; return the ``rq.job.Job`` at once. Raises: as ``Client.enqueue``."""
        return self.app.client.enqueue(
            id, self.name, args=(method, *args), kwargs=kwargs,
            result_ttl=self._options.result_ttl, **self._options.job,
        )  # fmt: skip

    def with_options(
        self, *, timeout: float | None = None, result_ttl: int | None = None,
        on_lost: OnLost | None = None, **job: Unpack[JobOptions],
    ) -> Stateful[T]:  # fmt: skip
        """Return this with other options; see ``Resource.with_options``. Raises: ConfigError."""
        options = self._options.with_others(
            timeout=timeout, result_ttl=result_ttl, on_lost=on_lost, job=job
        )
        around = cast(list[Around], self.around)
        return Stateful(
            self.app, self.kind, options=options, timeout_s=self.timeout_s, around=around
        )

    def __repr__(self) -> str:
        return f"<Stateful {self.name} idle={self.idle_s:g}>"


class _Remote:
    """An id's object, as callers see it."""

    __slots__ = ("_id", "_of")

    def __init__(self, of: Stateful[Any], id: Id) -> None:
        self._of = of
        self._id = id

    def __getattr__(self, name: str) -> Callable[..., Any]:
        of, id = self._of, self._id
        method = of.kind.method(of.kind.cls, name)
        request = of.acall if of.kind.is_coroutine(name) else of.call

        def call(*args: Any, **kwargs: Any) -> Any:
            return request(id, name, *args, **kwargs)

        return update_wrapper(call, method)

    def __repr__(self) -> str:
        return f"<{self._of.name} {self._id!r}>"


def _handler(kind: StatefulClass) -> Callable[..., Any]:
    """Return what a node calls for a run. ``method``: its name; or what the node itself holds."""

    def handler(id: Id, method: object, /, *args: Any, **kwargs: Any) -> Any:
        return OBJECTS.get().call(kind, method, args, kwargs)

    async def async_handler(id: Id, method: object, /, *args: Any, **kwargs: Any) -> Any:
        return await OBJECTS.get().acall(kind, method, args, kwargs)

    found = async_handler if kind.is_async else handler
    return update_wrapper(found, kind.cls, updated=())
