"""``rqproc server status|stop``: the embedded server."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from rqproc.embedded import Embedded


@click.group(epilog="\b\nExamples:\n  rqproc server status\n  rqproc server stop")
def server() -> None:
    """The embedded server: a Valkey that rqproc starts where no other server is named.

    All rqproc processes of a user on a machine share it, over a unix socket that nobody else may
    open. The last one to leave stops it; its data is kept.
    """


@server.command(epilog="\b\nExamples:\n  rqproc server status\n  rqproc server status --json")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(as_json: bool) -> None:
    """Say whether it runs, where, and who uses it. Starts nothing."""
    found = asdict(Embedded().status())
    if as_json:
        click.echo(json.dumps(found, default=str))
        return
    for name, value in found.items():
        click.echo(f"{name.replace('_', ' '):<14}{'-' if value is None else value}")


@server.command(epilog="\b\nExamples:\n  rqproc server stop\n  rqproc server stop --force")
@click.option("--force", is_flag=True, help="Even while other processes use it.")
def stop(force: bool) -> None:
    """Stop it. Its data is kept and loaded at the next start."""
    embedded = Embedded()
    if not embedded.status().running:
        click.echo("the embedded server is not running", err=True)
        return
    embedded.stop(force=force)
    click.echo("stopped", err=True)
