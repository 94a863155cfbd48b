"""The asyncio client: the same conversations as the blocking one, in one event loop.

Must not know anything about requests that ``calls`` and ``conversation`` do not already say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rqproc import calls
from rqproc.backend import Backend, backend_of
from rqproc.errors import RedisUnavailable
from rqproc.keys import Keys
from rqproc.losses import Declaring, Losses, Servable
from rqproc.model import DEFAULT_RESOURCE, DEFAULT_TIMEOUT_S, OnLost, Reply
from rqproc.nearby import Nearby
from rqproc.placement import Id
from rqproc.questions import Question, Questions
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
        losses = Losses.of(on_lost, app)
        self._backend = backend_of(url, self.keys, app)
        self._near = self._backend.near_cache(near, losses, app)
        self._questions = Questions(
            self.keys, losses, timeout=timeout, near=self._near, nearby=nearby,
            ground=self._backend.ground,
        )  # fmt: skip
        self._asker = self._backend.async_asker()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client may be used again."""
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
        if not args and not kwargs and (found := self._questions.find(id, resource)):
            return found
        request = calls.request_of(id, resource, args, kwargs)
        question = self._questions.one(request, timeout=timeout, on_lost=on_lost)
        return (await self._ask(question)).reply()

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
        question = self._questions.many(ids, resource, timeout=timeout, on_lost=on_lost)
        return (await self._ask(question)).values(return_exceptions=return_exceptions)

    async def _ask(self, question: Question) -> Question:
        """Have a question answered. Raises: RedisUnavailable."""
        question.begin()
        try:
            if question.wanted:
                try:
                    await self._asker.ask(question.wanted, question.talk(self._backend.server))
                except RedisUnavailable as error:
                    question.fail(error)
            await self._do_without(question)
        finally:
            question.end()
        return question

    @staticmethod
    async def _do_without(question: Question) -> None:
        """What the cluster could not answer, this process does itself, if it may."""
        if errands := question.errands():
            from rqproc import local

            question.served(errands, await local.aserve_many(errands))
