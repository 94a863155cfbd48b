"""What an operator reads, in a terminal and on the page: durations, places, explanations.

Pure. Must not know where it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite

from rqproc.explained import AtNode, EndedRun, Explanation, Kept, RunNow
from rqproc.model import Location, NodeInfo
from rqproc.placement import SLOTS

_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: what a terminal obeys
    "\u2028\u2029"  # other ends of lines
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\ud800-\udfff]"  # halves of characters
)


def spelled_out(text: str) -> str:
    r"""Return a text of others such that it is seen, not obeyed: one line, with "\x1b" for ESC."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def first_line(text: str) -> str:
    """Return the first line of a text that says anything; "" for none."""
    return next(iter(text.strip().splitlines()), "")


def duration(seconds: float) -> str:
    """Return a duration as people read it: "1.2 ms", "3.4 s", "12 min"."""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        ms = seconds * 1000
        return f"{ms:.1f} ms" if ms < 99.95 else f"{ms:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"


def why_there(found: Location) -> str:
    """Return how the owner follows from the id and the members."""
    members = ", ".join(found.members)
    if found.placement == "slots":
        return f"hash slot {found.hash_slot} of {SLOTS}, dealt to {found.owner} of {members}"
    count = len(found.members)
    return f"slot {found.slot} modulo {count} = {found.slot % count} of {members}"


def lines(found: Explanation) -> Iterator[str]:
    """Yield what people read, each line spelled out."""
    yield spelled_out(f"{found.resource} {found.id}")
    for name, text in _facts(found):
        yield spelled_out(f"  {name:<9} {text}")
    if found.told and found.told.runs:
        yield f"  last runs {'ended':>12} {'queued':>9} {'ran':>9}  outcome"
        for run in found.told.runs:
            yield from map(spelled_out, _run_lines(run))


def _facts(found: Explanation) -> Iterator[tuple[str, str]]:
    location = found.location
    if location.owner is None:
        yield "owner", "none: no live node; start one with `rqproc node start`"
    else:
        yield "place", f"{why_there(location)} (epoch {location.epoch})"
        yield "owner", _node_text(location.owner, found.node(location.owner))
    if location.holder and location.holder != location.owner:
        holder = _node_text(location.holder, found.node(location.holder))
        yield "holder", f"{holder}; its requests go there until it has finished"
    elif location.holder:
        yield "holder", f"{location.holder}: it is busy with it"
    if found.told:
        yield from _told(found.told, found)
    else:
        yield (
            "unknown",
            found.silence
            + (". Ask again later, or look at `rqproc node list`" if found.asked else ""),
        )


def _node_text(name: str, info: NodeInfo | None) -> str:
    if info is None:
        return name
    lease = f"lease {info.lease_left_s:.1f} s left" if isfinite(info.lease_left_s) else "no lease"
    state = f"{info.state}, {lease}"
    return f"{name} ({state}, {info.queued} queued, {info.held} held, pid {info.pid}, {info.host})"


def _told(told: AtNode, found: Explanation) -> Iterator[tuple[str, str]]:
    yield "answered", f"by {told.node}, in {duration(found.took_s)}"
    if not told.is_known:
        yield "resource", f"{found.resource!r} is not declared by the app of {told.node}"
    else:
        kept = "kept for no time (ttl 0)" if not told.ttl_s else f"ttl {told.ttl_s:g} s"
        limit = "no limit" if told.timeout_s is None else f"{told.timeout_s:g} s at most"
        yield "resource", f"{kept}; a run may take: {limit}"
    yield "entry", _kept_text(told.kept)
    yield "run", _run_text(told.run)
    yield "waiting", f"{told.requests} requests taken, {told.behind} runs behind"
    yield "lanes", f"{told.lanes_busy} of {told.lanes} busy at {told.node}"


def _kept_text(kept: Kept | None) -> str:
    if kept is None:
        return "none"
    what = {"value": "a value", "stale": "an old value", "error": "an error that is remembered"}
    times = f"{duration(kept.age_s)} old, {duration(kept.left_s)} left"
    return f"{what[kept.what]}, {times}, {kept.bytes} bytes, token {kept.token}"


def _run_text(run: RunNow | None) -> str:
    if run is None:
        return "none under way"
    stuck = "; STUCK: its time is over, and it keeps the id from others" if run.is_stuck else ""
    asks = f"; it waits for {run.asks} requests of its own" if run.asks else ""
    waits = f"{run.waiting} requests wait for it"
    return f"for {duration(run.for_s)}; {waits}; token {run.token}{asks}{stuck}"


def _run_lines(run: EndedRun) -> Iterator[str]:
    outcome = f"{run.error}: {first_line(run.message)}"
    times = (f"{duration(run.ago_s)} ago", duration(run.queued_s), duration(run.ran_s))
    yield "            {:>12} {:>9} {:>9}  {}".format(*times, outcome if run.error else "ok")
    for line in run.traceback.rstrip().splitlines() if run.traceback else ():
        yield f"              | {line}"
