"""What happened in a cluster under test, and what follows from it.

Pure: events in, facts and lines out. Must not know how a cluster is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rqproc.ids import Id
from rqproc.lab.overlaps import Span, overlaps

Kind = Literal[
    "asked", "answered", "refused", "enqueued",
    "started", "returned", "raised",
    "joined", "left", "killed", "paused", "resumed", "cut off", "healed",
    "server down", "server up", "reply lost", "note",
]  # fmt: skip

ENDS: Sequence[Kind] = ("returned", "raised")
LAPSES: Mapping[Kind, Kind] = {"paused": "resumed", "cut off": "healed", "server down": "server up"}
"""From the one to the other a node may lose its lease behind its own back."""

LAST_EVENTS = 40


class Event(NamedTuple):
    """Something that happened.

    Attributes:
        at_s: seconds since the cluster began, by its own clock.
        node: where; of an answer, who gave it.
        token: the fencing token of a run or an answer.
        text: what there is to say besides: a value, an error, a source.
    """

    at_s: float
    kind: Kind
    node: str = ""
    resource: str = ""
    id: Id | None = None
    token: int = 0
    text: str = ""

    def __str__(self) -> str:
        what = f"{self.resource} {self.id}" if self.resource else ""
        token = f"  token {self.token}" if self.token else ""
        head = f"{self.at_s:9.3f} s  {self.node:<10}  {what:<16}  {self.kind:<11}"
        return f"{head}{token}  {self.text}".rstrip()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a handler; ``ended_s`` is None while it goes on.

    Attributes:
        lapsed: its node was paused or cut off, or Redis was away, while it ran: its lease may have
            run out, and the id may have been given to another node meanwhile.
        dead: its node was killed before it ended.
        began, end: the places of its events in the history; of several things that happen at one
            moment they tell which was first.
    """

    node: str
    resource: str
    id: Id
    token: int
    started_s: float
    ended_s: float | None
    lapsed: bool
    dead: bool
    began: int = field(repr=False)
    end: int | None = field(repr=False)

    def __str__(self) -> str:
        until = "now" if self.ended_s is None else f"{self.ended_s:.3f} s"
        return f"{self.resource} {self.id} on {self.node} from {self.started_s:.3f} s to {until}"


class History(Sequence[Event]):
    """All events, in the order in which they happened."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events = list(events)

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, place: int | slice) -> Event | History:  # type: ignore[override]
        found = self._events[place]
        return History(found) if isinstance(found, list) else found

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __str__(self) -> str:
        return "\n".join(map(str, self._events))

    def add(self, event: Event) -> None:
        self._events.append(event)

    def of(self, resource: str, id: Id) -> History:
        """What happened to one id."""
        return History(e for e in self._events if (e.resource, e.id) == (resource, id))

    def last(self, count: int = LAST_EVENTS) -> str:
        """Return the last events as lines."""
        left_out = len(self._events) - count
        head = [f"... {left_out} events before"] if left_out > 0 else []
        return "\n".join([*head, *map(str, self._events[-count:])])

    def computations(self, resource: str, id: Id) -> int:
        """How often the handler was started for an id."""
        return sum(event.kind == "started" for event in self.of(resource, id))

    def runs(self) -> list[Run]:
        """Return every run of a handler, in the order of their starts."""
        return _runs(self._events)

    def overlaps(self, *, strict: bool = False) -> list[tuple[Run, Run]]:
        """Return the pairs of runs of one id that went on at once.

        A run whose node was killed ends with it. One whose node was paused or cut off meanwhile is
        left out unless ``strict``: its id may have been given away, which only ``--strict`` nodes
        do not outlive.
        """
        runs = (run for run in self.runs() if strict or not run.lapsed)
        return [(run.of, later.of) for run, later in overlaps(map(_span, runs))]


def _span(run: Run) -> Span[Run]:
    ended = math.inf if run.end is None else run.end
    return Span((run.resource, run.id), run, run.began, ended)


def _runs(events: Sequence[Event]) -> list[Run]:
    ends = _ends(events)
    lapses = _lapses(events)
    return [
        _run(events, place, ends.get(place), lapses)
        for place, event in enumerate(events)
        if event.kind == "started"
    ]


def _ends(events: Sequence[Event]) -> dict[int, int]:
    """Return the place of each run's end by that of its start; a killed node's end with it."""
    under_way: dict[tuple[str, int], int] = {}
    ends: dict[int, int] = {}
    for place, event in enumerate(events):
        key = (event.node, event.token)
        if event.kind == "started":
            under_way[key] = place
        elif event.kind in ENDS and key in under_way:
            ends[under_way.pop(key)] = place
        elif event.kind == "killed":
            for key in [key for key in under_way if key[0] == event.node]:
                ends[under_way.pop(key)] = place
    return ends


def _lapses(events: Sequence[Event]) -> list[tuple[str, int, float]]:
    """Return where and from which place to which place; without a name it is everywhere."""
    return [
        (event.node, place, _over_at(events, place))
        for place, event in enumerate(events)
        if event.kind in LAPSES
    ]


def _over_at(events: Sequence[Event], began: int) -> float:
    lapse = events[began]
    for place in range(began + 1, len(events)):
        event = events[place]
        if event.kind == LAPSES[lapse.kind] and event.node in ("", lapse.node):
            return place
        if event.kind == "killed" and event.node == lapse.node:  # another may have its name later
            return place
    return math.inf


def _run(
    events: Sequence[Event], began: int, end: int | None, lapses: Iterable[tuple[str, int, float]]
) -> Run:
    start, last = events[began], None if end is None else events[end]
    assert start.id is not None
    lapsed = any(
        node in ("", start.node) and over > began and (end is None or since < end)
        for node, since, over in lapses
    )
    return Run(
        start.node,
        start.resource,
        start.id,
        start.token,
        started_s=start.at_s,
        ended_s=None if last is None else last.at_s,
        lapsed=lapsed,
        dead=last is not None and last.kind == "killed",
        began=began,
        end=end,
    )
