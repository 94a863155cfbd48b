"""``rqproc node start|list|drain|check``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from rqproc.cli.root import Target
from rqproc.errors import ConfigError, NoLiveNode
from rqproc.model import Membership, NodeInfo
from rqproc.placement import PLACEMENTS
from rqproc.settings import NodeSettings, server_url

DEFAULTS = NodeSettings()


@click.group(
    epilog="\b\nExamples:\n  rqproc node start --name 1\n  rqproc node list\n  rqproc node drain 1"
)
def node() -> None:
    """Start, list, drain and check nodes."""


@node.command(
    epilog="""\b
Examples:
  rqproc node start --name 1
  rqproc node start prices:app --count 4 --concurrency 64
  rqproc node start prices:app --lease 2 --heartbeat 0.5 --json-logs

\b
Ctrl-C or SIGTERM drains: new requests go to other nodes at once, what is held is finished.
A second one stops at once; what was held is then run by another node.
"""
)
@click.argument("app", metavar="[MODULE:APP]", required=False)
@click.option(
    "--name", metavar="NAME", help="Stable name of the node.  [default: HOST-1, HOST-2, ...]"
)
@click.option(
    "--count", metavar="N", type=click.IntRange(1, 256), default=1, show_default=True,
    help="Run N nodes, NAME-1 to NAME-N, and start those anew that die.",
)  # fmt: skip
@click.option(
    "--concurrency", metavar="N", type=int, default=DEFAULTS.concurrency, show_default=True,
    help="How many ids are computed side by side.",
)  # fmt: skip
@click.option(
    "--lease", metavar="SECONDS", type=float, default=DEFAULTS.lease_s, show_default=True,
    help="Silence after which the cluster gives the node up.",
)  # fmt: skip
@click.option(
    "--heartbeat", metavar="SECONDS", type=float, default=DEFAULTS.heartbeat_s, show_default=True,
    help="Time between heartbeats; at most half the lease.",
)  # fmt: skip
@click.option(
    "--max-entries", metavar="N", type=int, default=DEFAULTS.max_entries, show_default=True,
    help="Values kept; past it one that was not used lately goes.",
)  # fmt: skip
@click.option(
    "--max-bytes", metavar="N", type=int,
    help="Memory that they take, with about 250 bytes beside each; no bound by default.",
)  # fmt: skip
@click.option(
    "--max-queue", metavar="N", type=int, default=DEFAULTS.max_queue, show_default=True,
    help="Requests that may wait for this node, past which callers get Overloaded; as many again "
    "may be held in it.",
)  # fmt: skip
@click.option(
    "--max-waiters", metavar="N", type=int, default=DEFAULTS.max_waiters, show_default=True,
    help="Requests of one id that may be under way here, past which its callers get Overloaded.",
)  # fmt: skip
@click.option(
    "--placement", type=click.Choice(PLACEMENTS), default=DEFAULTS.placement, show_default=True,
    help="How the owner of an id is found; the same for all nodes of a namespace. One that joins n "
    "others moves 1/(n+1) of the ids with slots, n/(n+1) with modulo.",
)  # fmt: skip
@click.option(
    "--handoff", is_flag=True,
    help="When nodes come and go, give what is kept of ids that move to their next owners, if "
    "these have this option too: a rolling deploy does not empty every cache.",
)  # fmt: skip
@click.option(
    "--strict", is_flag=True,
    help="End the process if a handler still runs when the lease cannot be relied on any more, so "
    "that it never meets the next owner's. Run it under a supervisor, such as --count.",
)  # fmt: skip
@click.option(
    "--max-age", metavar="SECONDS", type=float,
    help="Drain and end when it has served for so long, to be started anew: by --count, one node "
    "after the other; alone it ends with exit code 75, up to a tenth early.",
)  # fmt: skip
@click.option(
    "--max-requests", metavar="N", type=int,
    help="The same when it has answered so many requests.",
)  # fmt: skip
@click.option(
    "--max-rss", metavar="MIB", type=int,
    help="The same when its process takes so much memory.",
)  # fmt: skip
@click.option(
    "--reload/--no-reload", default=False,
    help="For development: start anew when a Python file of the app has changed "
    "(pip install 'rqproc[reload]').",
)  # fmt: skip
@click.option("--json-logs", is_flag=True, help="Log one JSON object a line.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
    show_default=True, help="debug shows every answer of your own resources too.",
)  # fmt: skip
@click.option(
    "--metrics-port", metavar="PORT", type=click.IntRange(1, 65535),
    help="Serve Prometheus metrics there (pip install 'rqproc[metrics]'); with --count, each node "
    "has a port of its own, counted up from this one.",
)  # fmt: skip
@click.option(
    "--metrics-host", metavar="HOST", default="0.0.0.0", show_default=True,  # noqa: S104
    help="The address where metrics are served; by default all of the machine's, as Prometheus "
    "asks from another one.",
)  # fmt: skip
@click.option("--parent", type=int, hidden=True, help="Process without which this node drains.")
@click.option("--tells", type=int, hidden=True, help="File by which it hears from this node.")
@click.pass_obj
def start(target: Target, /, app: str | None, name: str | None, count: int, **options: Any) -> int:
    """Start a node in the foreground.

    MODULE:APP names the App whose resources it serves, such as `prices:app`; the current folder is
    on the import path. Without it the node serves the default resource alone.
    """
    from rqproc.cli import reload, serve
    from rqproc.cli.apps import load_app
    from rqproc.cli.output import log_to_stderr

    log_to_stderr(level=options["log_level"], as_json=options["json_logs"])
    settings = NodeSettings(
        concurrency=options["concurrency"],
        lease_s=options["lease"],
        heartbeat_s=options["heartbeat"],
        max_entries=options["max_entries"],
        max_bytes=options["max_bytes"],
        max_queue=options["max_queue"],
        max_waiters=options["max_waiters"],
        placement=options["placement"],
        handoff=options["handoff"],
        strict=options["strict"],
        max_age_s=options["max_age"],
        max_rss_mib=options["max_rss"],
        max_requests=options["max_requests"],
    )
    if options["reload"] and not app:
        raise click.UsageError("--reload is for an app of your own: give MODULE:APP")
    load = reload.load_when_possible if options["reload"] else load_app
    loaded = load(app) if app else None
    if count > 1 or options["reload"]:
        return serve.supervise(target, loaded, app, name=name, count=count, options=options)
    return serve.serve(
        target, loaded, name=name, settings=settings, parent=options["parent"],
        tells=options["tells"], metrics_host=options["metrics_host"],
        metrics_port=options["metrics_port"],
    )  # fmt: skip


def _membership(target: Target) -> Membership:
    from rqproc.client import Client

    with Client(server_url(target.url), namespace=target.namespace) as client:
        return client.membership()


@node.command(name="list", epilog="\b\nExamples:\n  rqproc node list\n  rqproc node list --json")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def list_nodes(target: Target, as_json: bool) -> None:
    """List the live nodes: state, lease, queue, entries, hits and misses."""
    found = _membership(target)
    if as_json:
        nodes = [asdict(info) for info in found.nodes]
        shape = {
            "namespace": found.namespace, "epoch": found.epoch, "placement": found.placement,
            "members": nodes,
        }  # fmt: skip
        click.echo(json.dumps(shape))
        return
    if not found.nodes:
        click.echo("no live node: start one with `rqproc node start`", err=True)
        return
    from rich.table import Table

    from rqproc.cli.output import console

    by_slots = found.placement == "slots"
    title = f"namespace {found.namespace}, epoch {found.epoch}" + (", placement slots" * by_slots)
    table = Table(title=title, title_justify="left")
    for heading in ("node", "state", "lease left"):
        table.add_column(heading)
    for heading in ("queued", "held", "stuck", "entries", "hits", "joined", "misses", "pid"):
        table.add_column(heading, justify="right")
    table.add_column("host")
    if by_slots:
        table.add_column("slots", justify="right")
    for info in found.nodes:
        table.add_row(*_row(info), *([str(info.slots)] if by_slots else ()))
    console().print(table)


def _row(info: NodeInfo) -> tuple[str, ...]:
    counts = (info.queued, info.held, info.stuck, info.entries, info.hits, info.joined)
    lease = f"{info.lease_left_s:.1f} s"
    numbers = (str(number) for number in (*counts, info.misses, info.pid))
    return (info.name, info.state, lease, *numbers, info.host)


@node.command(
    epilog="\b\nExamples:\n  rqproc node drain web-2\n  rqproc node drain web-2 --no-wait"
)
@click.argument("name")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it has left.")
@click.option(
    "--timeout", "-t", metavar="SECONDS", type=float, default=60.0, show_default=True,
    help="How long to wait.",
)  # fmt: skip
@click.pass_obj
def drain(target: Target, name: str, wait: bool, timeout: float) -> int:
    """Stop a node gracefully, from anywhere.

    New requests go to other nodes at once; it finishes what it holds, then ends.
    """
    from rqproc.client import Client

    with Client(server_url(target.url), namespace=target.namespace) as client:
        if not client.drain(name):
            raise (
                NoLiveNode(client.namespace)
                if not client.membership().nodes
                else ConfigError(f"no live node is named {name!r}: see `rqproc node list`")
            )
        click.echo(f"{name} is draining", err=True)
        if not wait:
            return 0
        gone = _await(lambda: name not in {n.name for n in client.membership().nodes}, timeout)
    if not gone:
        click.echo(f"error: {name} still holds requests after {timeout:g} s", err=True)
        return 4
    click.echo(f"{name} has left", err=True)
    return 0


def _await(condition: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
    return True


@node.command(epilog="\b\nExamples:\n  rqproc node check\n  rqproc node check web-2")
@click.argument("name", required=False)
@click.pass_obj
def check(target: Target, name: str | None) -> int:
    """Probe: exit 0 if the node NAME (or any node) is a live member, else 3.

    Exit 1 if NAME has stuck handlers: they run for longer than their resource's timeout, and cannot
    be ended but with their process. For health checks of containers and load balancers.
    """
    found = _membership(target)
    if name is None:
        if found.members:
            click.echo(f"{len(found.members)} live: {', '.join(found.members)}")
            return 0
        raise NoLiveNode(found.namespace)
    stuck = next((n.stuck for n in found.nodes if n.name == name), 0)
    if stuck:
        click.echo(f"error: {name} has {stuck} stuck handlers: restart it", err=True)
        return 1
    if name in found.members:
        click.echo(f"{name} is a live member")
        return 0
    state = next((n.state for n in found.nodes if n.name == name), "not alive")
    click.echo(f"error: {name} is {state}", err=True)
    return 3
