"""``rqproc explain``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import click

from rqproc.cli.ask import AS_JSON, IDS, RESOURCE, IdsCommand, why_there
from rqproc.cli.output import duration
from rqproc.cli.root import Target
from rqproc.client import Client
from rqproc.explained import AtNode, EndedRun, Explanation, Kept, RunNow
from rqproc.ids import canonical
from rqproc.model import NodeInfo

HOT = "Look at `rqproc top`, or ask again later."


@click.command(
    cls=IdsCommand,
    epilog="""\b
Examples:
  rqproc explain 42
  rqproc explain ABC-1 --resource price --json
""",
)
@IDS
@RESOURCE
@click.option(
    "--timeout", "-t", metavar="SECONDS", type=float, default=3.0, show_default=True,
    help="How long to wait for the node that is asked.",
)  # fmt: skip
@AS_JSON
@click.pass_obj
def explain(
    target: Target, ids: tuple[str, ...], resource: str, timeout: float, as_json: bool
) -> int:
    """Say why IDs are where they are, and how they have done.

    Owner and holder by the server; and by the node that holds the id, or owns it, what it keeps,
    runs and lets wait, and its last runs with durations and errors. Nothing is computed. A node
    that does not answer is told of, with what the server knows; the exit code is then 4, and 3
    where no node lives.
    """
    code = 0
    with Client(target.url, namespace=target.namespace) as client:
        for place, id in enumerate(map(canonical, ids)):
            found = client.explain(id, resource, timeout=timeout)
            if as_json:
                click.echo(json.dumps(asdict(found)))
            else:
                click.echo(("\n" if place else "") + "\n".join(lines(found)))
            code = code or _code(found)
    return code


def _code(found: Explanation) -> int:
    if found.told:
        return 0
    return 4 if found.asked else 3


def lines(found: Explanation) -> Iterator[str]:
    """Yield what people read."""
    yield f"{found.resource} {found.id}"
    for name, text in _facts(found):
        yield f"  {name:<9} {text}"
    if found.told and found.told.runs:
        yield f"  last runs {'ended':>12} {'queued':>9} {'ran':>9}  outcome"
        for run in found.told.runs:
            yield from _run_lines(run)


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
        yield "unknown", found.silence + (f". {HOT}" if found.asked else "")


def _node_text(name: str, info: NodeInfo | None) -> str:
    if info is None:
        return name
    state = f"{info.state}, lease {info.lease_left_s:.1f} s left"
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
    outcome = f"{run.error}: {run.message.splitlines()[0] if run.message else ''}"
    times = (f"{duration(run.ago_s)} ago", duration(run.queued_s), duration(run.ran_s))
    yield "            {:>12} {:>9} {:>9}  {}".format(*times, outcome if run.error else "ok")
    for line in run.traceback.rstrip().splitlines() if run.traceback else ():
        yield f"              | {line}"
