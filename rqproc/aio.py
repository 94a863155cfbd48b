"""The asyncio client: the same conversations as the blocking one, in one event loop.

Must not know anything about requests that ``calls`` and ``conversation`` do not already say.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rqproc import calls, conversation
from rqproc.atrunk import AsyncTrunk
from rqproc.cluster import Cluster
from rqproc.context import asking, in_handler
from rqproc.errors import RedisUnavailable, RqprocError
from rqproc.keys import Keys
from rqproc.lines import dial
from rqproc.losses import Declaring, Errand, Losses, Servable
from rqproc.model import DEFAULT_RESOURCE, DEFAULT_TIMEOUT_S, OnLost, Reply, Request
from rqproc.placement import Id, canonical, check_resource
from rqproc.settings import resolve_namespace
from rqproc.wanted import Wanted


class AsyncClient:
    """Asks a cluster for values from asyncio; in one event loop at a time.

    Args:
        url, namespace, timeout, on_lost, app: as for ``Client``.

    Example:
        >>> async with AsyncClient("redis://localhost:6379") as client:
        ...     await client.request(42, resource="price")
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        on_lost: OnLost = "wait",
        app: Declaring | Mapping[str, Servable] | None = None,
    ) -> None:
        self.keys = Keys(resolve_namespace(namespace))
        self.timeout_s = calls.check_timeout(timeout)
        self._losses = Losses.of(on_lost, app)
        self._cluster = Cluster(self.keys)
        self._dial = dial(url)
        self._trunk = AsyncTrunk(self._dial, self._cluster)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client may be used again."""
        await self._trunk.close()

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
        reply = await self.reply(
            id, resource, args=args, kwargs=kwargs, timeout=timeout, on_lost=on_lost
        )
        return reply.value

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
        request = calls.request_of(id, resource, args, kwargs)
        (outcome,) = (await self._ask([request], timeout=timeout, on_lost=on_lost)).values()
        return calls.value_or_raise(outcome)

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
        wanted = list(dict.fromkeys(map(canonical, ids)))
        check_resource(resource)
        if not wanted:
            return {}
        outcomes = await self._ask_many(wanted, resource, timeout=timeout, on_lost=on_lost)
        return calls.values(outcomes, return_exceptions=return_exceptions)

    async def _ask(
        self, requests: Sequence[Request], *, timeout: float | None, on_lost: OnLost | None
    ) -> dict[Id, Reply | RqprocError]:
        timeout_s = self.timeout_s if timeout is None else calls.check_timeout(timeout)
        wish = self._losses.choose(requests[0].resource, on_lost)
        deadline = time.monotonic() + timeout_s
        with asking(self.keys.namespace) as parent:
            sent = calls.batch(requests, kind="call", timeout_s=timeout_s, parent=parent)
            return await self._ask_for(sent, wish, deadline=deadline)

    async def _ask_many(
        self, ids: Sequence[Id], resource: str, *, timeout: float | None, on_lost: OnLost | None
    ) -> dict[Id, Reply | RqprocError]:
        if len(ids) == 1 or in_handler():  # who waits for whom is told call by call
            requests = [Request(resource, id) for id in ids]
            return await self._ask(requests, timeout=timeout, on_lost=on_lost)
        timeout_s = self.timeout_s if timeout is None else calls.check_timeout(timeout)
        wish = self._losses.choose(resource, on_lost)
        sent = calls.together(resource, ids, timeout_s=timeout_s)
        return await self._ask_for(sent, wish, deadline=time.monotonic() + timeout_s)

    async def _ask_for(
        self, sent: calls.Batch, wish: OnLost, *, deadline: float
    ) -> dict[Id, Reply | RqprocError]:
        wanted, outage = Wanted(sent.order), None
        try:
            await self._converse(wanted, wish)
        except RedisUnavailable as error:
            if wish != "local":
                raise
            outage = error
        outcomes = calls.outcomes(sent, wanted.answers, self.keys, outage=outage)
        if wish == "local":
            errands = self._losses.errands(outcomes, sent, deadline=deadline, keys=self.keys)
            outcomes |= await self._run_here(errands)
        return outcomes

    async def _converse(self, wanted: Wanted, on_lost: OnLost) -> None:
        server, clock = self._dial.server, time.monotonic
        talk = conversation.ask(wanted, server=server, clock=clock, on_lost=on_lost)
        await self._trunk.ask(wanted, talk)

    @staticmethod
    async def _run_here(errands: Sequence[Errand]) -> dict[Id, Reply | RqprocError]:
        if not errands:
            return {}
        from rqproc import local

        ids = (errand.request.id for errand in errands)
        return dict(zip(ids, await local.aserve_many(errands), strict=True))
