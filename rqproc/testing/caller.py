"""How a test asks: one call after the other, or many that are under way at once.

Knows a client, and what becomes of its calls. Must not know nodes, nor how time passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

from rqproc.client import Client
from rqproc.declared import Resource
from rqproc.errors import RqprocError
from rqproc.ids import Id, canonical
from rqproc.model import DEFAULT_TIMEOUT_S, Partial, Reply
from rqproc.stateful import Stateful
from rqproc.testing.events import Event, History, Kind
from rqproc.testing.pending import Pending
from rqproc.testing.watching import asked, name_of, shown

if TYPE_CHECKING:
    from rq.job import Job as RqJob

Which = Resource[..., Any] | Stateful[Any] | str
"""A resource or a stateful class, or its name."""

GRACE_S = 2.0
"""Past its deadline within which a call has ended: a server that does not answer is waited for."""

JOBS_WITHIN_S = 60.0


class Caller(ABC):
    """The test's own side of a cluster.

    Attributes:
        client: a ``rqproc.Client`` of this cluster.
    """

    client: Client

    def __init__(self) -> None:
        self._pending: list[Pending] = []
        self._jobs: list[RqJob] = []

    def request(
        self, resource: Which, id: Id, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Return the value of an id; ``args`` and ``kwargs`` are the handler's.

        Raises:
            as ``Client.request``.
        """
        return self.reply(resource, id, *args, timeout=timeout, **kwargs).value

    def reply(
        self, resource: Which, id: Id, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Reply:
        """Return the value of an id with its story. Raises: as ``Client.request``."""
        name = name_of(resource)
        self._note("asked", resource=name, id=canonical(id))
        try:
            target, args = asked(resource, args)
            found = self.client.reply(id, target, args=args, kwargs=kwargs, timeout=timeout)
        except RqprocError as error:
            text = f"{type(error).__name__}: {error}"
            self._note("refused", resource=name, id=canonical(id), text=text)
            raise
        self._note_answer(name, found)
        return found

    @overload
    def request_many(
        self, resource: Which, ids: Iterable[Id], *, timeout: float | None = None,
        partial: Literal[False] = False,
    ) -> dict[Id, Any]: ...  # fmt: skip
    @overload
    def request_many(
        self, resource: Which, ids: Iterable[Id], *, timeout: float | None = None,
        partial: Literal[True],
    ) -> Partial: ...  # fmt: skip
    def request_many(
        self, resource: Which, ids: Iterable[Id], *, timeout: float | None = None,
        partial: bool = False,
    ) -> dict[Id, Any] | Partial:  # fmt: skip
        """Return the values of many ids. Args, Raises: as ``Client.request_many``."""
        found = Partial({}, {})
        for id, outcome in self.reply_many(resource, ids, timeout=timeout).items():
            if not isinstance(outcome, RqprocError):
                found.values[id] = outcome.value
            elif partial:
                found.errors[id] = outcome
            else:
                raise outcome
        return found if partial else found.values

    def reply_many(
        self, resource: Which, ids: Iterable[Id], *, timeout: float | None = None
    ) -> dict[Id, Reply | RqprocError]:
        """Return the reply or the error of each of many ids. Raises: as ``Client.reply_many``."""
        name, ids = name_of(resource), list(ids)
        for id in ids:
            self._note("asked", resource=name, id=canonical(id))
        found = self.client.reply_many(ids, name, timeout=timeout)
        for id, outcome in found.items():
            if isinstance(outcome, RqprocError):
                text = f"{type(outcome).__name__}: {outcome}"
                self._note("refused", resource=name, id=canonical(id), text=text)
            else:
                self._note_answer(name, outcome)
        return found

    def start(
        self, resource: Which, id: Id, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Pending:
        """Ask for an id without waiting for it: any number of calls may be under way."""
        pending = self._started(resource, id, args, kwargs, timeout)
        self._settle()
        return pending

    async def arequest(
        self, resource: Which, id: Id, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """``request`` for asyncio: tasks that ask at once are under way at once."""
        pending = self._started(resource, id, args, kwargs, timeout)
        await self._awaited(pending)
        return pending.result()

    def enqueue(self, resource: Which, id: Id, *args: Any, **kwargs: Any) -> RqJob:
        """Enqueue and return the ``rq.job.Job`` at once. Raises: as ``Client.enqueue``."""
        name = name_of(resource)
        target, args = asked(resource, args)
        job = self.client.enqueue(id, target, args=args, kwargs=kwargs)
        self._note("enqueued", resource=name, id=canonical(id), text=f"job {job.id}")
        self._jobs.append(job)
        return job

    def invalidate(self, resource: Which, id: Id) -> bool:
        """Drop an id's entry; return whether there was one. Raises: as ``Client.invalidate``."""
        return self.client.invalidate(id, name_of(resource))

    def invalidate_many(self, resource: Which, ids: Iterable[Id]) -> dict[Id, bool]:
        """Drop the entries of many ids. Raises: as ``Client.invalidate_many``."""
        return self.client.invalidate_many(ids, name_of(resource))

    def invalidate_all(self, resource: Which | None = None) -> None:
        """Drop all entries. Raises: as ``Client.invalidate_all``."""
        self.client.invalidate_all(None if resource is None else name_of(resource))

    def refresh(self, resource: Which, id: Id) -> Any:
        """Have the value of an id made now. Raises: as ``Client.refresh``."""
        return self.client.refresh(id, name_of(resource)).value

    def set(self, resource: Which, id: Id, value: Any, *, ttl: float | None = None) -> bool:
        """Put a value in an id's entry. Returns, Raises: as ``Client.set``."""
        return self.client.set(id, value, name_of(resource), ttl=ttl)

    def assert_nothing_lost(self) -> None:
        """All calls that were started, and all jobs that were enqueued, have come to an end.

        A call ends by its deadline, with a value, the handler's error or a named one; what is still
        under way is waited for.

        Raises:
            AssertionError: one has not, or too late.
        """
        for pending in self._pending:
            self._complete(pending)
            late = pending.ended_s is None or pending.ended_s > pending.due_s + GRACE_S
            assert not late, f"not ended by its deadline: {pending}\n{self.history.last()}"
            error = pending.error
            assert error is None or isinstance(error, RqprocError), f"{pending}: {error!r}"
        all_ended = self._comes(lambda: not any(map(_is_open, self._jobs)), JOBS_WITHIN_S)
        assert all_ended, f"jobs not ended within {JOBS_WITHIN_S:g} s\n{self.history.last()}"

    # --- for those who run it ---

    @property
    @abstractmethod
    def now_s(self) -> float:
        """Seconds since the cluster began, by its clock."""

    @property
    @abstractmethod
    def history(self) -> History:
        """All events until now."""

    @abstractmethod
    def _add(self, event: Event) -> None:
        """Write down what the test has done."""

    @abstractmethod
    def _spawn(self, work: Callable[[], None]) -> None:
        """Begin to do something beside the test."""

    @abstractmethod
    def _settle(self) -> None:
        """Wait until what was begun is on its way."""

    @abstractmethod
    def _complete(self, pending: Pending) -> None:
        """Wait for a call's end, until a while after its deadline."""

    @abstractmethod
    async def _awaited(self, pending: Pending) -> None:
        """Wait for a call's end, in the test's event loop."""

    @abstractmethod
    def _comes(self, happened: Callable[[], bool], within_s: float) -> bool:
        """Wait for something to happen; return whether it has."""

    # --- inside ---

    def _started(
        self, resource: Which, id: Id, args: Any, kwargs: Any, timeout: float | None
    ) -> Pending:
        name = name_of(resource)
        due_s = self.now_s + (DEFAULT_TIMEOUT_S if timeout is None else timeout)
        pending = Pending(name, canonical(id), due_s=due_s, wait=self._complete)

        def work() -> None:
            try:
                outcome: Any = self.reply(resource, id, *args, timeout=timeout, **kwargs)
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                outcome = error
            pending.end(outcome, self.now_s)

        self._pending.append(pending)
        self._spawn(work)
        return pending

    def _note(
        self, kind: Kind, *, node: str = "", resource: str = "", id: Id | None = None,
        token: int = 0, text: str = "",
    ) -> None:  # fmt: skip
        self._add(Event(self.now_s, kind, node, resource, id, token, text))

    def _note_answer(self, name: str, reply: Reply) -> None:
        text = f"{reply.source} {shown(reply.value)}"
        self._note(
            "answered", node=reply.node, resource=name, id=reply.id, token=reply.token, text=text
        )


def _is_open(job: RqJob) -> bool:
    status = job.get_status(refresh=True)
    return status is not None and status not in ("finished", "failed", "stopped", "canceled")
