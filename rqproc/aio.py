"""The asyncio client: the same calls as the blocking one's, in event loops.

Must not know anything about requests that ``calls`` does not already say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rqproc.calls.call import Call
from rqproc.calls.lookup import Nearby
from rqproc.connect import Backend, BaseClient
from rqproc.context import ASKING
from rqproc.errors import RedisUnavailable
from rqproc.ids import Id
from rqproc.model import DEFAULT_RESOURCE, DEFAULT_TIMEOUT_S, OnLost, Reply
from rqproc.resource import Declaring, ResourceSpec


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

    async def request_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
        return_exceptions: bool = False,
    ) -> dict[Id, Any]:
        """Return the values of many ids. Args, Returns, Raises: as ``Client.request_many``."""
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
                if errand := pending.errand():
                    await self._backend.fallback(errand.resource).async_asker().ask(errand.call)
                    errand.settle()
        return call
