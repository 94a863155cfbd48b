"""``rqproc doctor``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from rqproc.cli.root import Target
from rqproc.protocol.rights import ROLES, Role
from rqproc.settings import resolve_namespace

if TYPE_CHECKING:
    from rqproc.monitor.doctor import Finding

SILENT_S = 1.0
"""A check that takes longer is named meanwhile."""
COLORS = {"ok": "green", "skipped": "cyan", "warning": "yellow", "fault": "red"}


@click.command(
    epilog="""\b
Examples:
  rqproc doctor
  rqproc doctor --url redis://HOST:6379 --namespace shop --json
  rqproc doctor --user shop-node --role node

\b
Exit code: 0 if all is well, 1 with warnings, 2 with faults. What this user may not look at is
skipped, and said. It changes nothing.
"""
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option(
    "--timeout", "-t", metavar="SECONDS", type=click.FloatRange(min=0.1), default=20.0,
    show_default=True, help="For all checks together.",
)  # fmt: skip
@click.option("--user", metavar="NAME", help="Whose rights to look at.  [default: the URL's]")
@click.option(
    "--role", type=click.Choice(ROLES), help="What that user has to be.  [default: any of them]"
)
@click.pass_obj
def doctor(
    target: Target, as_json: bool, timeout: float, user: str | None, role: Role | None
) -> int:
    """Look what is wrong with a server, and with the cluster on it, and say what to do."""
    from rqproc.calls.functions import connector
    from rqproc.monitor.doctor import EXIT_CODES, diagnose, worst
    from rqproc.protocol.keys import Keys

    keys = Keys(resolve_namespace(target.namespace))
    where = connector(target.url)
    found = []
    with _named_if_slow() as progress:
        for finding in diagnose(
            where, keys, timeout_s=timeout, begun=progress.begin, user=user, role=role
        ):
            progress.end()
            found.append(finding)
            if not as_json:
                _show(finding)
    level = worst(found)
    if as_json:
        findings = [asdict(finding) for finding in found]
        about = {"server": where.server, "namespace": keys.namespace, "level": level}
        click.echo(json.dumps({**about, "findings": findings}))
    else:
        counts = [f"{sum(f.level == one for f in found)} {one}" for one in EXIT_CODES]
        click.echo(f"{where.server}, namespace {keys.namespace}: {', '.join(counts)}", err=True)
    return EXIT_CODES[level]


def _show(finding: Finding) -> None:
    level = click.style(f"{finding.level:<8}", fg=COLORS[finding.level])
    click.echo(f"{level} {finding.check + ':':<14} {finding.text}")
    if finding.advice:
        click.echo(f"{'':<23} -> {finding.advice}")


class _Progress:
    """Says on stderr which check is still under way."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def begin(self, name: str) -> None:
        self.end()
        self._timer = threading.Timer(SILENT_S, lambda: click.echo(f"{name} ...", err=True))
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        if self._timer:
            self._timer.cancel()


@contextmanager
def _named_if_slow() -> Iterator[_Progress]:
    progress = _Progress()
    try:
        yield progress
    finally:
        progress.end()
