"""Declaring resources, and what they are served and asked with.

Knows handlers and clients; loads a node, or what serves ``local://``, where one is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from rqproc.calls.call import check_timeout
from rqproc.calls.lookup import InProcessNodes, ServingNode
from rqproc.client import Client
from rqproc.clients import Clients, entered
from rqproc.connect import Backend
from rqproc.declared import Resource
from rqproc.errors import ConfigError
from rqproc.ids import check_resource
from rqproc.model import OnLost
from rqproc.objects import stateful_class
from rqproc.options import Options
from rqproc.policy import PolicyOptions, policy_of
from rqproc.resource import Around, ResourceSpec, check_signature
from rqproc.settings import NodeOptions, resolve_namespace
from rqproc.stateful import Stateful

if TYPE_CHECKING:
    from rqproc.aio import AsyncClient

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class App:
    """A set of resources, and the cluster that serves them.

    Args:
        url: the server; without it the environment's, else the embedded one. "local://" is none:
            the handlers run in this process.
        namespace: str, name of the cluster on that server; without it ``RQPROC_NAMESPACE``, else
            "default". Either is looked at, and may raise ConfigError, at the first use.

    Example:
        >>> app = App()
        >>> @app.resource(ttl=30)
        ... def price(id):
        ...     return slow_lookup(id)
    """

    def __init__(self, url: str | None = None, *, namespace: str | None = None) -> None:
        self.url = url
        self.namespace = namespace
        self._resources: dict[str, Resource[..., Any] | Stateful[Any]] = {}
        self._around: list[Around] = []
        self._in_process = InProcessNodes()
        self._clients = Clients(self, self._in_process)

    def resource(
        self, *, ttl: float, name: str | None = None, timeout: float | None = None,
        on_lost: OnLost | None = None, near: bool | None = None, lane: str | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Callable[[Callable[P, R]], Resource[P, R]]:  # fmt: skip
        """Declare a handler: ``handler(id)`` makes the value of an id; with ``batch`` it is
        ``handler(ids)``, which makes a dict of values.

        Args:
            ttl: float, seconds that a value is kept, 0 to 86400; 0 keeps nothing and lets the
                handler take arguments.
            name: str, the handler's own name if not given.
            timeout: float, seconds that a run may take, up to a week; None for no limit. After them
                its callers get HandlerTimeout. A coroutine is cancelled; a thread cannot be ended,
                so it runs on, and its id is not served until it has ended.
            on_lost: what to do where no node can answer, where a request does not say; see
                ``Client``.
            near: whether callers keep replies too; without it as their client has it.
            lane: str, what all resources share that have the same one: of an id one run at a time
                of all of them. For ttl=0; see ``Resource.asked`` for how they are asked for.
            policy: old values, missing ones, retries, batches; see ``policy.PolicyOptions``.

        Returns:
            a decorator that makes the handler a ``Resource``.

        Raises:
            ConfigError: a ttl, timeout or on_lost out of bounds, ``near`` with nothing to keep, a
                name that is malformed or taken, or a handler whose signature does not fit.
        """

        def declare(handler: Callable[P, R]) -> Resource[P, R]:
            found = self._free_name(name or getattr(handler, "__name__", ""))
            check_signature(handler, found, keeps=ttl > 0, batch=found_policy.batch > 0)
            declared = Resource(
                self, handler, name=found, ttl_s=float(ttl), options=options,
                timeout_s=None if timeout is None else check_timeout(timeout), near=near,
                policy=found_policy, lane=lane, around=self._around,
            )  # fmt: skip
            if lane is not None:
                self._lane(lane, ttl)[found] = declared
            self._resources[found] = declared
            return declared

        found_policy = policy_of(ttl, policy)
        if not isinstance(near, bool | None) or (near and ttl == 0):
            raise ConfigError(f"invalid near={near!r}: True, or False, for a resource with a ttl")
        options = Options().with_others(on_lost=on_lost)
        return declare

    def _lane(self, name: str, ttl: float) -> dict[str, ResourceSpec]:
        """Return the members of a lane, which is a resource too."""
        if ttl > 0:
            raise ConfigError("lane is for ttl=0: what is kept is made once, whoever else runs")
        lane = self._resources.get(check_resource(name))
        if lane is None:
            members: dict[str, ResourceSpec] = {}
            lane = Resource(
                self, lambda id, what, *args, **kwargs: members[what].handler(id, *args, **kwargs),
                name=name, ttl_s=0.0, options=Options(), around=self._around,
            )  # fmt: skip
            lane.members = members
            self._resources[name] = lane
        if not isinstance(lane.members, dict):
            raise ConfigError(f"the app has a resource {name!r} already, which is no lane")
        return lane.members

    def stateful(
        self,
        *,
        idle: float,
        name: str | None = None,
        timeout: float | None = None,
        on_lost: OnLost | None = None,
    ) -> Callable[[type[C]], Stateful[C]]:
        """Declare a class of which each id has one object, at its owner: ``cls(id, state)``.

        Its public methods are called by requests, one at a time per id:
        ``Account.at(42).deposit(5)``. An object is closed when it is idle, when the id moves, when
        its node drains or has lost its lease: what ``close(self)`` returns, JSON or None, is kept
        and given to the id's next object.

        Args:
            idle: float, seconds without a call after which an object is closed; up to a week.
            name: str, the class's own name if not given.
            timeout: float, as for ``resource``; for ``close`` too, which has ten seconds otherwise.
            on_lost: "wait" or "error", where a request does not say; see ``Client``.

        Returns:
            a decorator that makes the class a ``Stateful``.

        Raises:
            ConfigError: an argument out of bounds, a name that is malformed or taken, or a class
                that cannot be made of an id and a state.
        """
        if on_lost == "local":
            raise ConfigError("on_lost='local' is not for stateful ids, which have one object each")
        options = Options().with_others(on_lost=on_lost)
        timeout_s = None if timeout is None else check_timeout(timeout)

        def declare(cls: type[C]) -> Stateful[C]:
            found = self._free_name(name or getattr(cls, "__name__", ""))
            kind = stateful_class(cls, found, idle)
            declared = Stateful[C](
                self, kind, options=options, timeout_s=timeout_s, around=self._around
            )
            self._resources[found] = declared
            return declared

        return declare

    def _free_name(self, name: object) -> str:
        found = check_resource(str(name))
        if found in self._resources:
            raise ConfigError(f"the app has a resource {found!r} already")
        return found

    def around(self, enter: Around) -> Around:
        """Have every run of a handler entered and left through a context manager; a decorator.

        ``enter(current)`` makes one for each run, on the thread or in the task that runs the
        handler; ``current`` is what ``rqproc.current()`` returns there. Of several the first is the
        outermost. An asynchronous one is for coroutines: handlers on threads run without it. What
        it raises, the run has raised.

        Raises:
            ConfigError: a generator without ``contextmanager``.

        Example:
            >>> @app.around
            ... @contextmanager
            ... def orm(current):
            ...     close_old_connections()
            ...     try:
            ...         yield
            ...     finally:
            ...         close_old_connections()
        """
        if inspect.isgeneratorfunction(enter) or inspect.isasyncgenfunction(enter):
            raise ConfigError(f"{enter.__name__} is a generator: decorate it with @contextmanager")
        self._around.append(enter)
        return enter

    @property
    def resources(self) -> Mapping[str, Resource[..., Any] | Stateful[Any]]:
        """The declared resources by name; read-only."""
        return MappingProxyType(self._resources)

    @property
    def client(self) -> Client:
        """The client behind ``Resource.request``, made at its first use. Raises: ConfigError."""
        blocking = self._clients.blocking
        return blocking.made or blocking()

    @property
    def async_client(self) -> AsyncClient:
        """The client behind ``Resource.arequest``, for all event loops; see ``client``."""
        return self._clients.asyncio()

    @contextmanager
    def at(self, where: str | Backend, *, namespace: str | None = None) -> Iterator[None]:
        """Have the requests of this app go elsewhere while the context lasts, for all threads.

        For tests: ``with app.at("local://"): ...`` Each time it is entered nothing is kept yet, nor
        under way; on leaving all is forgotten, and what has not been waited for may not be run.

        Args:
            where: a server's URL, or the backend of a ``rqproc.testing.LocalCluster``.
            namespace: as for ``App``.

        Raises:
            ConfigError: the URL cannot be read.
        """
        found = resolve_namespace(namespace)
        with entered(self, where, found) as place:
            there = Clients(self, self._in_process, (place, found))
            before, self._clients = self._clients, there
            try:
                yield
            finally:
                self._clients = before
                if client := there.blocking.made:
                    client.close()

    def node(
        self, *, name: str | None = None, **settings: Unpack[NodeOptions]
    ) -> AbstractContextManager[ServingNode]:
        """Run a node of this app inside this program, in threads, while the context lasts.

        Requests of ``Resource``, ``client`` and ``async_client`` for ids that it owns and has an
        entry of are answered from it at once, without a word to the server. All others go their
        ordinary way, be it to this very node: only the server can say that an id is in no other
        place. After a change of members an entry that is another node's by now may be found for a
        heartbeat more; see ``rqproc.node.own_entries``.

        Leaving drains: what the node holds is finished, for up to ``drain_s`` seconds. A handler
        that takes longer keeps the node, and so its id, until it ends. In a forked child there is
        no node.

        Args:
            name: stable and unique among the live; without it the first of ``HOST-1``, ``HOST-2``,
                ... that is free.
            settings: as ``rqproc.settings.NodeSettings``: ``concurrency``, ``max_entries``,
                ``max_bytes``, ``max_queue``, ``max_waiters`` (counts, 1 or more), ``lease_s``,
                ``heartbeat_s``, ``drain_s`` (seconds), ``placement`` ("modulo" or "slots"),
                ``handoff`` (bool); not what ends a process.

        Returns:
            a context manager that gives a node with ``name`` and ``server``.

        Raises:
            ConfigError: wrong settings, or gevent or eventlet has patched Python; on entering, if
                the app has a node here already.
            NameTaken, PlacementMismatch, RedisUnavailable: on entering.
            Exception: on leaving, what the node has died of.

        Example:
            >>> with app.node(name="web-1"):
            ...     price.request(42)
        """
        url, namespace = self._clients.server()
        from rqproc.node.in_process import InProcessNode  # takes a while to import

        return InProcessNode(
            self, self._in_process, url=url, namespace=namespace, name=name, settings=settings
        )
