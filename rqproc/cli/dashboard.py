"""``rqproc dashboard``."""

from __future__ import annotations

from types import ModuleType

import click

from rqproc.cli.output import Finite
from rqproc.cli.root import Target
from rqproc.client import Client
from rqproc.errors import ConfigError
from rqproc.settings import server_url

PORT = 8420


@click.command(
    epilog="""\b
Examples:
  rqproc dashboard                              http://127.0.0.1:8420/
  rqproc dashboard --read-only --port 0         on a port that is free
  rqproc dashboard --host 0.0.0.0               for others, who need the token that it prints
"""
)
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True,
    help="Where to listen. Off loopback everyone needs the token.",
)  # fmt: skip
@click.option(
    "--port", metavar="PORT", type=click.IntRange(0, 65535), default=PORT, show_default=True,
    help="0 for one that is free.",
)  # fmt: skip
@click.option(
    "--token", metavar="TEXT",
    help="What everyone must know who opens the page.  [default: none on loopback; elsewhere a new "
    "one, which is printed]",
)  # fmt: skip
@click.option("--read-only", is_flag=True, help="Nodes cannot be drained by the page.")
@click.option(
    "--interval", "-i", "interval_s", metavar="SECONDS", type=Finite(0.1, 3600.0),
    default=1.0, show_default=True, help="Time between two looks at the cluster.",
)  # fmt: skip
@click.option("--open", "opens", is_flag=True, help="Open it in the browser of this machine.")
@click.pass_obj
def dashboard(
    target: Target,
    host: str,
    port: int,
    token: str | None,
    read_only: bool,
    interval_s: float,
    opens: bool,
) -> None:
    """Serve a page that shows the cluster live.

    Nodes and what they own, requests, hit rate and latency of the last 15 minutes, hot and slow
    ids, errors with their tracebacks, stuck handlers; an id can be looked up, and a node drained.
    It needs `pip install 'rqproc[dashboard]'`, and no internet.
    """
    if token is not None and len(token) < 8:
        raise click.UsageError("--token: 8 characters or more")
    if token is not None and not (token.isascii() and token.isprintable()):
        raise click.UsageError("--token: printable ASCII characters only")
    serving = extra()
    with Client(server_url(target.url), namespace=target.namespace) as client:
        client.membership()  # a server that cannot be reached is told of here, not on a page
        page = serving.Dashboard(
            client, host=host, port=port, token=token, read_only=read_only, interval_s=interval_s
        )
        click.echo(page.url)
        if opens:
            click.launch(page.url)
        page.serve()


def extra() -> ModuleType:
    """Return what serves pages. Raises: ConfigError: it is not installed."""
    try:
        from rqproc.monitor import serving
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the page needs {error.name}: pip install 'rqproc[dashboard]'"
        ) from error
    return serving
