"""The blocking client: how a program asks the cluster for values.

Knows calls and what carries them. Must not know the handlers' code, nor what the functions do.

A request's path: ``Client.request`` makes a ``Call`` -> ``calls.threads`` sends it, ``multiplexer``
says what -> routing.lua queues it at its owner || ``node.session`` pops it -> ``node.intake`` finds
its entry in ``node.cache``, or has it claimed, for ``node.dispatcher`` and the handler ->
answering.lua publishes the answer -> one thread of the client reads for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from rqproc import tracing
from rqproc.calls.call import Call
from rqproc.calls.lookup import Nearby
from rqproc.calls.requests import Many, RequestOptions
from rqproc.calls.traced import traced
from rqproc.cluster_client import ClusterClient
from rqproc.connect import Backend
from rqproc.context import ASKING
from rqproc.errors import RedisUnavailable, RqprocError
from rqproc.ids import Id
from rqproc.model import (
    DEFAULT_RESOURCE,
    DEFAULT_TIMEOUT_S,
    OnLost,
    Partial,
    Reply,
)
from rqproc.protocol import codec
from rqproc.resource import Declaring, ResourceSpec

if TYPE_CHECKING:
    import redis


class Client(ClusterClient):
    """Asks a cluster for values. Shared by any number of threads; safe to use after a fork.

    Args:
        url: the server, or an existing ``redis.Redis`` whose server is used. Without it:
            ``RQPROC_REDIS_URL``, ``RQPROC_URL``, ``RQ_REDIS_URL``, ``REDIS_URL``, else the embedded
            server. "local://" is none at all: the handlers of ``app`` run in this process.
        namespace: str, name of the cluster on that server; without it ``RQPROC_NAMESPACE``, else
            "default".
        timeout: float, seconds that a request may take where it does not say otherwise: over 0 and
            up to a week.
        on_lost: what to do where no node can answer, unless a request or its resource says
            otherwise. "wait" for one that can; "local": have the handler run in this process, for
            requests that reach no node, whose node is silent at half of the timeout, or while
            Redis cannot be reached; "error": raise NoLiveNode, OwnerLost or RedisUnavailable then.
        app: the App, or mapping of names to resources, whose handlers "local" and ``local://``
            run; of ``local://`` all clients of an App share one place, those of a mapping do not.
        near: int, how many replies to keep in this process, and to serve from there as long as
            their owners would; 0 for those alone whose resources are declared with ``near=True``.
        nearby: asked before the cluster is; what an App gives its own client, see ``App.node``.

    Raises:
        ConfigError: the URL, the namespace, on_lost, timeout or near is invalid.

    Example:
        >>> client = Client("redis://localhost:6379", namespace="shop")
        >>> client.request(42, resource="price")
    """

    def __init__(
        self,
        url: str | redis.Redis | Backend | None = None,
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
        self._asker = self._backend.asker()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connections. The client may be used again."""
        if self._near:
            self._near.close()
        self._asker.close()
        self._backend.close()

    # --- requests ---

    def request(
        self,
        id: Id,
        resource: str = DEFAULT_RESOURCE,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
    ) -> Any:
        """Return the value of an id, computed or kept by the one node that owns it.

        Args:
            id: int, or str of 1 to 200 characters; "7" is 7.
            resource: str, under which the nodes' app declares the handler.
            args, kwargs: for the handler, after the id; JSON, up to 64 KiB. Only resources with
                ttl=0 take any.
            timeout: float, seconds to wait; a request that has not been started by then never is.
            on_lost: see ``Client``.

        Returns:
            the value, as JSON gives it.

        Raises:
            NoLiveNode, RequestTimeout, HandlerFailed (HandlerTimeout), RequestCycle,
            UnknownResource, Overloaded (Crowded), NodeLost, OwnerLost, RedisUnavailable, InvalidId,
            ConfigError (PayloadTooLarge, ProtocolMismatch): see ``rqproc.errors``.
        """
        if not args and not kwargs:
            if self._near and (kept := self._near.kept.find(id, resource)):
                return kept.value()
            if self._nearby and (found := self._nearby.find(resource, id)):
                return found.value
        call = self._requests.one(id, resource, args, kwargs, timeout, on_lost)
        return self._ask(call).value(self.keys.namespace)

    def reply(
        self,
        id: Id,
        resource: str = DEFAULT_RESOURCE,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
    ) -> Reply:
        """Return a value with its node, source, age, time left and token.

        Args, Raises: as ``request``.
        """
        if not args and not kwargs and (found := self._requests.find(id, resource)):
            return found
        call = self._requests.one(id, resource, args, kwargs, timeout, on_lost)
        return self._ask(call).reply(self.namespace)

    @overload
    def request_many(
        self, ids: Iterable[Id], resource: str = ..., *, partial: Literal[False] = False,
        return_exceptions: bool = False, **options: Unpack[RequestOptions],
    ) -> dict[Id, Any]: ...  # fmt: skip
    @overload
    def request_many(
        self, ids: Iterable[Id], resource: str = ..., *, partial: Literal[True],
        **options: Unpack[RequestOptions],
    ) -> Partial: ...  # fmt: skip
    def request_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
        partial: bool = False,
        return_exceptions: bool = False,
    ) -> dict[Id, Any] | Partial:
        """Return the values of many ids, asked in groups of up to 256 in one round trip.

        An id that stands twice is asked once. The first error is raised, of an id too, unless with
        ``partial`` what came in time is returned, with the errors of the others; or, with
        ``return_exceptions``, an id that failed has its error as value. With either, what had come
        before Redis was lost is returned too.

        Returns:
            {id as it was given: value}, in the order asked; "7" and 7, one id, each have theirs;
            with ``partial`` a ``Partial``.

        Raises:
            as ``request``; with ``partial`` or ``return_exceptions`` as ``reply_many``.
        """
        asked = self._requests.many(ids, resource, timeout, on_lost)
        if not partial and not return_exceptions:
            self._ask(asked.call)
            return asked.values(return_exceptions=False)
        self._ask_many(asked)
        return asked.partial() if partial else asked.values(return_exceptions=True)

    def reply_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
    ) -> dict[Id, Reply | RqprocError]:
        """Return {id as given: Reply, or the RqprocError that it ended in}; raises no error of an
        id.

        Raises:
            InvalidId, ConfigError; RedisUnavailable, where nothing had come before that.
        """
        asked = self._requests.many(ids, resource, timeout, on_lost)
        self._ask_many(asked)
        return asked.outcomes()

    def invalidate(
        self, id: Id, resource: str = DEFAULT_RESOURCE, *, timeout: float | None = None
    ) -> bool:
        """Drop an id's entry; return whether there was one, or a run that would have made one.

        A request made after this returns never gets a value computed before it was called.

        Raises:
            as ``request``.
        """
        call = self._requests.one(id, resource, (), None, timeout, "wait", codec.INVALIDATE)
        with self._requests.dropping(call):
            return bool(self._ask(call).value(self.namespace))

    def invalidate_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> dict[Id, bool]:
        """Drop the entries of many ids in one round trip; return what ``invalidate`` does of each.

        All are tried. With ``return_exceptions`` an id that failed has its error as value; without,
        the first error is raised.

        Returns:
            {id as it was given: bool}, in the order given.

        Raises:
            as ``request``.
        """
        asked = self._requests.many(ids, resource, timeout, "wait", codec.INVALIDATE)
        with self._requests.dropping(asked.call):
            self._ask(asked.call)
        return asked.values(return_exceptions=return_exceptions)

    def invalidate_all(self, resource: str | None = None, *, timeout: float | None = None) -> None:
        """Drop all entries of a resource; without one, those of the whole namespace.

        It takes no longer where there are many. A request made after this returns never gets a
        value computed before it was called.

        Raises:
            as ``request``.
        """
        call = self._requests.flush(resource, timeout)
        with self._requests.flushing(call):
            self._ask(call).value(self.namespace)

    def refresh(
        self, id: Id, resource: str = DEFAULT_RESOURCE, *, timeout: float | None = None
    ) -> Reply:
        """Have the value of an id made now, whatever is kept, and return the reply.

        The run begins after this was called, behind one that is under way, whose value is not kept.
        Until it has ended others get the old value, where there is one. If it fails, that stays.

        Raises:
            as ``request``; HandlerFailed: the resource has ttl=0.
        """
        call = self._requests.one(id, resource, (), None, timeout, "wait", codec.REFRESH)
        with self._requests.dropping(call):
            return self._ask(call).reply(self.namespace)

    def refresh_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
    ) -> dict[Id, Reply | RqprocError]:
        """Refresh many ids in one round trip; return what ``reply_many`` does. Raises: as that."""
        asked = self._requests.many(ids, resource, timeout, "wait", codec.REFRESH)
        with self._requests.dropping(asked.call):
            self._ask(asked.call)
        return asked.outcomes()

    def set(
        self,
        id: Id,
        value: Any,
        resource: str = DEFAULT_RESOURCE,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Put a value in the entry of an id, as if its handler had just returned it.

        It waits for a run that is under way, whose value is not kept. Nothing older is served once
        this has returned.

        Args:
            value: JSON, up to 64 KiB.
            ttl: float, seconds that it is kept, 0 to 86400; None for the resource's. 0 leaves
                nothing in the entry.

        Returns:
            whether it is kept; False too where another node owned the id meanwhile, or the id was
            invalidated, refreshed or set once more.

        Raises:
            as ``request``; HandlerFailed: the resource has ttl=0.
        """
        call = self._requests.fill(id, resource, value, ttl, timeout)
        with self._requests.dropping(call):
            return bool(self._ask(call).value(self.namespace))

    # --- inside ---

    def _ask_many(self, asked: Many) -> None:
        """Have what can be answered. Raises: RedisUnavailable: nothing has come."""
        try:
            self._ask(asked.call)
        except RedisUnavailable as error:
            asked.failed(error)

    def _ask(self, call: Call) -> Call:
        """Have a call answered. Raises: RedisUnavailable."""
        if tracing.tracer is not None and call.trace is None and call.left:
            with traced(call, self.namespace):
                return self._ask(call)
        if self._near is None and call.on_lost == "wait" and ASKING.get() is None:
            if call.left:
                self._asker.ask(call)
        elif call.left:
            with self._requests.begin(call) as pending:
                try:
                    self._asker.ask(call)
                except RedisUnavailable as error:
                    pending.failed(error)
                if fallback := pending.fallback_call():
                    self._backend.fallback(fallback.resource).asker().ask(fallback.call)
                    fallback.take_over()
        return call
