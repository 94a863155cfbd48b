"""Where a client's requests go: the cluster on a server.

Knows links, trunks and single scripts. Must not know what a client makes of an answer. A backend of
another kind is `local://`, which is this process alone; see ``rqproc.node.alone``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from rqproc import calls
from rqproc.calls import Batch
from rqproc.cluster import Cluster
from rqproc.conversation import Request
from rqproc.errors import RqprocError
from rqproc.ground import Ground
from rqproc.keys import Keys
from rqproc.lines import Lines, dial
from rqproc.link import Command, Dial
from rqproc.losses import Losses
from rqproc.model import Location, Membership
from rqproc.placement import Id
from rqproc.questions import NoNearCache, near_cache
from rqproc.settings import LOCAL, resolve_url
from rqproc.trunk import Trunk
from rqproc.wanted import Wanted

if TYPE_CHECKING:
    import redis
    from rq.job import Job as RqJob

    from rqproc.nearcache import NearCache


class Asker(Protocol):
    """Carries conversations about calls; shared by threads."""

    def ask(self, wanted: Wanted, talk: Request) -> None: ...
    def close(self) -> None: ...


class AsyncAsker(Protocol):
    """The same for the tasks of an event loop."""

    async def ask(self, wanted: Wanted, talk: Request) -> None: ...
    async def close(self) -> None: ...


class Backend(Protocol):
    """What a client asks.

    Attributes:
        server: its address, without credentials.
        ground: by whose clock callers wait.
    """

    @property
    def server(self) -> str: ...
    @property
    def ground(self) -> Ground: ...

    def asker(self) -> Asker:
        """Return what one blocking client asks with."""

    def async_asker(self) -> AsyncAsker:
        """Return what one asyncio client asks with."""

    def near_cache(self, most: int, losses: Losses, app: object) -> NearCache | NoNearCache:
        """Return what one client keeps replies in. Raises: ConfigError."""

    def enqueue(self, sent: Batch) -> list[RqJob | RqprocError]:
        """Enqueue jobs; return each, or why it was refused. Raises: RedisUnavailable."""

    def membership(self) -> Membership: ...
    def locate(self, resource: str, ids: Sequence[Id]) -> list[Location]: ...
    def drain(self, node: str) -> bool: ...
    def report_death(self, node: str, *, pid: int, host: str) -> bool: ...
    def close(self) -> None: ...


class Server:
    """The cluster of one namespace on a Redis."""

    def __init__(self, dial: Dial, keys: Keys) -> None:
        self._keys = keys
        self._cluster = Cluster(keys)
        self._lines = Lines(dial)

    @property
    def server(self) -> str:
        return self._lines.server

    @property
    def ground(self) -> Ground:
        return self._lines.dial.ground

    def asker(self) -> Asker:
        return Trunk(self._lines, self._cluster)

    def async_asker(self) -> AsyncAsker:
        from rqproc.atrunk import AsyncTrunk

        return AsyncTrunk(self._lines.dial, self._cluster)

    def near_cache(self, most: int, losses: Losses, app: object) -> NearCache | NoNearCache:
        return near_cache(most, losses, dial=self._lines.dial, channel=self._keys.dropped, app=app)

    def enqueue(self, sent: Batch) -> list[RqJob | RqprocError]:
        from rqproc import rqjob

        refused = self._run("route", self._cluster.route(sent.order))
        errors = calls.refusals(sent, refused, self._keys)
        jobs = rqjob.queued(sent, self._keys, self._lines.redis)
        return [error or job for error, job in zip(errors, jobs, strict=True)]

    def membership(self) -> Membership:
        return self._cluster.read_survey(self._run("survey", self._cluster.survey()))

    def locate(self, resource: str, ids: Sequence[Id]) -> list[Location]:
        command = self._cluster.locate(resource, ids)
        return self._cluster.read_locate(command, self._run("locate", command))

    def drain(self, node: str) -> bool:
        return bool(self._run("drain", self._cluster.drain(node)))

    def report_death(self, node: str, *, pid: int, host: str) -> bool:
        command = self._cluster.report_death(node, pid=pid, host=host)
        return bool(self._run("leave", command))

    def close(self) -> None:
        self._lines.close()

    def _run(self, script: str, command: Command) -> Any:
        return self._lines.run(self._cluster, script, command)


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
        alone: Any = import_module("rqproc.node.alone")
        return cast(Backend, alone.backend(keys, app))
    return Server(dial(where), keys)
