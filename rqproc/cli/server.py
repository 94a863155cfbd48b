"""``rqproc server status|stop``: the embedded server."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from rqproc.cli.root import Target
from rqproc.server import Embedded
from rqproc.settings import LOCAL, server_url


@click.group(epilog="\b\nExamples:\n  rqproc server status\n  rqproc server stop")
def server() -> None:
    """The embedded server: a Valkey that rqproc starts where no other server is named.

    All rqproc processes of a user on a machine share it, over a unix socket that nobody else may
    open. The last one to leave stops it; its data is kept.
    """


@server.command(epilog="\b\nExamples:\n  rqproc server status\n  rqproc server status --json")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def status(target: Target, as_json: bool) -> None:
    """Say whether it runs, where, and who uses it. Starts nothing."""
    _check_means_a_server(target)
    found = asdict(Embedded().status())
    if as_json:
        click.echo(json.dumps(found, default=str))
        return
    for name, value in found.items():
        click.echo(f"{name.replace('_', ' '):<14}{'-' if value is None else value}")


@server.command(epilog="\b\nExamples:\n  rqproc server stop\n  rqproc server stop --force")
@click.option("--force", is_flag=True, help="Even while other processes use it.")
@click.pass_obj
def stop(target: Target, force: bool) -> None:
    """Stop it. Its data is kept and loaded at the next start."""
    _check_means_a_server(target)
    embedded = Embedded()
    if not embedded.status().running:
        click.echo("the embedded server is not running", err=True)
        return
    embedded.stop(force=force)
    click.echo("stopped", err=True)


def _check_means_a_server(target: Target) -> None:
    """Raises: ConfigError: whoever says ``local://`` would not have the embedded one touched."""
    if target.url == LOCAL:
        server_url(target.url)
