"""``rqproc invalidate``, ``rqproc set``: what changes what is kept."""

from __future__ import annotations

import json

import click

from rqproc.cli.ask import AS_JSON, RESOURCE, TIMEOUT, IdsCommand, plain_ids
from rqproc.cli.root import Target
from rqproc.client import Client
from rqproc.ids import canonical
from rqproc.model import DEFAULT_RESOURCE


@click.command(
    cls=IdsCommand,
    epilog="""\b
Examples:
  rqproc invalidate 42 --resource price
  rqproc invalidate --all --resource price     all that is kept of a resource
  rqproc invalidate --all                      all that is kept in the namespace
""",
)
@click.argument("ids", metavar="ID...", nargs=-1, callback=plain_ids)
@click.option(
    "--all", "everything", is_flag=True, help="All ids, of --resource, or of all of them."
)
@click.option(
    "--resource", "-r", metavar="NAME",
    help=f"The resource, as the nodes' app declares it.  [default: {DEFAULT_RESOURCE}; with --all "
    "every one]",
)  # fmt: skip
@TIMEOUT
@AS_JSON
@click.pass_obj
def invalidate(
    target: Target,
    ids: tuple[str, ...],
    everything: bool,
    resource: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Drop the entries of IDs, or all.

    A request made afterwards gets a value that was computed afterwards.
    """
    if everything == bool(ids):
        trouble = "IDs or --all, not both" if ids else "Missing argument 'ID...', or --all"
        raise click.UsageError(trouble)
    with Client(target.url, namespace=target.namespace) as client:
        if everything:
            client.invalidate_all(resource, timeout=timeout)
            if as_json:
                click.echo(json.dumps({"resource": resource, "dropped": True}))
            else:
                click.echo(f"dropped all of {resource or 'the namespace'}")
            return
        resource = resource or DEFAULT_RESOURCE
        found = client.invalidate_many(map(canonical, ids), resource, timeout=timeout)
        for id, dropped in found.items():
            if as_json:
                click.echo(json.dumps({"id": id, "resource": resource, "dropped": dropped}))
            else:
                click.echo(f"{id}\t{'dropped' if dropped else 'had no entry'}")


@click.command(
    "set",
    cls=IdsCommand,
    epilog="""\b
Examples:
  rqproc set ABC-1 '{"cents": 1250}' --resource price
  rqproc set ABC-1 null --resource price --ttl 60
""",
)
@click.argument("ids", metavar="ID JSON", nargs=2, required=True, callback=plain_ids)
@RESOURCE
@click.option(
    "--ttl", type=float, metavar="SECONDS",
    help="How long it is kept.  [default: as the resource says]",
)  # fmt: skip
@TIMEOUT
@click.pass_obj
def put(
    target: Target, ids: tuple[str, str], resource: str, ttl: float | None, timeout: float
) -> None:
    """Put a value in the entry of ID, as if its handler had just returned it.

    Nothing older is served afterwards.
    """
    id, text = ids
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"the value is not JSON: {error}") from error
    with Client(target.url, namespace=target.namespace) as client:
        kept = client.set(canonical(id), value, resource, ttl=ttl, timeout=timeout)
    click.echo(f"{id}\t{'kept' if kept else 'not kept'}")
