"""An object of a stateful id as its node holds it, and how its state is kept.

Knows an instance and its address. Must not know who uses it, nor when it is closed.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from rqproc.ids import Id
from rqproc.node.runs import Taken
from rqproc.objects import StatefulClass
from rqproc.protocol import codec
from rqproc.protocol.node_commands import object_hold


class States(Protocol):
    """Where states are kept, as JSON; "" stands for none. The same with ``a`` for event loops."""

    @property
    def incarnation(self) -> str:
        """Who takes and keeps at this moment."""

    def take(self, held: HeldId, token: int) -> str:
        """Raises: StateSuperseded, RedisUnavailable."""

    async def atake(self, held: HeldId, token: int) -> str: ...

    def keep(self, held: HeldId, text: str, *, for_s: float = 0.0) -> None:
        """``for_s``: seconds for which it is tried. Raises: StateSuperseded, RedisUnavailable."""

    async def akeep(self, held: HeldId, text: str, *, for_s: float = 0.0) -> None: ...


class HeldId:
    """An id that is held here for its object, from just before its state is taken.

    Attributes:
        incarnation: under which it was.
        made: token of the run that did; ``hold.token`` is that of the latest run.
        hold: what keeps the id from other nodes.
        instance: the object; None where it is to be made, from ``state``, once that is taken.
        used_at: when a run of it has ended last; ``busy`` while one is under way.
        closing: its last run waits in the lane; ``gone``: that is over.
    """

    __slots__ = (
        "address", "busy", "closing", "gone", "hold", "incarnation", "instance", "made", "state",
        "taken", "used_at",
    )  # fmt: skip

    def __init__(self, address: str, token: int, incarnation: str) -> None:
        self.address = address
        self.incarnation = incarnation
        self.made = token
        name = object_hold(token, address).encode()
        self.hold = Taken(name, address, address.encode(), token, holds=True)
        self.instance: Any = None
        self.taken, self.state = False, ""
        self.used_at = 0.0
        self.busy = self.closing = self.gone = False

    def make(self, kind: StatefulClass, id: Id) -> Any:
        """Return the object, made of what was taken if it is not there."""
        if self.instance is None:
            self.instance = kind.make(id, json.loads(self.state) if self.state else None)
            self.state = ""
        return self.instance

    def let_go(self) -> Any:
        """Return the object, which is here no more; one that is made after it takes the state."""
        instance, self.instance, self.taken = self.instance, None, False
        return instance


class Saving:
    """What ``rqproc.save`` does, in one run of an object."""

    def __init__(self, states: States, held: HeldId) -> None:
        self._states = states
        self._held = held

    def save(self, state: Any) -> None:
        self._states.keep(self._held, "" if state is None else state_text(state))

    async def asave(self, state: Any) -> None:
        await self._states.akeep(self._held, "" if state is None else state_text(state))


def state_text(state: Any) -> str:
    """Return a state as JSON text. Raises: codec.UnservableValue: it is not JSON, or over 1 MiB."""
    return codec.encode_value(state, "the state")
