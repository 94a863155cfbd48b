"""``rqproc bench``."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import click
from rich.table import Table

from rqproc import __version__
from rqproc.bench.report import LatencyRow, Row, ThroughputRow, run
from rqproc.cli.output import console
from rqproc.cli.root import Target
from rqproc.stage import Doing


@click.command(epilog="\b\nExamples:\n  rqproc bench\n  rqproc bench --seconds 5 --json")
@click.option(
    "--seconds", metavar="S", type=click.FloatRange(0.1, 60), default=1.5, show_default=True,
    help="How long each measurement of a round takes.",
)  # fmt: skip
@click.option(
    "--rounds", metavar="N", type=click.IntRange(1, 50), default=3, show_default=True,
    help="Interleaved rounds; the figures are medians.",
)  # fmt: skip
@click.option(
    "--callers", metavar="N", type=click.IntRange(1, 512), default=64, show_default=True,
    help="Threads that ask side by side when throughput is measured.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def bench(target: Target, seconds: float, rounds: int, callers: int, as_json: bool) -> None:
    """Measure a request's cost beside a raw Redis round trip and stock RQ, in one run.

    Look at the ratios: they hold where the machine's own speed does not. Runs on a private
    embedded server; with --url on that server, in a namespace of its own.
    """
    rows: list[Row] = []
    progress = console(sys.stderr)
    with progress.status("") as status:
        for event in run(target.url, seconds=seconds, rounds=rounds, callers=callers):
            if isinstance(event, Doing):
                status.update(event.text)
            else:
                rows.append(event)
    if as_json:
        shaped = [{"kind": type(row).__name__, **asdict(row)} for row in rows]
        click.echo(json.dumps({"machine": _machine(), "rows": shaped}))
        return
    out = console()
    out.print(_latency_table([row for row in rows if isinstance(row, LatencyRow)]))
    out.print(_throughput_table([row for row in rows if isinstance(row, ThroughputRow)]))
    out.print(" ".join(f"{name} {value}," for name, value in _machine().items()).rstrip(","))


def _latency_table(rows: list[LatencyRow]) -> Table:
    table = Table(title="one caller", title_justify="left")
    table.add_column("")
    for heading in ("p50 µs", "p99 µs", "p50 / pair", "p99 / pair"):
        table.add_column(heading, justify="right")
    for row in rows:
        times = (f"{row.p50_us:.0f}", f"{row.p99_us:.0f}")
        table.add_row(row.what, *times, f"{row.p50_to_pair:.2f}", f"{row.p99_to_pair:.2f}")
    return table


def _throughput_table(rows: list[ThroughputRow]) -> Table:
    table = Table(title=f"{rows[0].callers} callers side by side", title_justify="left")
    table.add_column("")
    for heading in ("requests/s", "times stock RQ"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row.what, f"{row.per_s:,.0f}", f"{row.to_rq:.1f}")
    return table


def _machine() -> dict[str, Any]:
    packages = ("redis", "hiredis", "rq")
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "rqproc": __version__,
        **{name: version(name) for name in packages},
    }
