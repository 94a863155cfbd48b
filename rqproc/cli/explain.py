"""``rqproc explain``."""

from __future__ import annotations

from dataclasses import asdict

import click

from rqproc.cli.ask import AS_JSON, IDS, RESOURCE, IdsCommand
from rqproc.cli.output import json_text
from rqproc.cli.root import Target
from rqproc.client import Client
from rqproc.explained import Explanation
from rqproc.ids import canonical
from rqproc.monitor.texts import lines


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
        for place, id in enumerate([canonical(id) for id in ids]):  # none is told if one is no id
            found = client.explain(id, resource, timeout=timeout)
            if as_json:
                click.echo(json_text(asdict(found)))
            else:
                click.echo(("\n" if place else "") + "\n".join(lines(found)))
            code = code or _code(found)
    return code


def _code(found: Explanation) -> int:
    if found.told:
        return 0
    return 4 if found.asked else 3
