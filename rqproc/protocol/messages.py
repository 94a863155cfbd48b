"""What travels between the functions and those who call them, as Python has it.

Pure. Must not know commands or connections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rqproc.model import State


class Sent(NamedTuple):
    """A call or a job on its way into the cluster.

    Attributes:
        group: id of the group that the call was sent with; "" where it was sent alone.
    """

    id: str
    address: str
    data: bytes | str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """A membership just begun."""

    incarnation: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Beaten:
    """What a heartbeat was told.

    Attributes:
        taken: how many calls and jobs the server believes this node to have taken from its queue.
    """

    epoch: int
    state: State
    taken: int


class Claim(NamedTuple):
    """What came of claiming a call or a job.

    Attributes:
        what: "call" or "job": it is to be run here; "waits": a job that is not claimed until its
            turn comes; "first": the same, before others; "lost": too many nodes died on it; "gone":
            it is for this node no more.
        token: fencing token; higher than that of any earlier claim in the cluster.
        deadline_ms: on the server's clock, 0 for none.
        deaths: how many nodes have died on what is lost.
        waited_s: seconds since it was queued.
    """

    id: str
    what: Literal["call", "job", "waits", "first", "lost", "gone"]
    address: str
    token: int
    deadline_ms: int
    data: bytes
    deaths: int = 0
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim gave: ``members`` is None where the epoch has not changed.

    Attributes:
        slots: this node's hash slots, as ``placement.has`` reads them; empty where the placement is
            by modulo.
        flushed: by resource, as addresses have it, and b"" for all, the last token of what is no
            entry any more; empty where the epoch has not changed.
    """

    now_ms: int
    epoch: int
    members: tuple[str, ...] | None
    claims: tuple[Claim, ...]
    slots: bytes = b""
    flushed: Mapping[bytes, int] = field(default_factory=dict)


class Packet(NamedTuple):
    """Entries that another node has given away.

    Attributes:
        now_ms: the server's clock when the packet was taken.
        epoch: in which their ids have moved.
        lines: one for each, see ``node.handoff``.
        left: so many packets lie ready besides.
    """

    now_ms: int
    epoch: int
    lines: Sequence[bytes]
    left: int


class Arrival(NamedTuple):
    """A job that no node has.

    Attributes:
        is_front: it was enqueued to be run before others.
        wants: names of what it wants of a worker and no node does; "" for none.
    """

    id: bytes
    data: bytes
    is_front: bool
    wants: str = ""


class Known(NamedTuple):
    """What a node has taken and not ended, as it tells a server: ``token`` is 0 without a claim."""

    id: str
    token: int
    address: str


@dataclass(frozen=True, slots=True)
class Tally:
    """What a node counts, as its heartbeat reports it.

    Attributes:
        handed_over, taken_over: entries of ids that have moved, which were given to their next
            owners, or kept here as one; a heartbeat does not tell of them.
    """

    entries: int = 0
    hits: int = 0
    joined: int = 0
    misses: int = 0
    succeeded: int = 0
    failed: int = 0
    stuck: int = 0
    handed_over: int = 0
    taken_over: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a node lets wait: requests in its queue, requests of one id, and runs side by side."""

    queue: int
    waiters: int
    lanes: int


class LeaseLost(Exception):
    """This incarnation holds no lease any more."""


class Settling(Exception):
    """The server has lost what it knew: nothing is given out for ``left_s`` seconds."""

    def __init__(self, left_s: float) -> None:
        super().__init__(f"the server settles for {left_s:.1f} s")
        self.left_s = left_s


class SessionSuperseded(Exception):
    """A newer session of the same node has begun; this packet came late."""


class OtherBuild(Exception):
    """The server has another build of the functions than this process."""
