"""The blocking client: how a program asks the cluster for values.

Knows conversations and links. Must not know the handlers' code, nor what the scripts do.

A request's path: ``Client.reply`` -> ``conversation.ask`` -> route.lua, which queues it at its
owner || take.lua gives it to ``node.worker`` -> lane -> entry or handler -> finish.lua -> the reply
stream in which the client has been waiting since its first packet.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rqproc import calls, conversation, wire
from rqproc.cluster import Cluster
from rqproc.context import asking
from rqproc.errors import RedisUnavailable, RqprocError
from rqproc.keys import Keys
from rqproc.lines import MAX_LITTER, Lines, dial
from rqproc.link import Command
from rqproc.losses import Declaring, Errand, Losses, Servable
from rqproc.model import (
    DEFAULT_RESOURCE,
    DEFAULT_TIMEOUT_S,
    Location,
    Membership,
    OnLost,
    Reply,
    Request,
)
from rqproc.nearcache import NearCache
from rqproc.placement import Id, canonical
from rqproc.settings import resolve_namespace
from rqproc.wanted import Wanted

if TYPE_CHECKING:
    import redis
    from rq.job import Job as RqJob


class Client:
    """Asks a cluster for values. Shared by any number of threads; safe to use after a fork.

    Args:
        url: the server, or an existing ``redis.Redis`` whose server is used. Without it:
            ``RQPROC_REDIS_URL``, ``RQ_REDIS_URL``, ``REDIS_URL``, else the embedded server.
        namespace: name of the cluster on that server.
        timeout: seconds that a request may take where it does not say otherwise.
        on_lost: what to do where no node can answer, unless a request or its resource says
            otherwise. "wait" for one that can; "local": have the handler run in this process, for
            requests that reach no node, whose node is silent at half of the timeout, or while
            Redis cannot be reached; "error": raise NoLiveNode, OwnerLost or RedisUnavailable then.
        app: the App, or mapping of names to resources, whose handlers "local" runs.
        near: replies to keep in this process, and to serve from there as long as their owners
            would; 0 for those alone whose resources are declared with ``near=True``.

    Example:
        >>> client = Client("redis://localhost:6379", namespace="shop")
        >>> client.request(42, resource="price")
    """

    def __init__(
        self,
        url: str | redis.Redis | None = None,
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
        self._lines = Lines(dial(url))
        self._litter: deque[str] = deque(maxlen=MAX_LITTER)
        self._near = NearCache(
            near, self._losses.resources, dial=self._lines.dial, channel=self.keys.dropped
        )

    @property
    def namespace(self) -> str:
        return self.keys.namespace

    @property
    def server(self) -> str:
        """The server's address, without credentials."""
        return self._lines.server

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connections. The client may be used again."""
        self._near.close()
        self._lines.close(tidy=self._sweep())

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
            args, kwargs: for the handler, after the id; JSON. Only resources with ttl=0 take any.
            timeout: seconds to wait; a request that has not been started by then never is.
            on_lost: see ``Client``.

        Raises:
            NoLiveNode, RequestTimeout, HandlerFailed, UnknownResource, Overloaded, NodeLost,
            OwnerLost, RedisUnavailable, InvalidId, ConfigError: see ``rqproc.errors``.
        """
        if not args and not kwargs and (kept := self._near.kept.find(id, resource)):
            return kept.value()
        request = calls.request_of(id, resource, args, kwargs)
        return self._ask_one(request, timeout=timeout, on_lost=on_lost).value

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
        """Like ``request``, with the story of the value: node, source, age, time left, token."""
        if not args and not kwargs and (near := self._near.kept.reply(id, resource)):
            return near
        request = calls.request_of(id, resource, args, kwargs)
        return self._ask_one(request, timeout=timeout, on_lost=on_lost)

    def request_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
        return_exceptions: bool = False,
    ) -> dict[Id, Any]:
        """Return the values of many ids, in the order asked, in one round trip.

        An id that stands twice is asked once. With ``return_exceptions`` an id that failed has
        its error as value; without, the first error is raised.

        Raises:
            as ``request``.
        """
        outcomes = self.reply_many(ids, resource, timeout=timeout, on_lost=on_lost)
        return calls.values(outcomes, return_exceptions=return_exceptions)

    def reply_many(
        self,
        ids: Iterable[Id],
        resource: str = DEFAULT_RESOURCE,
        *,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
    ) -> dict[Id, Reply | RqprocError]:
        """Like ``request_many``, with for each id its Reply or its error; raises neither.

        Raises:
            InvalidId, ConfigError, RedisUnavailable.
        """
        wanted = dict.fromkeys(canonical(id) for id in ids)
        near = self._near.replies(wanted, resource)
        requests = [calls.request_of(id, resource, (), None) for id in wanted if id not in near]
        asked = self._ask(requests, timeout=timeout, on_lost=on_lost) if requests else {}
        return {id: near.get(id) or asked[id] for id in wanted} if near else asked

    def invalidate(
        self, id: Id, resource: str = DEFAULT_RESOURCE, *, timeout: float | None = None
    ) -> bool:
        """Drop an id's entry; return whether there was one.

        A request made after this returns never gets a value computed before it was called.

        Raises:
            as ``request``.
        """
        request = calls.request_of(id, resource, (), None)
        with self._near.dropping(request.resource, request.id):
            outcomes = self._ask(
                [request], timeout=timeout, on_lost="wait", function=wire.INVALIDATE
            )
        (outcome,) = outcomes.values()
        return bool(calls.value_or_raise(outcome).value)

    def enqueue(
        self,
        id: Id,
        resource: str = DEFAULT_RESOURCE,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        result_ttl: int | None = None,
    ) -> RqJob:
        """Enqueue a request and return its ``rq.job.Job`` without waiting.

        The job waits where no node is alive yet. Its result is kept ``result_ttl`` seconds (RQ's
        default: 500), in RQ's JSON serializer.

        Raises:
            Overloaded, RedisUnavailable, InvalidId, ConfigError.
        """
        from rqproc import rqjob

        request = calls.request_of(id, resource, args, kwargs)
        ttl_s = calls.check_result_ttl(result_ttl)
        sent = calls.batch([request], kind="job", result_ttl_s=ttl_s)
        refused = self._run("route", self._cluster.route(sent.order))
        if error := calls.first_refusal(sent, refused, self.keys):
            raise error
        return rqjob.queued(sent, self.keys, self._lines.redis)

    # --- the cluster ---

    def members(self) -> tuple[str, ...]:
        """Return the names of the live members, sorted: what the modulo counts over."""
        return self.membership().members

    def membership(self) -> Membership:
        """Return every live node with its state, lease and counts.

        Raises:
            RedisUnavailable.
        """
        return self._cluster.read_survey(self._run("survey", self._cluster.survey()))

    def owner(self, id: Id) -> str | None:
        """Return the name of the member that owns an id, None where no node is alive."""
        return self.locate([id])[0].owner

    def locate(self, ids: Iterable[Id], resource: str = DEFAULT_RESOURCE) -> list[Location]:
        """Return for each id its owner, its holder and what they follow from.

        Raises:
            InvalidId, RedisUnavailable.
        """
        command = self._cluster.locate(resource, [canonical(id) for id in ids])
        return self._cluster.read_locate(command, self._run("locate", command))

    def drain(self, node: str) -> bool:
        """Ask a node to finish what it holds and end; return whether such a node is alive."""
        return bool(self._run("drain", self._cluster.drain(node)))

    def report_death(self, node: str, *, pid: int, host: str) -> bool:
        """Tell the cluster that a node's process has ended, so that it need not wait a lease."""
        command = self._cluster.report_death(node, pid=pid, host=host)
        return bool(self._run("leave", command))

    # --- inside ---

    def _ask_one(self, request: Request, *, timeout: float | None, on_lost: OnLost | None) -> Reply:
        (outcome,) = self._ask([request], timeout=timeout, on_lost=on_lost).values()
        return calls.value_or_raise(outcome)

    def _ask(
        self,
        requests: Sequence[Request],
        *,
        timeout: float | None,
        on_lost: OnLost | None,
        function: str = wire.REQUEST,
    ) -> dict[Id, Reply | RqprocError]:
        timeout_s = self.timeout_s if timeout is None else calls.check_timeout(timeout)
        wish = self._losses.choose(requests[0].resource, on_lost)
        deadline = time.monotonic() + timeout_s
        with asking(self.namespace) as run:
            # An invalidation waits for no run: it closes no circle.
            parent = run if function == wire.REQUEST else ""
            sent = calls.batch(
                requests, kind="call", timeout_s=timeout_s, function=function, parent=parent
            )
            expected = self._near.expect(requests)
            outcomes = self._ask_for(sent, wish, deadline=deadline)
            if expected:
                expected.keep(outcomes)
            return outcomes

    def _ask_for(
        self, sent: calls.Batch, wish: OnLost, *, deadline: float
    ) -> dict[Id, Reply | RqprocError]:
        wanted, outage = Wanted(sent.order), None
        try:
            self._converse(wanted, wish)
        except RedisUnavailable as error:
            if wish != "local":
                raise
            outage = error
        self._litter.extend(wanted.litter)
        outcomes = calls.outcomes(sent, wanted.answers, self.keys, outage=outage)
        if wish == "local":
            errands = self._losses.errands(outcomes, sent, deadline=deadline, keys=self.keys)
            outcomes |= self._run_here(errands)
        return outcomes

    def _converse(self, wanted: Wanted, on_lost: OnLost) -> None:
        self._lines.hold(
            conversation.ask(
                self._cluster,
                wanted,
                litter=self._sweep(),
                server=self.server,
                clock=time.monotonic,
                on_lost=on_lost,
            )
        )

    @staticmethod
    def _run_here(errands: Sequence[Errand]) -> dict[Id, Reply | RqprocError]:
        if not errands:
            return {}
        from rqproc import local  # takes long to import, and is rarely wanted

        ids = (errand.request.id for errand in errands)
        return dict(zip(ids, local.serve_many(errands), strict=True))

    def _sweep(self) -> list[str]:
        swept: list[str] = []
        try:
            while True:
                swept.append(self._litter.popleft())
        except IndexError:  # other threads sweep too
            return swept

    def _run(self, script: str, command: Command) -> Any:
        return self._lines.run(self._cluster, script, command)
