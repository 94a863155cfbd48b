"""``rqproc simulate``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from rqproc.lab.moves import Moves, simulate
from rqproc.placement import PLACEMENTS, Placement

BAR = 40


@click.command(
    "simulate",
    epilog="""\b
Examples:
  rqproc simulate                                   a fifth node joins four: both placements
  rqproc simulate --nodes 4 --join 1 --ids 100000 --placement slots
  rqproc simulate --nodes 10 --leave 1 --json
""",
)
@click.option(
    "--nodes", metavar="N", type=click.IntRange(1, 256), default=4, show_default=True,
    help="How many there are at first.",
)  # fmt: skip
@click.option(
    "--join", metavar="N", type=click.IntRange(0, 256), help="How many join.  [default: 1, or 0 "
    "with --leave]",
)  # fmt: skip
@click.option(
    "--leave", metavar="N", type=click.IntRange(0, 256), default=0, show_default=True,
    help="How many leave then, or die.",
)  # fmt: skip
@click.option(
    "--ids", metavar="N", type=click.IntRange(1, 10_000_000), default=100_000, show_default=True,
    help="The ids are 1 to N.",
)  # fmt: skip
@click.option(
    "--placement", type=click.Choice(PLACEMENTS), help="Of the nodes, as for `rqproc node start`.  "
    "[default: each of them]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for each placement.")
def simulate_command(
    nodes: int, join: int | None, leave: int, ids: int, placement: Placement | None, as_json: bool
) -> None:
    """Compute how ids are spread over nodes, and which a change moves.

    An id that moves is computed anew by its next owner. No server is asked.
    """
    join = (0 if leave else 1) if join is None else join
    if leave >= nodes + join:
        raise click.UsageError(f"of {nodes + join} nodes at most {nodes + join - 1} may leave")
    for one in (placement,) if placement else PLACEMENTS:
        found = simulate(one, nodes=nodes, join=join, leave=leave, ids=ids)
        if as_json:
            click.echo(json.dumps(asdict(found)))
        else:
            _print(found, f"{nodes} nodes, {join} join, {leave} leave")


def _print(found: Moves, change: str) -> None:
    from rich.table import Table

    from rqproc.cli.output import console

    title = f"placement {found.placement}: {found.ids:,} ids, {change}"
    table = Table(title=title, title_justify="left")
    table.add_column("node")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    table.add_column("after, as a share", min_width=BAR + 8)
    most = max(found.after.values())
    for name in {**found.before, **found.after}:
        has = found.after.get(name)
        shown = "-" if has is None else f"{has:,}"
        bar = "" if not has else f"{_bar(has / most)} {has / found.ids:.1%}"
        table.add_row(name, f"{found.before[name]:,}" if name in found.before else "-", shown, bar)
    out = console()
    out.print(table)
    moved, least = found.moved / found.ids, found.least / found.ids
    out.print(f"moved  {_bar(moved)} {moved:.1%}, {found.moved:,} ids")
    out.print(f"least  {_bar(least)} {least:.1%}, that any placement with even shares moves")
    out.print()


def _bar(share: float) -> str:
    """Return a bar whose length is the share of ``BAR``, in eighths of a character."""
    eighths = round(share * BAR * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
