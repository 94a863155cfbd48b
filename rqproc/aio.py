"""The asyncio client: the same conversations as the blocking one, over asyncio's streams.

Knows event loops. Must not know anything about requests that ``calls`` and ``conversation`` do not
already say.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import hiredis
import redis.asyncio
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from rqproc import calls, conversation
from rqproc.cluster import Cluster
from rqproc.context import asking
from rqproc.conversation import Pause, Send
from rqproc.drive import adrive
from rqproc.errors import RedisUnavailable, RqprocError
from rqproc.keys import Keys
from rqproc.lines import MAX_LITTER, dial
from rqproc.link import CONNECT_TIMEOUT_S, FLOW_S, LinkLost, Refused, pack, why
from rqproc.losses import Declaring, Errand, Losses, Servable
from rqproc.model import DEFAULT_RESOURCE, DEFAULT_TIMEOUT_S, OnLost, Reply, Request
from rqproc.nearcache import NearCache
from rqproc.placement import Id, canonical
from rqproc.settings import resolve_namespace
from rqproc.wanted import Wanted

if TYPE_CHECKING:
    from rqproc.link import Dial

MAX_IDLE_LINKS = 256


class AsyncClient:
    """Asks a cluster for values from asyncio; in one event loop at a time.

    Args:
        url, namespace, timeout, on_lost, app, near: as for ``Client``.

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
        near: int = 0,
    ) -> None:
        self.keys = Keys(resolve_namespace(namespace))
        self.timeout_s = calls.check_timeout(timeout)
        self._losses = Losses.of(on_lost, app)
        self._cluster = Cluster(self.keys)
        self._dial = dial(url)
        self._idle: deque[_AsyncLink] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._litter: deque[str] = deque(maxlen=MAX_LITTER)
        self._near = NearCache(
            near, self._losses.resources, dial=self._dial, channel=self.keys.dropped
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client may be used again."""
        self._near.close()
        while self._idle:
            await self._idle.pop().close()

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
        if not args and not kwargs and (kept := self._near.kept.find(id, resource)):
            return kept.value()
        request = calls.request_of(id, resource, args, kwargs)
        return (await self._ask_one(request, timeout=timeout, on_lost=on_lost)).value

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
        if not args and not kwargs and (near := self._near.kept.reply(id, resource)):
            return near
        request = calls.request_of(id, resource, args, kwargs)
        return await self._ask_one(request, timeout=timeout, on_lost=on_lost)

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
        wanted = dict.fromkeys(canonical(id) for id in ids)
        near = self._near.replies(wanted, resource)
        requests = [calls.request_of(id, resource, (), None) for id in wanted if id not in near]
        asked = await self._ask(requests, timeout=timeout, on_lost=on_lost) if requests else {}
        outcomes = {id: near.get(id) or asked[id] for id in wanted} if near else asked
        return calls.values(outcomes, return_exceptions=return_exceptions)

    async def _ask_one(
        self, request: Request, *, timeout: float | None, on_lost: OnLost | None
    ) -> Reply:
        (outcome,) = (await self._ask([request], timeout=timeout, on_lost=on_lost)).values()
        return calls.value_or_raise(outcome)

    async def _ask(
        self, requests: Sequence[Request], *, timeout: float | None, on_lost: OnLost | None
    ) -> dict[Id, Reply | RqprocError]:
        timeout_s = self.timeout_s if timeout is None else calls.check_timeout(timeout)
        wish = self._losses.choose(requests[0].resource, on_lost)
        deadline = time.monotonic() + timeout_s
        with asking(self.keys.namespace) as parent:
            sent = calls.batch(requests, kind="call", timeout_s=timeout_s, parent=parent)
            expected = self._near.expect(requests)
            outcomes = await self._ask_for(sent, wish, deadline=deadline)
            if expected:
                expected.keep(outcomes)
            return outcomes

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
        self._litter.extend(wanted.litter)
        outcomes = calls.outcomes(sent, wanted.answers, self.keys, outage=outage)
        if wish == "local":
            errands = self._losses.errands(outcomes, sent, deadline=deadline, keys=self.keys)
            outcomes |= await self._run_here(errands)
        return outcomes

    async def _converse(self, wanted: Wanted, on_lost: OnLost) -> None:
        litter = list(self._litter)
        self._litter.clear()
        await adrive(
            conversation.ask(
                self._cluster,
                wanted,
                litter=litter,
                server=self._dial.server,
                clock=time.monotonic,
                on_lost=on_lost,
            ),
            self._do,
            failures=(LinkLost, Refused),
        )

    @staticmethod
    async def _run_here(errands: Sequence[Errand]) -> dict[Id, Reply | RqprocError]:
        if not errands:
            return {}
        from rqproc import local

        ids = (errand.request.id for errand in errands)
        return dict(zip(ids, await local.aserve_many(errands), strict=True))

    async def _do(self, step: Send | Pause) -> list[Any]:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return []
        link = self._take_idle() or await _connect(
            self._dial, min(CONNECT_TIMEOUT_S, step.within_s)
        )
        try:
            async with asyncio.timeout(step.within_s) as limit:
                replies = await link.exchange(step, limit)
        except BaseException as error:
            await link.close()  # a reply may still be on its way
            if isinstance(error, Refused) and error.moved:
                await self.close()
            if isinstance(error, OSError):
                await self.close()  # the server has gone, and the idle links with it
                spent_s = step.within_s if isinstance(error, TimeoutError) else 0.0
                raise LinkLost(str(error) or "it does not answer", spent_s=spent_s) from error
            raise
        if len(self._idle) < MAX_IDLE_LINKS:
            self._idle.append(link)
        else:
            await link.close()
        return replies

    def _take_idle(self) -> _AsyncLink | None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # an earlier loop, and its connections, have ended
            self._loop = loop
            self._idle.clear()
        return self._idle.pop() if self._idle else None


async def _connect(way: Dial, timeout_s: float) -> _AsyncLink:
    """Raises: as ``Dial.connect``."""
    try:
        return await _connect_once(way, timeout_s)
    except LinkLost:
        if way.revive is None:
            raise
    await asyncio.to_thread(way.revive)
    return await _connect_once(way, timeout_s)


async def _connect_once(way: Dial, timeout_s: float) -> _AsyncLink:
    began = time.monotonic()
    options = (
        await asyncio.to_thread(way.options, timeout_s) if way.asks else way.options(timeout_s)
    )
    kind = SSLConnection if way.secure else Connection
    connection = (UnixDomainSocketConnection if "path" in options else kind)(**options)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except (redis.RedisError, OSError) as error:
        raise why(error, spent_s=time.monotonic() - began) from error
    link = _AsyncLink(connection)
    try:
        async with asyncio.timeout(timeout_s):
            await link.exchange(Send((("PING",),), timeout_s))  # what accepts may not answer
    except Refused:
        await link.close()
        raise
    except OSError as error:
        await link.close()
        reason = str(error) or "it does not answer"
        raise LinkLost(reason, spent_s=time.monotonic() - began) from error
    return link


class _AsyncLink:
    """``Link`` over asyncio's streams."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] = (
            connection._reader,
            connection._writer,
        )
        self._parser = hiredis.Reader()

    async def close(self) -> None:
        """At once: the goodbye of TLS would outlast the event loop, and nothing is on its way."""
        self._streams[1].transport.abort()
        await self._connection.disconnect(nowait=True)

    async def exchange(self, step: Send, limit: asyncio.Timeout | None = None) -> list[Any]:
        """Raises: OSError, which LinkLost is too; Refused."""
        reader, writer = self._streams
        writer.write(pack(step.commands))
        replies: list[Any] = []
        while len(replies) < len(step.commands):
            try:
                reply = self._parser.gets()
            except hiredis.ProtocolError as error:
                raise LinkLost(f"what answers is no Redis: {error}") from error
            if reply is False:
                if not (chunk := await reader.read(65536)):
                    raise ConnectionResetError("the server closed the connection")
                self._parser.feed(chunk)
                if limit:  # a long reply that is late has more time as long as it flows
                    flow_until = asyncio.get_running_loop().time() + FLOW_S
                    limit.reschedule(max(limit.when() or 0.0, flow_until))
            elif isinstance(reply, hiredis.ReplyError):
                raise Refused(str(reply))
            else:
                replies.append(reply)
        return replies
