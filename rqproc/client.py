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

from rqproc.calls.call import Call, check_result_ttl
from rqproc.calls.jobs import JobOptions, check_options, jobs_of
from rqproc.calls.lookup import Nearby
from rqproc.calls.requests import Many, RequestOptions
from rqproc.connect import Backend, BaseClient
from rqproc.context import ASKING
from rqproc.errors import InvalidId, RedisUnavailable, RequestTimeout, RqprocError
from rqproc.explained import AtNode, Explanation
from rqproc.ids import Id, canonical
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
from rqproc.protocol.commands import MOST_TOGETHER
from rqproc.resource import Declaring, ResourceSpec
from rqproc.stats import ClusterStats

if TYPE_CHECKING:
    import redis
    from rq.job import Job as RqJob


class Client(BaseClient):
    """Asks a cluster for values. Shared by any number of threads; safe to use after a fork.

    Args:
        url: the server, or an existing ``redis.Redis`` whose server is used. Without it:
            ``RQPROC_REDIS_URL``, ``RQ_REDIS_URL``, ``REDIS_URL``, else the embedded server.
            "local://" is no server at all: the handlers of ``app`` run in this process.
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

    def enqueue(
        self,
        id: Id,
        resource: str = DEFAULT_RESOURCE,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        result_ttl: int | None = None,
        **options: Unpack[JobOptions],
    ) -> RqJob:
        """Enqueue a request and return its ``rq.job.Job`` without waiting.

        The job waits where no node is alive yet. Its result is kept ``result_ttl`` whole seconds, 0
        for none, -1 for ever (RQ's default: 500), in RQ's default serializer. Of ``local://`` it
        has ``id``, ``get_status()``, ``latest_result()``, ``return_value()`` and ``exc_info``.

        ``options`` are RQ's own, as ``rq.Queue.enqueue`` takes them: job_id, meta, description,
        depends_on, ttl, failure_ttl, at_front, retry, repeat, rate_limit, unique. With any of them
        RQ's own code enqueues the job.

        Raises:
            Overloaded, RedisUnavailable, InvalidId, ConfigError;
            rq.exceptions.DuplicateJobError: with ``unique``.
        """
        if options:
            check_options(options)
            (asked,) = jobs_of([canonical(id)], resource, args, kwargs)
            ttl_s = check_result_ttl(result_ttl)
            return self._backend.enqueue_by_rq(asked, options, result_ttl_s=ttl_s)
        (job,) = self._enqueue([canonical(id)], resource, args, kwargs, result_ttl)
        if isinstance(job, RqprocError):
            raise job
        return job

    def enqueue_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        result_ttl: int | None = None,
        return_exceptions: bool = False,
    ) -> list[RqJob | RqprocError]:
        """Enqueue a request of each id, 256 in a round trip; return their jobs in this order.

        One that is refused does not keep the others from being enqueued. With
        ``return_exceptions`` its error stands in the place of its job; without, the first error is
        raised when all have been sent.

        Raises:
            as ``enqueue``.
        """
        asked = [canonical(id) for id in ids]
        found: list[RqJob | RqprocError] = []
        for first in range(0, len(asked), MOST_TOGETHER):
            some = asked[first : first + MOST_TOGETHER]
            found += self._enqueue(some, resource, (), None, result_ttl)
        if not return_exceptions:
            for job in found:
                if isinstance(job, RqprocError):
                    raise job
        return found

    def _enqueue(
        self, ids: Sequence[Id], resource: str, args: Sequence[Any],
        kwargs: Mapping[str, Any] | None, result_ttl: int | None,
    ) -> list[RqJob | RqprocError]:  # fmt: skip
        ttl_s = check_result_ttl(result_ttl)
        jobs = jobs_of(ids, resource, args, kwargs)
        return self._backend.enqueue(jobs, resource=resource, ids=ids, result_ttl_s=ttl_s)

    # --- the cluster ---

    def members(self) -> tuple[str, ...]:
        """Return the names of the live members, sorted: what the modulo counts over.

        Raises:
            RedisUnavailable.
        """
        return self.membership().members

    def membership(self) -> Membership:
        """Return every live node with its state, lease and counts.

        Raises:
            RedisUnavailable.
        """
        return self._backend.membership()

    def stats(self) -> ClusterStats:
        """Return what every live node counts and remembers, as it said with its last heartbeat:
        answers by source, errors, latencies, hot ids, past runs.

        By a server's ACL it is an operator's to ask.

        Raises:
            RedisUnavailable.
        """
        return self._backend.stats()

    def owner(self, id: Id) -> str | None:
        """Return the name of the member that owns an id, None where no node is alive.

        Raises:
            InvalidId, RedisUnavailable.
        """
        return self.locate([id])[0].owner

    def locate(self, ids: Iterable[Id], resource: str = DEFAULT_RESOURCE) -> list[Location]:
        """Return for each id, in the order asked, its owner, its holder and what they follow from.

        Raises:
            InvalidId, RedisUnavailable.
        """
        return self._backend.locate(resource, [canonical(id) for id in ids])

    def explain(
        self, id: Id, resource: str = DEFAULT_RESOURCE, *, timeout: float = 3.0
    ) -> Explanation:
        """Return why an id is where it is, and how it has done: owner, holder, what is kept, what
        runs and waits, and the last runs with their durations and errors.

        The holder is asked, or where there is none the owner. Nothing is computed or changed. A
        node that does not answer in time is told of, with what the server knows.

        Args:
            timeout: float, seconds to wait for that node.

        Raises:
            InvalidId, ConfigError, RedisUnavailable.
        """
        call = self._requests.one(id, resource, (), None, timeout, "wait", codec.EXPLAIN)
        nodes = self._backend.membership().nodes
        (location,) = self._backend.locate(resource, call.ids)
        began = self._backend.runtime.monotonic()
        told, silence = None, "no node lives"
        if location.owner or location.holder:
            told, silence = self._told(call, location)
        took_s = self._backend.runtime.monotonic() - began
        return Explanation(resource, call.ids[0], location, nodes, told, silence, took_s)

    def _told(self, call: Call, location: Location) -> tuple[AtNode | None, str]:
        asked = location.holder or location.owner
        try:
            return AtNode.of(self._ask(call).value(self.namespace)), ""
        except RequestTimeout:
            return None, f"{asked} has not answered within {call.timeout_s:g} s"
        except (RedisUnavailable, InvalidId):
            raise
        except (RqprocError, TypeError) as error:  # refused; or it is of a version without this
            return None, f"{asked} does not tell: {error}"

    def drain(self, node: str) -> bool:
        """Ask a node to finish what it holds and end; return whether such a node is alive.

        Raises:
            RedisUnavailable; ConfigError: ``local://`` has no nodes.
        """
        return self._backend.drain(node)

    def report_death(self, node: str, *, pid: int, host: str) -> bool:
        """Tell the cluster that a node's process has ended, so that it need not wait a lease.

        Args:
            pid, host: the process's, as the node gave them when it joined.

        Returns:
            whether such a node was alive.

        Raises:
            RedisUnavailable.
        """
        return self._backend.report_death(node, pid=pid, host=host)

    # --- inside ---

    def _ask_many(self, asked: Many) -> None:
        """Have what can be answered. Raises: RedisUnavailable: nothing has come."""
        try:
            self._ask(asked.call)
        except RedisUnavailable as error:
            asked.failed(error)

    def _ask(self, call: Call) -> Call:
        """Have a call answered. Raises: RedisUnavailable."""
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
