"""Where a client's requests go: the cluster on a server.

Knows connections, and what carries calls. Must not know what a client makes of an answer. A backend
of another kind is ``local://``, which is this process alone; see ``rqproc.local.backend``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rqproc.calls.call import Call
from rqproc.calls.fallback import Fallback
from rqproc.calls.functions import START_S, FunctionCalls, connector
from rqproc.calls.jobs import JobOptions, refusal
from rqproc.calls.lookup import Nearby
from rqproc.calls.requests import Requests
from rqproc.calls.threads import Threads
from rqproc.errors import RqprocError
from rqproc.ids import Id
from rqproc.model import DEFAULT_TIMEOUT_S, Location, Membership, OnLost
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.protocol.messages import Sent
from rqproc.resource import Declaring, ResourceSpec
from rqproc.runtime import Runtime
from rqproc.settings import LOCAL, resolve_namespace, resolve_url
from rqproc.stats import ClusterStats
from rqproc.transport.connection import Command
from rqproc.transport.connector import Connector

if TYPE_CHECKING:
    import redis
    from rq.job import Job as RqJob

    from rqproc.calls.near_cache import NearCache


T = TypeVar("T")


class Asker(Protocol):
    """Has calls answered, until their deadlines; shared by threads. Raises: RedisUnavailable."""

    def ask(self, call: Call) -> None: ...
    def close(self) -> None: ...


class AsyncAsker(Protocol):
    """The same for the tasks of event loops. Raises: ConfigError: none runs."""

    def ask(self, call: Call) -> Coroutine[Any, Any, None]: ...
    async def run(self, work: Callable[[], T]) -> T:
        """Do what blocks, beside the loop."""

    async def close(self) -> None: ...


class Askers(Protocol):
    """What requests are asked with."""

    def asker(self) -> Asker:
        """Return what one blocking client asks with."""

    def async_asker(self) -> AsyncAsker:
        """Return what one asyncio client asks with."""


class Backend(Askers, Protocol):
    """What a client asks.

    Attributes:
        server: its address, without credentials.
        runtime: by whose clock callers wait.
    """

    @property
    def server(self) -> str: ...
    @property
    def runtime(self) -> Runtime: ...

    def fallback(self, resource: ResourceSpec) -> Askers:
        """Return what runs the handler of a resource in this process, where no node can answer."""

    def near_cache(self, most: int, fallback: Fallback, app: object) -> NearCache | None:
        """Return what one client keeps replies in, None for nothing. Raises: ConfigError."""

    def enqueue(
        self, jobs: Sequence[Sent], *, resource: str, ids: Sequence[Id], result_ttl_s: int | None
    ) -> list[RqJob | RqprocError]:
        """Enqueue jobs; return each, or why it was refused. Raises: RedisUnavailable."""

    def enqueue_by_rq(self, job: Sent, options: JobOptions, *, result_ttl_s: int | None) -> RqJob:
        """Enqueue a job with options of RQ's own. Raises: RedisUnavailable, ConfigError."""

    def membership(self) -> Membership: ...
    def stats(self) -> ClusterStats: ...
    def locate(self, resource: str, ids: Sequence[Id]) -> list[Location]: ...
    def drain(self, node: str) -> bool: ...
    def report_death(self, node: str, *, pid: int, host: str) -> bool: ...
    def close(self) -> None: ...


class ServerBackend:
    """The cluster of one namespace on a Redis."""

    def __init__(self, connector: Connector, keys: Keys) -> None:
        self._keys = keys
        self._commands = Commands(keys)
        self._functions = FunctionCalls(connector, self._commands)

    @property
    def server(self) -> str:
        return self._functions.server

    @property
    def runtime(self) -> Runtime:
        return self._functions.connector.runtime

    def asker(self) -> Asker:
        return Threads(self._functions.connector, self._commands)

    def async_asker(self) -> AsyncAsker:
        from rqproc.calls.loops import EventLoops

        return EventLoops(self._functions.connector, self._commands)

    def fallback(self, resource: ResourceSpec) -> Askers:
        from rqproc.local.fallback import fallback  # takes long to import, and is rarely wanted

        return fallback(self._keys, resource)

    def near_cache(self, most: int, fallback: Fallback, app: object) -> NearCache | None:
        if app is None and most == 0 and type(most) is int:
            return None
        from rqproc.calls.near_cache import NearCache  # takes a while to import

        return NearCache(
            most,
            fallback.resources,
            connector=self._functions.connector,
            channel=self._keys.dropped,
        )

    def enqueue(
        self, jobs: Sequence[Sent], *, resource: str, ids: Sequence[Id], result_ttl_s: int | None
    ) -> list[RqJob | RqprocError]:
        from rqproc.calls import rqjob

        told = self._run(self._commands.enqueue(jobs, result_ttl_s=result_ttl_s))
        made = rqjob.queued(jobs, self._keys, self._functions.redis)
        return [
            refusal(report, resource, id, self._keys.namespace) if report else job
            for report, id, job in zip(told, ids, made, strict=True)
        ]

    def enqueue_by_rq(self, job: Sent, options: JobOptions, *, result_ttl_s: int | None) -> RqJob:
        from rqproc.calls import rqjob

        redis = self._functions.redis
        return rqjob.enqueue(
            job, options, self._keys, redis, server=self.server, result_ttl=result_ttl_s
        )

    def membership(self) -> Membership:
        return self._commands.read_survey(self._run(self._commands.survey()))

    def stats(self) -> ClusterStats:
        return self._commands.read_stats(self._run(self._commands.stats()))

    def locate(self, resource: str, ids: Sequence[Id]) -> list[Location]:
        command = self._commands.locate(resource, ids)
        return self._commands.read_locate(command, self._run(command))

    def drain(self, node: str) -> bool:
        return bool(self._run(self._commands.drain(node)))

    def report_death(self, node: str, *, pid: int, host: str) -> bool:
        return bool(self._run(self._commands.report_death(node, pid=pid, host=host)))

    def close(self) -> None:
        self._functions.close()

    def _run(self, command: Command) -> Any:
        return self._functions.run(command)


def backend_of(
    where: str | redis.Redis | Backend | None, keys: Keys, app: object = None
) -> Backend:
    """Return what a client of a namespace asks, by the URL or server that it was given.

    ``app``: whose resources ``local://`` serves.

    Raises:
        ConfigError: an unreadable URL.
        EmbeddedUnavailable: no URL is set and the embedded server cannot run here.
    """
    if where is not None and hasattr(where, "async_asker"):
        backend: Backend = where  # type: ignore[assignment]
        return backend
    if (where is None or isinstance(where, str)) and resolve_url(where) == LOCAL:
        from rqproc.local.backend import backend as local_backend  # takes a while to import

        return local_backend(keys, app)
    return ServerBackend(connector(where, start_s=START_S), keys)


class BaseClient:
    """What the blocking client and asyncio's have in common: where they ask, and by what defaults.

    Args, Raises: as for ``Client``.
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
        self.keys = Keys(resolve_namespace(namespace))
        fallback = Fallback.of(on_lost, app)
        self._backend = backend_of(url, self.keys, app)
        self._nearby = nearby
        self._near = self._backend.near_cache(near, fallback, app)
        self._requests = Requests(
            self.namespace, fallback, timeout=timeout, near=self._near, nearby=nearby,
            runtime=self._backend.runtime,
        )  # fmt: skip

    @property
    def namespace(self) -> str:
        """Name of the cluster that is asked."""
        return self.keys.namespace

    @property
    def server(self) -> str:
        """The server's address, without credentials."""
        return self._backend.server
