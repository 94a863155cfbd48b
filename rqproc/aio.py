"""The asyncio client: the same calls as the blocking one's, in one event loop.

Must not know anything about requests that ``calls`` does not already say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rqproc.backend import Backend, backend_of
from rqproc.calls.call import Call
from rqproc.calls.fallback import Declaring, Fallback, Servable
from rqproc.calls.requests import Requests
from rqproc.context import ASKING
from rqproc.errors import RedisUnavailable
from rqproc.model import DEFAULT_RESOURCE, DEFAULT_TIMEOUT_S, OnLost, Reply
from rqproc.nearby import Nearby
from rqproc.placement import Id
from rqproc.protocol.keys import Keys
from rqproc.settings import resolve_namespace


class AsyncClient:
    """Asks a cluster for values from asyncio; in one event loop at a time.

    Args:
        url, namespace, timeout, on_lost, app, near, nearby: as for ``Client``.

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
        app: Declaring | Mapping[str, Servable] | None = None,
        near: int = 0,
        nearby: Nearby | None = None,
    ) -> None:
        self.keys = Keys(resolve_namespace(namespace))
        fallback = Fallback.of(on_lost, app)
        self._backend = backend_of(url, self.keys, app)
        self._near = self._backend.near_cache(near, fallback, app)
        self._requests = Requests(
            self.keys.namespace, fallback, timeout=timeout, near=self._near, nearby=nearby,
            ground=self._backend.ground,
        )  # fmt: skip
        self._asker = self._backend.async_asker()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client may be used again."""
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
        """Return the value of an id. Raises: as ``Client.request``."""
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
        """Return the value of an id with its story. Raises: as ``Client.request``."""
        if not args and not kwargs and (found := self._requests.find(id, resource)):
            return found
        call = self._requests.one(id, resource, args, kwargs, timeout, on_lost)
        return (await self._ask(call)).reply(self.keys.namespace)

    async def request_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
        return_exceptions: bool = False,
    ) -> dict[Id, Any]:
        """Return the values of many ids in one round trip. Raises: as ``Client.request_many``."""
        asked = self._requests.many(ids, resource, timeout, on_lost)
        await self._ask(asked.call)
        return asked.values(return_exceptions=return_exceptions)

    async def _ask(self, call: Call) -> Call:
        """Have a call answered. Raises: RedisUnavailable."""
        if self._near is None and call.on_lost == "wait" and ASKING.get() is None:
            if call.left:
                await self._asker.ask(call)
        elif call.left:
            with self._requests.begin(call) as pending:
                try:
                    await self._asker.ask(call)
                except RedisUnavailable as error:
                    pending.failed(error)
                if errands := pending.errands():
                    from rqproc import local  # takes long to import, and is rarely wanted

                    places, work = zip(*errands, strict=True)
                    pending.served(places, await local.aserve_many(work))
        return call
