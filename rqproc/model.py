"""The values that travel between the rooms. No behaviour beyond what their fields say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rqproc.placement import Id

Source = Literal["hit", "joined", "miss", "stale", "near", "local"]
"""Where a reply came from: the owner's entry; another caller's running computation; a computation
of its own; an expired entry served while it is recomputed; the caller's own memory; its own
process."""

State = Literal["member", "draining"]

OnLost = Literal["wait", "local", "error"]
"""What a caller wants where no node can answer: wait for one until the deadline; have the handler
run in its own process; have a named error as soon as that is known."""

DEFAULT_RESOURCE = "demo"
DEFAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """One call for one (resource, id)."""

    resource: str
    id: Id
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """A value with the story of where it came from.

    Attributes:
        node: name of the node that answered.
        age_s: seconds since the value was computed.
        expires_in_s: seconds that its entry still lives; 0 where nothing is kept.
        token: the fencing token of the handler run, a number that only grows.
    """

    id: Id
    value: Any
    node: str
    source: Source
    age_s: float
    expires_in_s: float
    token: int


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the cluster knows of one node at one instant."""

    name: str
    incarnation: str
    state: State
    lease_left_s: float
    queue: str
    queued: int
    held: int
    stuck: int
    entries: int
    hits: int
    joined: int
    misses: int
    pid: int
    host: str


@dataclass(frozen=True, slots=True)
class Membership:
    """The live nodes at one instant; ``members`` alone are what the modulo counts over."""

    namespace: str
    epoch: int
    nodes: tuple[NodeInfo, ...]

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes if node.state == "member")


@dataclass(frozen=True, slots=True)
class Location:
    """Who owns an id, and why. ``holder`` is the node that is busy with it, None if none is."""

    id: Id
    slot: int
    epoch: int
    members: tuple[str, ...]
    owner: str | None
    holder: str | None
