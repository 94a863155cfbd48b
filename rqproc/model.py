"""Values that all parts share. No behaviour beyond what their fields say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rqproc.errors import RqprocError
from rqproc.ids import Id
from rqproc.placement import Placement

Source = Literal["hit", "joined", "miss", "stale", "near", "local"]
"""Where a reply came from: the owner's entry; another caller's run; a run of its own; an expired
entry that is served while it is made anew, or where that fails; the caller's own memory; a run in
the caller's own process."""

State = Literal["member", "draining"]

OnLost = Literal["wait", "local", "error"]
"""What a caller wants where no node can answer: wait for one until the deadline; have the handler
run in its own process; have a named error as soon as that is known."""

DEFAULT_RESOURCE = "demo"
DEFAULT_NAMESPACE = "default"
DEFAULT_TIMEOUT_S = 10.0


# What is made for every request is a named tuple: a frozen dataclass takes three times as long.


_NONE: Mapping[str, Any] = {}


class Request(NamedTuple):
    """One call for one (resource, id)."""

    resource: str
    id: Id
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = _NONE


class Reply(NamedTuple):
    """A value, and where it came from.

    Attributes:
        id: int or str, as it is spelled canonically: "7" is 7.
        value: as JSON gives it.
        node: str, name of the node that answered; HOST:PID of the caller for "local".
        source: "hit", the owner's entry; "joined", another caller's run; "miss", a run of its own;
            "near", the caller's own memory; "local", a run in the caller's process; "stale", the
            owner's entry past its ttl, where the resource has it answer.
        age_s: float, seconds since the value was computed.
        expires_in_s: float, seconds that its entry still lives; 0 where nothing is kept.
        token: int, the fencing token of the handler's run, which only grows (Kleppmann, "How to do
            distributed locking", 2016); 0 for "local".
    """

    id: Id
    value: Any
    node: str
    source: Source
    age_s: float
    expires_in_s: float
    token: int


@dataclass(frozen=True, slots=True)
class Partial:
    """What has come of many ids, as ``request_many(ids, partial=True)`` returns it.

    Each id that was asked for is in one of both, as it was given, in the order asked.

    Attributes:
        values: dict of ids to the values that came in time.
        errors: dict of all other ids to what each ended in: RequestTimeout where nothing came.
    """

    values: dict[Id, Any]
    errors: dict[Id, RqprocError]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the cluster knows of one node at one instant.

    Attributes:
        name, incarnation: str; an incarnation is one life of a node of that name.
        state: "member", or "draining": it owns nothing any more.
        lease_left_s: float, seconds.
        queue: str, the name of its RQ queue; ``queued`` wait there, ``held`` it has taken.
        slots: int, how many of the hash slots are its; 0 where the placement is another.
        stuck: int, handlers that run though their time is over.
        entries: int, values that it keeps.
        hits, joined, misses: int, answers since it started, by source.
        pid, host: of its process.
    """

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
    slots: int = 0


@dataclass(frozen=True, slots=True)
class Membership:
    """The live nodes at one instant.

    Attributes:
        namespace: str.
        epoch: int, grows with each change of the members.
        nodes: tuple of NodeInfo, sorted by name.
        members: tuple of str, the names that the modulo counts over.
        placement: "modulo" or "slots": how an id's owner is found.
    """

    namespace: str
    epoch: int
    nodes: tuple[NodeInfo, ...]
    placement: Placement = "modulo"

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes if node.state == "member")


@dataclass(frozen=True, slots=True)
class Location:
    """Who owns an id, and why.

    Attributes:
        id: int or str.
        slot: int, 0 to 2**53 - 1: with placement "modulo" ``members[slot % len(members)]`` is the
            owner.
        epoch: int, of the members.
        members: tuple of str, sorted.
        owner: str, None where nobody lives.
        holder: str, the node that is busy with it; None if none is.
        placement: "modulo" or "slots".
        hash_slot: int, 0 to 4095: with placement "slots" whoever has it is the owner; else None.
    """

    id: Id
    slot: int
    epoch: int
    members: tuple[str, ...]
    owner: str | None
    holder: str | None
    placement: Placement = "modulo"
    hash_slot: int | None = None
