"""What a handler may know of the run that it is in, ``rqproc.current()``, and what clients may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from rqproc.ids import Id
from rqproc.runtime import MACHINE, Runtime


@dataclass(frozen=True, slots=True)
class Current:
    """One run of a handler.

    Attributes:
        token: fencing token. A later run of the same id, on whichever node, has a higher one; a
            system that remembers the highest it has seen can refuse a writer that was paused past
            its lease (Kleppmann, "How to do distributed locking", 2016).
        deadline: on the clock that ``time_left_s`` looks at, ``time.monotonic()`` in a real
            cluster; None where nobody's waiting ends.
        runtime: clocks and sleep; the test kit's are its own.
        batch: in a batch handler, by each id that it is called with, what is known of that one's
            run; empty in any other. ``id`` and ``token`` are those of the first of them then, and
            ``deadline`` is the latest.
    """

    id: Id
    resource: str
    node: str
    token: int
    deadline: float | None
    runtime: Runtime = field(default=MACHINE, repr=False, compare=False)
    batch: Mapping[Id, Current] = field(default_factory=dict, repr=False, compare=False)

    @property
    def time_left_s(self) -> float | None:
        """Seconds until the caller that started this run gives up, None if it never does."""
        return None if self.deadline is None else self.deadline - self.runtime.monotonic()

    def now(self) -> float:
        """Return seconds since 1970, as ``time.time()``; in the test kit by the cluster's clock."""
        return self.runtime.now()

    def sleep(self, seconds: float) -> None:
        """``time.sleep``; in the test kit by the cluster's clock, which takes no time."""
        self.runtime.sleep(seconds)


CURRENT: ContextVar[Current] = ContextVar("rqproc_current")


@dataclass(frozen=True, slots=True)
class Asking:
    """The run that a handler is in, as the clients that it uses see it.

    Attributes:
        namespace, address: of the run: what it asks for must not wait for it.
        changed: called with True when the handler begins to wait for an answer, with False when it
            has it; several may be under way, on several threads.
        by: whoever runs it. Another one of the same process may run the same address: without a
            server, apps that share a namespace do not know each other.
    """

    namespace: str
    address: str
    changed: Callable[[bool], None]
    by: object = field(default=None, repr=False)


ASKING: ContextVar[Asking | None] = ContextVar("rqproc_asking", default=None)


def current() -> Current:
    """Return the run that the calling handler is in.

    Raises:
        LookupError: not called from a handler that a node runs.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise LookupError("rqproc.current() is for handlers while a node runs them") from None
