"""The objects of stateful ids that a node has: made, used, closed, and what is kept of them.

Knows classes' instances, states and moments. Must not know lanes, claims or Redis.

An object is an entry that is not sent. It is used by the runs of its id, which their lane keeps one
at a time, and by nobody else::

    run ──▶ object? ── no ──▶ take the state, hold the id ──▶ cls(id, state)
                └───── yes ──────────────────────────────▶ method ◀──┘   ──▶ answer

    idle, another's by now, drain, lease lost
      ──▶ a last run in its lane: close() ──▶ keep the state ──▶ let go of the id

What fails, and what comes of it:

=============================== ===================================================================
``__init__`` raises             the call fails; the next one tries again with the same state
a method raises                 the call fails; the object stays as the method has left it
``close`` raises, or its        logged; the object is gone, what was kept before stays, and the id
state is not JSON or too large  is let go
``close`` hangs                 after ``timeout``, or CLOSE_S, the id is stuck, as with any handler:
                                refused here and run nowhere else until it ends; a coroutine is
                                cancelled, and its id let go
the id moves, by a join         calls go to this node until its object is closed, then to the owner
the node drains                 every object is closed before it leaves
the node is killed              what its objects did since the last state that was kept is lost
the lease is lost               ``close`` runs once this node has joined anew; its state is kept
                                unless the next owner has taken what there was: see states.lua
the server is out               a method's ``save`` fails after seconds; that of ``close`` is tried
                                for KEEP_S, in which the id is kept
=============================== ===================================================================

Handlers' threads make and use objects, the worker's thread decides which are to be closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

from rqproc.context import ASKING, CURRENT
from rqproc.ids import Id
from rqproc.locks import snapshot
from rqproc.log_events import tell
from rqproc.model import Request
from rqproc.node.held import HeldId, Saving, States, state_text
from rqproc.node.runs import HandlerRun, Taken
from rqproc.objects import CLOSE, SAVING, StatefulClass
from rqproc.resource import ResourceSpec
from rqproc.runtime import Clock

log = logging.getLogger("rqproc.node")

CLOSE_S = 10.0
"""What ``close`` may take where its class has no ``timeout``."""

KEEP_S = 60.0
"""For so long it is tried to keep what ``close`` has returned, where the server is out."""


class Objects:
    """The objects of one node's stateful ids. It is an ``ObjectKeeper``.

    Args:
        owns: whether an address is this node's, in the epoch that it knows.
        clock: by which they are idle.
        most: how many there may be of a class, past which the least recently used one is closed.
        wake: called from handlers' threads when the worker has something to look at.
    """

    def __init__(
        self, states: States, *, owns: Callable[[bytes], bool], clock: Clock, most: int,
        wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._states = states
        self._owns = owns
        self._clock = clock
        self._most = most
        self._wake = wake
        self._lock = Lock()
        self._of: dict[str, OrderedDict[str, HeldId]] = {}
        self._idle_s: dict[str, float] = {}
        self._leaving: dict[str, HeldId] = {}
        self._all_leave = False
        self.opened = 0

    # --- a handler's thread, or the event loop ---

    def call(
        self, kind: StatefulClass, method: object, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call a method of an id's object, in its run; or close it for good, where ``method`` is
        what is held.

        Raises:
            what the method does; StateSuperseded, RedisUnavailable: there is no state to be had.
        """
        closes = method == CLOSE or isinstance(method, HeldId)
        with self._used(kind, method) as held:
            if held is None or (closes and held.instance is None):
                return None
            if not held.taken:
                held.state, held.taken = self._states.take(held, held.hold.token), True
            instance = held.make(kind, CURRENT.get().id)
            if not closes:
                SAVING.set(Saving(self._states, held))
                return kind.method(instance, method)(*args, **kwargs)
            state = kind.close(held.let_go())
            if state is not None:
                self._states.keep(held, state_text(state), for_s=KEEP_S)
            return state

    async def acall(
        self, kind: StatefulClass, method: object, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """The same for a class with coroutines."""
        closes = method == CLOSE or isinstance(method, HeldId)
        with self._used(kind, method) as held:
            if held is None or (closes and held.instance is None):
                return None
            if not held.taken:
                held.state = await self._states.atake(held, held.hold.token)
                held.taken = True
            instance = held.make(kind, CURRENT.get().id)
            if not closes:
                SAVING.set(Saving(self._states, held))
                return await _awaited(kind.method(instance, method)(*args, **kwargs))
            try:
                state = await _awaited(kind.close(held.let_go()))
                if state is not None:
                    await self._states.akeep(held, state_text(state), for_s=KEEP_S)
            except asyncio.CancelledError:
                text = "%s: cancelled while it was closed: its state is lost"
                tell(log, "state_lost", text, held.address, address=held.address)
                raise
            return state

    @contextmanager
    def _used(self, kind: StatefulClass, method: object) -> Iterator[HeldId | None]:
        """What is held for the run's id while the run uses it; None where it is closed already."""
        held = self._find(kind, method)
        try:
            yield held
        finally:
            if held:
                self._release(kind.name, held, for_good=method is held)

    def _find(self, kind: StatefulClass, method: object) -> HeldId | None:
        address, token = ASKING.get().address, CURRENT.get().token  # type: ignore[union-attr]
        with self._lock:
            of = self._of.setdefault(kind.name, OrderedDict())
            self._idle_s[kind.name] = kind.idle_s
            held = of.get(address)
            if isinstance(method, HeldId) and held is not method:
                return None
            if held is None:
                if method == CLOSE:
                    return None
                held = of[address] = HeldId(address, token, self._states.incarnation)
                self.opened += 1
                self._crowd_out(of)
            held.busy = True
            held.hold.token = max(held.hold.token, token)
            return held

    def _crowd_out(self, of: OrderedDict[str, HeldId]) -> None:
        if len(of) > self._most:
            address = next((at for at, held in of.items() if not (held.busy or held.closing)), None)
            if address is not None:
                self._leaving[address] = of[address]

    def _release(self, name: str, held: HeldId, *, for_good: bool) -> None:
        with self._lock:
            of = self._of[name]
            is_new = not held.used_at
            held.busy, held.used_at = False, self._clock()
            if for_good:
                held.gone = True
                del of[held.address]
                return
            of.move_to_end(held.address)
            stays = held.instance is not None and self._owns(held.hold.key)
            leaves = not stays or self._all_leave
            if leaves:
                self._leaving[held.address] = held
        if leaves or is_new:
            self._wake()

    # --- the worker's thread ---

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, snapshot(self._of.values())))

    def holds(self) -> list[Taken]:
        """Return what keeps ids from other nodes; of those that close too."""
        with self._lock:
            return [held.hold for of in self._of.values() for held in of.values()]

    @property
    def due_at(self) -> float | None:
        """When one may be idle, on its clock; None while there is none."""
        if not self._of:
            return None
        now = self._clock()
        with self._lock:
            firsts = [(self._idle_s[name], _first(of)) for name, of in self._of.items()]
        dues = (
            (now if first.busy else first.used_at) + idle_s for idle_s, first in firsts if first
        )
        return min(dues, default=None)

    def leave(self, *, every: bool = False) -> None:
        """Have those closed that are another's by now; or every one, and those to come."""
        if (not self._of and not every) or (every and self._all_leave):
            return
        with self._lock:
            self._all_leave = self._all_leave or every
            for of in self._of.values():
                for address, held in of.items():
                    if every or not self._owns(held.hold.key):
                        self._leaving[address] = held

    def forget(self) -> None:
        """The lease is lost: all are to be closed, those whose last runs were forgotten too."""
        with self._lock:
            for of in self._of.values():
                for address, held in of.items():
                    held.closing = False
                    self._leaving[address] = held

    def to_close(self) -> list[HeldId]:
        """Return those whose last runs are to be added to their lanes, once."""
        if not self._of:
            return []
        now = self._clock()
        with self._lock:
            found = [held for held in self._leaving.values() if not (held.closing or held.gone)]
            self._leaving.clear()
            for name, of in self._of.items():
                found += self._idle(of, now - self._idle_s[name])
            for held in found:
                held.closing = True
        return found

    @staticmethod
    def _idle(of: OrderedDict[str, HeldId], since: float) -> list[HeldId]:
        found = []
        for held in of.values():
            if held.used_at > since:
                break
            if not (held.busy or held.closing):
                found.append(held)
        return found


def last_run(held: HeldId, resource: ResourceSpec, id: Id) -> HandlerRun:
    """Return the run that closes an object and lets go of its id."""
    closing = ResourceSpec(
        resource.handler, name=resource.name, ttl_s=0.0, timeout_s=resource.timeout_s or CLOSE_S
    )
    closing.around, closing.is_async = resource.around, resource.is_async
    closing.idle_s = resource.idle_s
    request = Request(resource.name, id, (held,))
    hold = held.hold
    return HandlerRun(
        held.address, hold.key, closing, request, hold.token, keeps=False, hold=hold, closes=True
    )


def _first(of: OrderedDict[str, HeldId]) -> HeldId | None:
    """The one that is idle for longest; one that is busy where all are that stay."""
    busy = None
    for held in of.values():
        if held.closing:
            continue
        if not held.busy:
            return held
        busy = busy or held
    return busy


async def _awaited(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value
