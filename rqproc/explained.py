"""Why an id is where it is and how it has done, as ``Client.explain`` returns it.

Values, and how a node's word travels. All times are durations in seconds, as of the moment at which
the node answered: so no two clocks are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from rqproc.ids import Id
from rqproc.model import Location, NodeInfo


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run of an id's handler that has ended.

    Attributes:
        ago_s: float, seconds since it ended.
        queued_s, ran_s: float, how long it had to wait before, and how long it took.
        error: str, type of what the handler raised; "" where it returned a value.
        message, traceback: str; a traceback is kept of a node's latest errors alone.
    """

    ago_s: float
    queued_s: float
    ran_s: float
    error: str = ""
    message: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class RunNow:
    """A run of an id's handler that is under way.

    Attributes:
        for_s: float, seconds since it began.
        waiting: int, requests that it will answer.
        is_stuck: its time is over, its callers were told so, and it keeps the id from others.
        asks: int, requests of its own that it waits for.
        token: int, its fencing token.
    """

    for_s: float
    waiting: int
    is_stuck: bool
    asks: int
    token: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What a node keeps of an id.

    Attributes:
        what: "value" that answers, "stale" value that answers while it is made anew or where that
            fails, or "error" that is remembered.
        age_s, left_s: float, seconds since it was made, and until it is not kept any more.
        bytes: int, of the value as JSON.
        token: int, of the run that made it.
    """

    what: Literal["value", "stale", "error"]
    age_s: float
    left_s: float
    bytes: int
    token: int


@dataclass(frozen=True, slots=True)
class AtNode:
    """What the node that was asked knows of an id.

    Attributes:
        node: str, its name.
        owns: whether it takes itself for the owner, by the members that it knows of.
        ttl_s, timeout_s: float, the resource's; None where it is not known there, or has no limit.
        is_known: the node's app declares the resource.
        kept: None where nothing is.
        run: None where none is under way.
        requests: int, how many of the id it has taken and not ended.
        behind: int, runs that wait for their turn.
        lanes_busy, lanes: int, runs of all ids that are under way there, and how many may be.
        runs: tuple of EndedRun, the latest first, of those that the node remembers.
    """

    node: str
    owns: bool
    is_known: bool
    ttl_s: float | None
    timeout_s: float | None
    kept: Kept | None
    run: RunNow | None
    requests: int
    behind: int
    lanes_busy: int
    lanes: int
    runs: tuple[EndedRun, ...] = ()

    def to_json(self) -> str:
        """Return it as it travels."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> AtNode:
        """Read what ``to_json`` has made, of another version too: what is new there is left out.

        Raises:
            TypeError: something is missing.
        """
        known = _known(cls, told)
        kept, run = told.get("kept"), told.get("run")
        runs = tuple(EndedRun(**_known(EndedRun, past)) for past in told.get("runs", ()))
        return cls(
            **{
                **known,
                "kept": Kept(**_known(Kept, kept)) if kept else None,
                "run": RunNow(**_known(RunNow, run)) if run else None,
                "runs": runs,
            }
        )


def _known(cls: type, told: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in told.items() if name in names}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an id is where it is, and how it has done.

    Attributes:
        resource, id: of what it is.
        location: who owns it and who holds it, by the server.
        nodes: tuple of NodeInfo, all that are alive.
        told: what the holder says, or where nobody holds the id its owner; None where it does not.
        silence: str, why it does not; "" where it does.
        took_s: float, seconds that the question took.
    """

    resource: str
    id: Id
    location: Location
    nodes: tuple[NodeInfo, ...]
    told: AtNode | None
    silence: str
    took_s: float

    @property
    def asked(self) -> str | None:
        """Name of the node that was asked; None where nobody lives."""
        return self.location.holder or self.location.owner

    def node(self, name: str | None) -> NodeInfo | None:
        """Return a live node by its name."""
        return next((info for info in self.nodes if info.name == name), None)
