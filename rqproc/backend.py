"""Where a client's requests go: the cluster on a server.

Knows connections, and what carries calls. Must not know what a client makes of an answer. A backend
of another kind is ``local://``, which is this process alone; see ``rqproc.node.alone``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from rqproc.calls.call import Call
from rqproc.calls.fallback import Fallback
from rqproc.calls.jobs import refusal
from rqproc.calls.threads import Threads
from rqproc.errors import RqprocError
from rqproc.ground import Ground
from rqproc.lines import Lines, dial
from rqproc.model import Location, Membership
from rqproc.placement import Id
from rqproc.protocol.commands import Commands, Sent
from rqproc.protocol.keys import Keys
from rqproc.settings import LOCAL, resolve_url
from rqproc.transport.connection import Command, Dial

if TYPE_CHECKING:
    import redis
    from rq.job import Job as RqJob

    from rqproc.nearcache import NearCache


class Asker(Protocol):
    """Has calls answered, until their deadlines; shared by threads. Raises: RedisUnavailable."""

    def ask(self, call: Call) -> None: ...
    def close(self) -> None: ...


class AsyncAsker(Protocol):
    """The same for the tasks of an event loop."""

    async def ask(self, call: Call) -> None: ...
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

    def near_cache(self, most: int, fallback: Fallback, app: object) -> NearCache | None:
        """Return what one client keeps replies in, None for nothing. Raises: ConfigError."""

    def enqueue(
        self, jobs: Sequence[Sent], *, resource: str, ids: Sequence[Id], result_ttl_s: int | None
    ) -> list[RqJob | RqprocError]:
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
        self._commands = Commands(keys)
        self._lines = Lines(dial)

    @property
    def server(self) -> str:
        return self._lines.server

    @property
    def ground(self) -> Ground:
        return self._lines.dial.ground

    def asker(self) -> Asker:
        return Threads(self._lines.dial, self._commands)

    def async_asker(self) -> AsyncAsker:
        from rqproc.calls.tasks import Tasks

        return Tasks(self._lines.dial, self._commands)

    def near_cache(self, most: int, fallback: Fallback, app: object) -> NearCache | None:
        if app is None and most == 0 and type(most) is int:
            return None
        from rqproc.nearcache import NearCache  # takes a while to import

        return NearCache(
            most, fallback.resources, dial=self._lines.dial, channel=self._keys.dropped
        )

    def enqueue(
        self, jobs: Sequence[Sent], *, resource: str, ids: Sequence[Id], result_ttl_s: int | None
    ) -> list[RqJob | RqprocError]:
        from rqproc import rqjob

        told = self._run(self._commands.enqueue(jobs, result_ttl_s=result_ttl_s))
        made = rqjob.queued(jobs, self._keys, self._lines.redis)
        return [
            refusal(report, resource, id, self._keys.namespace) if report else job
            for report, id, job in zip(told, ids, made, strict=True)
        ]

    def membership(self) -> Membership:
        return self._commands.read_survey(self._run(self._commands.survey()))

    def locate(self, resource: str, ids: Sequence[Id]) -> list[Location]:
        command = self._commands.locate(resource, ids)
        return self._commands.read_locate(command, self._run(command))

    def drain(self, node: str) -> bool:
        return bool(self._run(self._commands.drain(node)))

    def report_death(self, node: str, *, pid: int, host: str) -> bool:
        return bool(self._run(self._commands.report_death(node, pid=pid, host=host)))

    def close(self) -> None:
        self._lines.close()

    def _run(self, command: Command) -> Any:
        return self._lines.run(self._commands, command)


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
