"""``rqproc bench``."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from rqproc.cli.output import console, end_as_by_ctrl_c, print_step
from rqproc.cli.root import Target
from rqproc.lab.bench.environment import RIVALS, BenchPlan, Rival
from rqproc.lab.bench.rounds import Result, run_rounds
from rqproc.lab.bench.rows import NAMES, ROWS, Row, choose

DEFAULT = BenchPlan()

STYLES = {"met": "green", "missed": "bold red", "n/a": "dim", "": "dim"}

WIDTH = 21
"""Of a bar, in cells."""
REACH = 4.0
"""A bar is empty at a quarter of what was asked for, and full at four times that."""

T = TypeVar("T", bound=str)


def _some_of(known: Collection[T]) -> Callable[..., tuple[T, ...]]:
    """A callback that reads a choice of known words, with commas between them."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[T, ...]:
        words = [word.strip() for word in value.split(",")] if value is not None else []
        if unknown := [word for word in words if word not in known]:
            raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}")
        return tuple(word for word in known if word in words)

    return read


def _list(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    for row in ROWS:
        target = f"{row.target} {row.unit}".rstrip() if row.target else "no target"
        click.echo(f"{row.name:<14} {target:<16} {row.title(DEFAULT.with_millions())}")
    ctx.exit()


@click.command(
    epilog="""\b
Examples:
  rqproc bench                              all rows, about three minutes
  rqproc bench --rows hit,miss              some of them; --list names them all
  rqproc bench --against raw --seconds 3    only what needs no other rival
  rqproc bench --long --json                with a million entries and requests, for programs

\b
Rivals: raw (an LPUSH/BLPOP pair there and back), rq (stock RQ with its SimpleWorker),
redis-get (a GET of redis-py). A figure is the median of its rounds. A bar is logarithmic: it
reaches its mark where the target is met. The exit code is 0 where targets are missed, too.
"""
)
@click.option(
    "--against", metavar="RIVALS", callback=_some_of(RIVALS), default=",".join(RIVALS),
    show_default=True, help="Whom to measure beside rqproc.",
)  # fmt: skip
@click.option(
    "--rows", "names", metavar="NAMES", callback=_some_of(NAMES),
    help="These rows alone.  [default: all that need no other rivals]",
)  # fmt: skip
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list,
    help="List the rows, with their targets, and exit.",
)  # fmt: skip
@click.option(
    "--seconds", metavar="S", type=click.FloatRange(0.1, 60), default=DEFAULT.seconds,
    show_default=True, help="How long each measurement of a round takes.",
)  # fmt: skip
@click.option(
    "--rounds", metavar="N", type=click.IntRange(1, 50), default=DEFAULT.rounds, show_default=True,
    help="Interleaved rounds.",
)  # fmt: skip
@click.option(
    "--callers", metavar="N", type=click.IntRange(1, 512), default=DEFAULT.callers,
    show_default=True, help="Threads that ask side by side when throughput is measured.",
)  # fmt: skip
@click.option(
    "--nodes", metavar="N", type=click.IntRange(1, 64), default=DEFAULT.nodes, show_default=True,
    help="Nodes that ids are spread on, where a row does not say otherwise.",
)  # fmt: skip
@click.option("--long", is_flag=True, help="Measure quantities with a million: ten minutes more.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def bench(
    target: Target, /, against: tuple[Rival, ...], names: tuple[str, ...], as_json: bool,
    long: bool, **options: Any,
) -> None:  # fmt: skip
    """Measure what everything costs, beside what you would have instead, in one run.

    Look at the ratios: they hold where the machine's own speed does not. Runs on a private
    embedded server; with --url on that server, in namespaces of its own that are removed.
    """
    rows = choose(names, against)
    if left := [name for name in names if name not in {row.name for row in rows}]:
        raise click.UsageError(f"{left[0]} needs rivals that --against leaves out")
    end_as_by_ctrl_c(signal.SIGTERM, signal.SIGHUP)
    plan = BenchPlan(**options)
    result = _watch(target.url, plan.with_millions() if long else plan, rows)
    if as_json:
        click.echo(json.dumps(_shaped(result)))
    else:
        _show(console(), result)


def _watch(url: str | None, plan: BenchPlan, rows: Collection[Row]) -> Result:
    out = console(sys.stderr)
    with (
        _progress(out) as progress,
        closing(run_rounds(url, plan, tuple(rows))) as events,
    ):
        task = progress.add_task("", total=None)
        for event in events:
            if isinstance(event, Result):
                return event
            print_step(out, event.text)
            progress.update(
                task, description=escape(event.text), completed=event.done, total=event.steps,
                refresh=True,
            )  # fmt: skip
    raise AssertionError("a run ends with a result")


def _progress(out: Console) -> Progress:
    """Drawn at each step alone: what draws all the time would be measured too."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    quiet = not out.is_terminal
    return Progress(*columns, console=out, auto_refresh=False, transient=True, disable=quiet)


def _shaped(result: Result) -> dict[str, Any]:
    return {
        "machine": dict(result.machine),
        **asdict(result.plan),
        "rows": [_shaped_row(result, row) for row in result.rows],
    }


def _shaped_row(result: Result, row: Row) -> dict[str, Any]:
    target = row.target
    return {
        "name": row.name,
        "what": row.title(result.plan),
        "figure": result.figure(row),
        "unit": row.unit,
        "rounds": row.formula.rounds(result.readings),
        "target": target and {"at_least" if target.at_least else "at_most": target.bound},
        "verdict": result.verdict(row),
        "measured": {
            f"{term.probe}.{term.field}": term.median(result.readings) for term in row.formula.terms
        },
    }


def _show(out: Console, result: Result) -> None:
    out.print(_table(out, result))
    verdicts = {row.name: result.verdict(row) for row in result.rows if row.target}
    missed = [name for name, verdict in verdicts.items() if verdict == "missed"]
    met = list(verdicts.values()).count("met")
    out.print(f"{met} of {len(verdicts)} targets met; missed: {', '.join(missed) or 'none'}")
    if any(row.title(result.plan) != row.title(result.plan.with_millions()) for row in result.rows):
        out.print("--long measures these quantities with a million")
    if result.busy:
        load = result.machine["load"]
        out.print(f"the cores were wanted before it began (load {load}): see a quiet machine's run")
    out.print(", ".join(f"{name} {value}" for name, value in result.machine.items()))


def _table(out: Console, result: Result) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("", no_wrap=True, min_width=WIDTH)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("target", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("measured")
    ink = Ink() if out.is_terminal else PLAIN
    for row in result.rows:
        table.add_row(*_cells(result, row, ink))
    return table


def _cells(result: Result, row: Row, ink: Ink) -> tuple[str, ...]:
    figure, verdict = result.figure(row), result.verdict(row)
    style = STYLES[verdict]
    drawn = ""
    if figure is not None and row.target:
        drawn = f"[{style}]{bar(row.target.score(figure), ink=ink)}[/{style}]"
    shown = "n/a" if figure is None else f"{number(figure)} {row.unit}".rstrip()
    target = str(row.target) if row.target else ""
    title = f"[bold]{row.name}[/bold]: {escape(row.title(result.plan))}"
    return title, drawn, shown, target, f"[{style}]{verdict}[/{style}]", _measured(result, row)


def _measured(result: Result, row: Row) -> str:
    """What the figure is made of, where it is made of two things."""
    medians = [(term, term.median(result.readings)) for term in row.formula.terms]
    if len(medians) < 2:
        return ""
    return " to ".join(amount(term.field, value) for term, value in medians if value is not None)


@dataclass(frozen=True, slots=True)
class Ink:
    """The characters of a bar: what is reached, the target's mark, and the rest."""

    full: str = "█"
    mark: str = "│"
    rest: str = " "


PLAIN = Ink("#", "|", ".")


def bar(score: float, *, width: int = WIDTH, ink: Ink | None = None) -> str:
    """Draw a score on a log scale; its mark, in the middle, is reached where the target is met."""
    ink = ink or Ink()
    middle = width // 2
    filled = _filled(score, width)
    cells = [ink.full if place < filled else ink.rest for place in range(width)]
    if filled <= middle:
        cells[middle] = ink.mark
    return "".join(cells)


def _filled(score: float, width: int) -> int:
    """Cells up to the score; the middle one is full just where the score is 1.0 or more."""
    clamped = min(max(score, 1 / REACH), REACH)
    share = math.log(clamped, REACH)  # -1.0 to 1.0
    middle = width // 2
    return (
        middle + 1 + math.floor(share * middle) if share >= 0 else math.ceil((1 + share) * middle)
    )


def number(value: float) -> str:
    """Write a number with about three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def amount(field: str, value: float) -> str:
    """Write what a probe has read, in the unit that its name ends with."""
    if field.endswith("per_s"):
        return f"{number(value)}/s"
    if field.endswith("_s"):
        return _duration(value)
    if field.endswith("_bytes"):
        return f"{number(value / 1e6)} MB" if abs(value) >= 1e6 else f"{number(value)} bytes"
    if field.endswith("_share"):
        return f"{number(value * 100)} %"
    return number(value)


def _duration(seconds: float) -> str:
    if seconds >= 1.0:
        return f"{number(seconds)} s"
    return f"{number(seconds * 1e3)} ms" if seconds >= 1e-2 else f"{number(seconds * 1e6)} µs"
