"""``rqproc torture``."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rqproc.cli.output import console, end_as_by_ctrl_c, print_step
from rqproc.cli.root import Target
from rqproc.lab.torture.campaign import TorturePlan, Verdict, run_campaign
from rqproc.lab.torture.figures import Times
from rqproc.lab.torture.history import Violation
from rqproc.lab.torture.records import Kind
from rqproc.lab.torture.schedule import KINDS
from rqproc.placement import PLACEMENTS, Placement

NONE = "none"
SEEDS = 1_000_000


def _kinds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[Kind, ...]:
    if value is None:
        return KINDS
    wanted = [word.strip() for word in value.split(",")]
    if wanted == [NONE]:
        return ()
    if unknown := [word for word in wanted if word not in KINDS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(KINDS)} or {NONE}")
    return tuple(kind for kind in KINDS if kind in wanted)


@click.command(
    epilog="""\b
Examples:
  rqproc torture                              a minute, all kinds of faults
  rqproc torture --seconds 120 --seed 7       the same faults in the same order each time
  rqproc torture --faults kill,pause,wipe     these kinds alone; `none` is --calm
  rqproc torture --calm --seconds 300         no faults: does anything grow?

\b
Kinds: kill (-9), pause (SIGSTOP), drain, join: of nodes. restart (its data kept), wipe (its data
lost), stall (SIGSTOP): of the server. delay, drop (requests swallowed), half-close, mute (replies
swallowed after the request was carried out): of connections.
Exit code 1 on a violation, with the shortest history that shows it. A seed fixes what is done and
in which order; when it hits is up to the machine.
"""
)
@click.option(
    "--seconds", metavar="S", type=click.FloatRange(1, 86400), default=60.0, show_default=True,
    help="How long faults are injected.",
)  # fmt: skip
@click.option(
    "--nodes", metavar="N", type=click.IntRange(1, 64), default=4, show_default=True,
    help="Nodes, each a process.",
)  # fmt: skip
@click.option(
    "--seed", metavar="N", type=int, help="What is done, and in which order.  [default: random]"
)
@click.option(
    "--faults", "kinds", metavar="KINDS", callback=_kinds, help="These kinds alone, or none."
)
@click.option(
    "--placement", type=click.Choice(PLACEMENTS), default="modulo", show_default=True,
    help="Of the nodes, as for `rqproc node start`.",
)  # fmt: skip
@click.option("--calm", is_flag=True, help="No faults: watch memory, files and threads instead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def torture(
    target: Target, seconds: float, nodes: int, seed: int | None, kinds: tuple[Kind, ...],
    placement: Placement, calm: bool, as_json: bool,
) -> int:  # fmt: skip
    """Break a cluster on purpose, under load, and check that every promise holds.

    Starts a private server, nodes and callers; kills, pauses, drains and cuts them off; then reads
    what handlers and callers have written down: no id ran in two places, every request was answered
    or ended in a named error by its deadline, no value was too old, fencing tokens rose, nothing
    was left behind.

    Callers ask for one id and for many, block and await, enqueue and invalidate. Some handlers ask
    for other ids, also in a circle: only circles are refused, and none stands. Some take longer
    than their timeout: their callers are told in time, and their ids stay theirs. Some callers do
    not want to wait (--on-lost local, error): they run the handler themselves, or are told, only
    where a fault kept the nodes from answering.
    """
    if target.url:
        raise click.UsageError("torture runs on a server of its own, never on yours: drop --url")
    if calm and kinds != KINDS:
        raise click.UsageError("--calm is without faults: drop --faults")
    end_as_by_ctrl_c(signal.SIGTERM, signal.SIGHUP)
    found = random.randrange(SEEDS) if seed is None else seed  # noqa: S311
    chosen = () if calm else kinds
    plan = TorturePlan(seconds=seconds, nodes=nodes, seed=found, kinds=chosen, placement=placement)
    verdict = _watch(plan)
    if as_json:
        click.echo(json.dumps(_shaped(verdict)))
    else:
        _show(console(), verdict)
    return 1 if verdict.violations else 0


def _watch(plan: TorturePlan) -> Verdict:
    progress = console(sys.stderr)
    with progress.status("") as status, closing(run_campaign(plan)) as events:
        for event in events:
            if isinstance(event, Verdict):
                return event
            print_step(progress, event.text)
            status.update(escape(event.text))
    raise AssertionError("a run ends with a verdict")


def _shaped(verdict: Verdict) -> dict[str, Any]:
    plan = verdict.plan
    return {
        "seed": plan.seed,
        "seconds": plan.seconds,
        "nodes": plan.nodes,
        "lease_s": plan.lease_s,
        "heartbeat_s": plan.heartbeat_s,
        "strict": verdict.history.strict,
        "placement": plan.placement,
        "held": not verdict.violations,
        **asdict(verdict.figures),
        "violations": [asdict(violation) for violation in verdict.violations],
        "soak": [{**asdict(growth), "flat": growth.flat} for growth in verdict.growths],
    }


def _show(out: Console, verdict: Verdict) -> None:
    out.print(_table(verdict))
    if verdict.growths:
        out.print(_soaked(verdict))
    shortest: dict[str, Violation] = {}
    for violation in verdict.violations:  # those with short histories come first
        shortest.setdefault(violation.law, violation)
    for violation in shortest.values():
        _show_violation(out, violation)
    if more := len(verdict.violations) - len(shortest):
        out.print(f"... and {more} more, with longer histories; --json has them all")
    if verdict.violations:
        out.print(
            f"[bold red]{len(verdict.violations)} violations[/bold red], seed {verdict.plan.seed}"
        )
    else:
        out.print(f"[bold green]every promise held[/bold green], seed {verdict.plan.seed}")


def _show_violation(out: Console, violation: Violation) -> None:
    out.print(f"[bold red]{violation.law}[/bold red]: {escape(violation.text)}")
    first = violation.lines[0].at if violation.lines else 0.0
    for line in violation.lines:
        out.print(f"  {line.at - first:8.3f} s  {escape(line.text)}")


def _table(verdict: Verdict) -> Table:
    plan, found = verdict.plan, verdict.figures
    table = Table(title=f"{plan.seconds:g} s, {plan.nodes} nodes, lease {plan.lease_s:g} s")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("requests", f"{found.requests:,}", style="bold")
    for outcome, count in found.outcomes.items():
        table.add_row(f"  {outcome}", f"{count:,}")
    table.add_row("asked by", "", style="bold")
    for way, count in found.ways.items():
        table.add_row(f"  {way}", f"{count:,}")
    table.add_row("handler runs", f"{found.runs:,}", style="bold")
    table.add_row("  cut short by the end of their process", f"{found.cut_short:,}")
    table.add_row("  that went on after too long a pause", f"{found.outlived:,}")
    table.add_row("  that took longer than they may", f"{found.overdue:,}")
    table.add_row("  in a caller's own process", f"{found.local:,}")
    table.add_row("faults", f"{sum(found.faults.values()):,}", style="bold")
    for kind, count in found.faults.items():
        table.add_row(f"  {kind}", f"{count:,}")
    table.add_row("nodes that ended themselves", f"{found.ended_themselves:,}", style="bold")
    table.add_row("failover p50 / p99, by lease", _times(found.failover), style="bold")
    table.add_row("failover p50 / p99, told", _times(found.failover_told), style="bold")
    return table


def _times(times: Times | None) -> str:
    return f"{times.p50_s:.2f} / {times.p99_s:.2f} s of {times.count}" if times else "-"


def _soaked(verdict: Verdict) -> Table:
    table = Table(title="start and end of the calm")
    for heading in ("process", "memory, MiB", "files", "threads"):
        table.add_column(heading, justify="right")
    for growth in verdict.growths:
        start, end = growth.start, growth.end
        pairs: Sequence[str] = (
            f"{start.rss_bytes / 2**20:.1f} {end.rss_bytes / 2**20:.1f}",
            f"{start.files} {end.files}",
            f"{start.threads} {end.threads}",
        )
        table.add_row(growth.name, *pairs, style="" if growth.flat else "bold red")
    return table
