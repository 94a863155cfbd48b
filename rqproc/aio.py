"""The asyncio client: the same calls as the blocking one's, in event loops.

Must not know anything about requests that ``calls`` does not already say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from rqproc import tracing
from rqproc.calls.call import Call
from rqproc.calls.jobs import JobOptions
from rqproc.calls.lookup import Nearby
from rqproc.calls.requests import Many, RequestOptions
from rqproc.calls.traced import traced
from rqproc.client import Client
from rqproc.connect import Backend, BaseClient
from rqproc.context import ASKING
from rqproc.errors import RedisUnavailable, RqprocError
from rqproc.explained import Explanation
from rqproc.ids import Id
from rqproc.model import (
    DEFAULT_RESOURCE,
    DEFAULT_TIMEOUT_S,
    Location,
    Membership,
    OnLost,
    Partial,
    Reply,
)
from rqproc.protocol import codec
from rqproc.resource import Declaring, ResourceSpec
from rqproc.stats import ClusterStats

if TYPE_CHECKING:
    from rq.job import Job as RqJob


class AsyncClient(BaseClient):
    """Asks a cluster for values from asyncio. Shared by any number of tasks and of event loops,
    each of which has a connection of its own; what a loop has is closed when ``asyncio.run`` ends.

    Args:
        url: str, the server; see ``Client``, whose other arguments this takes too.

    Raises:
        ConfigError: as for ``Client``; each call, where no event loop of asyncio's runs.

    Example:
        >>> async with AsyncClient("redis://localhost:6379") as client:
        ...     await client.request(42, resource="price")
    """

    def __init__(
        self,
        url: str | Backend | None = None,
        *,
        namespace: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        on_lost: OnLost = "wait",
        app: Declaring | Mapping[str, ResourceSpec] | None = None,
        near: int = 0,
        nearby: Nearby | None = None,
    ) -> None:
        super().__init__(
            url, namespace=namespace, timeout=timeout, on_lost=on_lost, app=app, near=near,
            nearby=nearby,
        )  # fmt: skip
        self._asker = self._backend.async_asker()
        self._blocking = Client(self._backend, namespace=self.namespace)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back the connections of all loops, each as soon as nobody needs it any more. The
        client may be used again.
        """
        if self._near:
            self._near.close()
        await self._asker.close()
        self._backend.close()

    async def request(
        self,
        id: Id,
        resource: str = DEFAULT_RESOURCE,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
    ) -> Any:
        """Return the value of an id. Args, Returns, Raises: as ``Client.request``."""
        if not args and not kwargs and (found := self._requests.find(id, resource)):
            return found.value
        call = self._requests.one(id, resource, args, kwargs, timeout, on_lost)
        return (await self._ask(call)).value(self.keys.namespace)

    async def reply(
        self,
        id: Id,
        resource: str = DEFAULT_RESOURCE,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
    ) -> Reply:
        """Return a value with its node, source, age, time left and token. Args, Raises: as
        ``request``.
        """
        if not args and not kwargs and (found := self._requests.find(id, resource)):
            return found
        call = self._requests.one(id, resource, args, kwargs, timeout, on_lost)
        return (await self._ask(call)).reply(self.keys.namespace)

    @overload
    async def request_many(
        self, ids: Iterable[Id], resource: str = ..., *, partial: Literal[False] = False,
        return_exceptions: bool = False, **options: Unpack[RequestOptions],
    ) -> dict[Id, Any]: ...  # fmt: skip
    @overload
    async def request_many(
        self, ids: Iterable[Id], resource: str = ..., *, partial: Literal[True],
        **options: Unpack[RequestOptions],
    ) -> Partial: ...  # fmt: skip
    async def request_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
        partial: bool = False,
        return_exceptions: bool = False,
    ) -> dict[Id, Any] | Partial:
        """Return the values of many ids. Args, Returns, Raises: as ``Client.request_many``."""
        asked = self._requests.many(ids, resource, timeout, on_lost)
        if not partial and not return_exceptions:
            await self._ask(asked.call)
            return asked.values(return_exceptions=False)
        await self._ask_many(asked)
        return asked.partial() if partial else asked.values(return_exceptions=True)

    async def reply_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
    ) -> dict[Id, Reply | RqprocError]:
        """Return replies or errors. Args, Returns, Raises: as ``Client.reply_many``."""
        asked = self._requests.many(ids, resource, timeout, on_lost)
        await self._ask_many(asked)
        return asked.outcomes()

    async def invalidate(
        self, id: Id, resource: str = DEFAULT_RESOURCE, *, timeout: float | None = None
    ) -> bool:
        """Drop an id's entry. Args, Returns, Raises: as ``Client.invalidate``."""
        call = self._requests.one(id, resource, (), None, timeout, "wait", codec.INVALIDATE)
        with self._requests.dropping(call):
            return bool((await self._ask(call)).value(self.namespace))

    async def invalidate_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> dict[Id, bool]:
        """Drop the entries of many ids. Args, Returns, Raises: as ``Client.invalidate_many``."""
        asked = self._requests.many(ids, resource, timeout, "wait", codec.INVALIDATE)
        with self._requests.dropping(asked.call):
            await self._ask(asked.call)
        return asked.values(return_exceptions=return_exceptions)

    async def invalidate_all(
        self, resource: str | None = None, *, timeout: float | None = None
    ) -> None:
        """Drop all entries of a resource, or of all. Raises: as ``Client.invalidate_all``."""
        call = self._requests.flush(resource, timeout)
        with self._requests.flushing(call):
            (await self._ask(call)).value(self.namespace)

    async def refresh(
        self, id: Id, resource: str = DEFAULT_RESOURCE, *, timeout: float | None = None
    ) -> Reply:
        """Have a value made now. Args, Returns, Raises: as ``Client.refresh``."""
        call = self._requests.one(id, resource, (), None, timeout, "wait", codec.REFRESH)
        with self._requests.dropping(call):
            return (await self._ask(call)).reply(self.namespace)

    async def refresh_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
    ) -> dict[Id, Reply | RqprocError]:
        """Refresh many ids. Args, Returns, Raises: as ``Client.refresh_many``."""
        asked = self._requests.many(ids, resource, timeout, "wait", codec.REFRESH)
        with self._requests.dropping(asked.call):
            await self._ask(asked.call)
        return asked.outcomes()

    async def set(
        self,
        id: Id,
        value: Any,
        resource: str = DEFAULT_RESOURCE,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Put a value in an id's entry. Args, Returns, Raises: as ``Client.set``."""
        call = self._requests.fill(id, resource, value, ttl, timeout)
        with self._requests.dropping(call):
            return bool((await self._ask(call)).value(self.namespace))

    # --- single functions, which block for a round trip: in a thread, beside the loop ---

    async def enqueue(
        self,
        id: Id,
        resource: str = DEFAULT_RESOURCE,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        result_ttl: int | None = None,
        **options: Unpack[JobOptions],
    ) -> RqJob:
        """Enqueue a request; the job's own methods block. Args, Returns, Raises: as
        ``Client.enqueue``.
        """
        work = partial(
            self._blocking.enqueue, id, resource, args=args, kwargs=kwargs, result_ttl=result_ttl,
            **options,
        )  # fmt: skip
        return await self._asker.run(work)

    async def enqueue_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        result_ttl: int | None = None,
        return_exceptions: bool = False,
    ) -> list[RqJob | RqprocError]:
        """Enqueue many requests. Args, Returns, Raises: as ``Client.enqueue_many``."""
        work = partial(
            self._blocking.enqueue_many, list(ids), resource, result_ttl=result_ttl,
            return_exceptions=return_exceptions,
        )  # fmt: skip
        return await self._asker.run(work)

    async def members(self) -> tuple[str, ...]:
        """Return the live members' names. Raises: as ``Client.members``."""
        return (await self.membership()).members

    async def membership(self) -> Membership:
        """Return every live node. Raises: as ``Client.membership``."""
        return await self._asker.run(self._blocking.membership)

    async def stats(self) -> ClusterStats:
        """Return what every live node counts. Raises: as ``Client.stats``."""
        return await self._asker.run(self._blocking.stats)

    async def owner(self, id: Id) -> str | None:
        """Return the name of an id's owner. Raises: as ``Client.owner``."""
        return (await self.locate([id]))[0].owner

    async def locate(self, ids: Iterable[Id], resource: str = DEFAULT_RESOURCE) -> list[Location]:
        """Return where ids live. Args, Returns, Raises: as ``Client.locate``."""
        return await self._asker.run(partial(self._blocking.locate, list(ids), resource))

    async def explain(
        self, id: Id, resource: str = DEFAULT_RESOURCE, *, timeout: float = 3.0
    ) -> Explanation:
        """Return why an id is where it is. Args, Returns, Raises: as ``Client.explain``."""
        work = partial(self._blocking.explain, id, resource, timeout=timeout)
        return await self._asker.run(work)

    async def drain(self, node: str) -> bool:
        """Ask a node to end. Args, Returns, Raises: as ``Client.drain``."""
        return await self._asker.run(partial(self._blocking.drain, node))

    async def report_death(self, node: str, *, pid: int, host: str) -> bool:
        """Tell of a death. Args, Returns, Raises: as ``Client.report_death``."""
        work = partial(self._blocking.report_death, node, pid=pid, host=host)
        return await self._asker.run(work)

    # --- inside ---

    async def _ask_many(self, asked: Many) -> None:
        """Have what can be answered. Raises: RedisUnavailable: nothing has come."""
        try:
            await self._ask(asked.call)
        except RedisUnavailable as error:
            asked.failed(error)

    async def _ask(self, call: Call) -> Call:
        """Have a call answered. Raises: RedisUnavailable."""
        if tracing.tracer is not None and call.trace is None and call.left:
            with traced(call, self.namespace):
                return await self._ask(call)
        if self._near is None and call.on_lost == "wait" and ASKING.get() is None:
            if call.left:
                await self._asker.ask(call)
        elif call.left:
            with self._requests.begin(call) as pending:
                try:
                    await self._asker.ask(call)
                except RedisUnavailable as error:
                    pending.failed(error)
                if fallback := pending.fallback_call():
                    await self._backend.fallback(fallback.resource).async_asker().ask(fallback.call)
                    fallback.take_over()
        return call
