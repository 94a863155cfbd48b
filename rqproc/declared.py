"""A named handler, and how values are asked of it by that name.

Knows handlers and clients. Must not know what declares it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, Unpack, overload

from rqproc.calls.jobs import JobOptions
from rqproc.clients import HasClients
from rqproc.errors import ConfigError, RqprocError
from rqproc.ids import Id
from rqproc.model import OnLost, Partial, Reply
from rqproc.options import Options
from rqproc.policy import Policy
from rqproc.resource import Around, ResourceSpec
from rqproc.stock import requester

if TYPE_CHECKING:
    from rq.job import Job as RqJob

P = ParamSpec("P")
R = TypeVar("R")


class Resource(ResourceSpec, Generic[P, R]):
    """A named handler. Called directly it is the plain function, without any cluster.

    Attributes:
        app: whose clients it is asked over. For all others see ``ResourceSpec``.
    """

    handler: Callable[P, R]

    def __init__(
        self, app: HasClients, handler: Callable[P, R], *, name: str, ttl_s: float,
        options: Options,
        timeout_s: float | None = None, near: bool | None = None, policy: Policy | None = None,
        lane: str | None = None, around: Sequence[Around] = (),
    ) -> None:  # fmt: skip
        super().__init__(
            handler, name=name, ttl_s=ttl_s, timeout_s=timeout_s, near=near,
            on_lost=options.on_lost, policy=policy,
        )  # fmt: skip
        self.app = app
        self.around = around
        self.lane = lane
        self._options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return (requester(self) or self.handler)(*args, **kwargs)

    def with_options(
        self,
        *,
        timeout: float | None = None,
        result_ttl: int | None = None,
        on_lost: OnLost | None = None,
        **job: Unpack[JobOptions],
    ) -> Resource[P, R]:
        """Return this resource with other options; all arguments of ``request`` are the handler's.

        Args:
            timeout: seconds to wait for an answer.
            result_ttl: seconds that the result of ``enqueue`` is kept.
            on_lost: what to do where no node can answer; see ``Client``.
            job: options of RQ's own for ``enqueue``; see ``Client.enqueue``.

        Raises:
            ConfigError: out of bounds, or no such option.
        """
        options = self._options.with_others(
            timeout=timeout, result_ttl=result_ttl, on_lost=on_lost, job=job
        )
        return Resource(
            self.app, self.handler, name=self.name, ttl_s=self.ttl_s, options=options,
            timeout_s=self.timeout_s, near=self.near, policy=self.policy, lane=self.lane,
            around=self.around,
        )  # fmt: skip

    def request(self, id: Id, *args: Any, **kwargs: Any) -> Any:
        """Return the value of an id; blocks. Raises: as ``Client.request``."""
        return self.reply(id, *args, **kwargs).value

    def reply(self, id: Id, *args: Any, **kwargs: Any) -> Reply:
        """Return the value with where it came from. Raises: as ``Client.request``."""
        name, args = self.asked(args)
        return self.app.client.reply(id, name, args=args, kwargs=kwargs, **self._options.of_request)

    @overload
    def request_many(
        self, ids: Iterable[Id], *, partial: Literal[False] = False
    ) -> dict[Id, Any]: ...
    @overload
    def request_many(self, ids: Iterable[Id], *, partial: Literal[True]) -> Partial: ...
    def request_many(self, ids: Iterable[Id], *, partial: bool = False) -> dict[Id, Any] | Partial:
        """Return the values of many ids in one round trip; with ``partial`` those that came in
        time, and the errors of the others. Raises: as ``Client.request_many``.
        """
        client, options = self.app.client, self._options.of_request
        if partial:
            return client.request_many(ids, self._many, partial=True, **options)
        return client.request_many(ids, self._many, **options)

    def reply_many(self, ids: Iterable[Id]) -> dict[Id, Reply | RqprocError]:
        """Return the reply of each id, or the error that it ended in. Raises: as
        ``Client.reply_many``.
        """
        return self.app.client.reply_many(ids, self._many, **self._options.of_request)

    async def arequest(self, id: Id, *args: Any, **kwargs: Any) -> Any:
        """``request`` for asyncio. Raises: as ``Client.request``."""
        name, args = self.asked(args)
        return await self.app.async_client.request(
            id, name, args=args, kwargs=kwargs, **self._options.of_request
        )

    @overload
    async def arequest_many(
        self, ids: Iterable[Id], *, partial: Literal[False] = False
    ) -> dict[Id, Any]: ...
    @overload
    async def arequest_many(self, ids: Iterable[Id], *, partial: Literal[True]) -> Partial: ...
    async def arequest_many(
        self, ids: Iterable[Id], *, partial: bool = False
    ) -> dict[Id, Any] | Partial:
        """``request_many`` for asyncio. Raises: as ``Client.request_many``."""
        client, options = self.app.async_client, self._options.of_request
        if partial:
            return await client.request_many(ids, self._many, partial=True, **options)
        return await client.request_many(ids, self._many, **options)

    async def areply_many(self, ids: Iterable[Id]) -> dict[Id, Reply | RqprocError]:
        """``reply_many`` for asyncio. Raises: as ``Client.reply_many``."""
        return await self.app.async_client.reply_many(ids, self._many, **self._options.of_request)

    @property
    def _many(self) -> str:
        """The name by which many ids are asked for at once, which takes no arguments."""
        if self.lane:
            raise ConfigError(f"{self.name} is in the lane {self.lane!r}: ask for one id at a time")
        return self.name

    def enqueue(self, id: Id, *args: Any, **kwargs: Any) -> RqJob:
        """Enqueue and return the ``rq.job.Job`` at once. Raises: as ``Client.enqueue``."""
        name, args = self.asked(args)
        return self.app.client.enqueue(
            id, name, args=args, kwargs=kwargs, result_ttl=self._options.result_ttl,
            **self._options.job,
        )  # fmt: skip

    def enqueue_many(self, ids: Iterable[Id]) -> list[RqJob]:
        """Enqueue a request of each id; return their jobs.

        Raises:
            as ``Client.enqueue_many``; ConfigError: with RQ's own options, which are for one job.
        """
        if self._options.job:
            raise ConfigError(f"options of one job: {', '.join(self._options.job)}; use enqueue()")
        jobs: list[Any] = self.app.client.enqueue_many(
            ids, self._many, result_ttl=self._options.result_ttl
        )
        return jobs

    async def aenqueue(self, id: Id, *args: Any, **kwargs: Any) -> RqJob:
        """``enqueue`` for asyncio; the job's own methods block. Raises: as ``Client.enqueue``."""
        return await self.app.async_client.enqueue(
            id, self.name, args=args, kwargs=kwargs, result_ttl=self._options.result_ttl,
            **self._options.job,
        )  # fmt: skip

    def invalidate(self, id: Id) -> bool:
        """Drop an id's entry; return whether there was one. Raises: as ``Client.request``."""
        return self.app.client.invalidate(id, self.name, timeout=self._options.timeout)

    async def ainvalidate(self, id: Id) -> bool:
        """``invalidate`` for asyncio. Raises: as ``Client.request``."""
        return await self.app.async_client.invalidate(id, self.name, timeout=self._options.timeout)

    def invalidate_many(self, ids: Iterable[Id]) -> dict[Id, bool]:
        """Drop many entries in one round trip. Raises: as ``Client.request``."""
        return self.app.client.invalidate_many(ids, self.name, timeout=self._options.timeout)

    async def ainvalidate_many(self, ids: Iterable[Id]) -> dict[Id, bool]:
        """``invalidate_many`` for asyncio. Raises: as ``Client.request``."""
        return await self.app.async_client.invalidate_many(
            ids, self.name, timeout=self._options.timeout
        )

    def invalidate_all(self) -> None:
        """Drop all entries of this resource. Raises: as ``Client.invalidate_all``."""
        self.app.client.invalidate_all(self.name, timeout=self._options.timeout)

    async def ainvalidate_all(self) -> None:
        """``invalidate_all`` for asyncio. Raises: as ``Client.invalidate_all``."""
        await self.app.async_client.invalidate_all(self.name, timeout=self._options.timeout)

    def refresh(self, id: Id) -> Any:
        """Have the value made now, and return it. Raises: as ``Client.refresh``."""
        return self.app.client.refresh(id, self.name, timeout=self._options.timeout).value

    async def arefresh(self, id: Id) -> Any:
        """``refresh`` for asyncio. Raises: as ``Client.refresh``."""
        client = self.app.async_client
        return (await client.refresh(id, self.name, timeout=self._options.timeout)).value

    def set(self, id: Id, value: Any, *, ttl: float | None = None) -> bool:
        """Put a value in an id's entry. Returns, Raises: as ``Client.set``."""
        return self.app.client.set(id, value, self.name, ttl=ttl, timeout=self._options.timeout)

    async def aset(self, id: Id, value: Any, *, ttl: float | None = None) -> bool:
        """``set`` for asyncio. Returns, Raises: as ``Client.set``."""
        return await self.app.async_client.set(
            id, value, self.name, ttl=ttl, timeout=self._options.timeout
        )
