"""``rqproc request``, ``rqproc owner``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from rqproc.cli.lines import Input, ask_each, progress_of
from rqproc.cli.root import Target
from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.ids import Id, canonical
from rqproc.model import DEFAULT_RESOURCE, DEFAULT_TIMEOUT_S, OnLost, Reply
from rqproc.monitor.texts import why_there
from rqproc.resource import ResourceSpec
from rqproc.settings import LOCAL, resolve_url

if TYPE_CHECKING:
    from rqproc.app import App

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_NEGATIVE = "\0"
"""Stands before a negative id while options are told from arguments."""


class IdsCommand(click.Command):
    """A command whose ids may be negative: ``-5`` is one of them, not an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = (option for option in self.params if isinstance(option, click.Option))
        valued = {name for option in options if not option.is_flag for name in option.opts}
        end = args.index("--") if "--" in args else len(args)
        marked = [
            f"{_NEGATIVE}{arg}"
            if re.fullmatch(r"-[0-9]+", arg) and (not place or args[place - 1] not in valued)
            else arg
            for place, arg in enumerate(args[:end])
        ]
        return super().parse_args(ctx, [*marked, *args[end:]])


def plain_ids(_: click.Context, __: click.Parameter, ids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(id.removeprefix(_NEGATIVE) for id in ids)


IDS = click.argument("ids", metavar="ID...", nargs=-1, required=True, callback=plain_ids)
IDS_OR_STDIN = click.argument("ids", metavar="[ID]...", nargs=-1, callback=plain_ids)
RESOURCE = click.option(
    "--resource", "-r", metavar="NAME", default=DEFAULT_RESOURCE, show_default=True,
    help="The resource, as the nodes' app declares it.",
)  # fmt: skip
TIMEOUT = click.option(
    "--timeout", "-t", metavar="SECONDS", type=float, default=DEFAULT_TIMEOUT_S, show_default=True,
    help="How long to wait for an answer.",
)  # fmt: skip
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.command(
    cls=IdsCommand,
    epilog="""\b
Examples:
  rqproc request 1
  rqproc request 2 3 4 --verbose
  rqproc request ABC-1 --resource price --json
  rqproc request -- -a                     an id that begins with a dash; -5 needs no --
  rqproc request ABC-1 -r price --refresh  have it made now, whatever is kept
  rqproc request 1 --on-lost error         do not wait for a node that is silent
  rqproc request ABC-1 -r price --on-lost local --app prices:app
  rqproc request ABC-1 -r price --app prices:app --url local://     no server, no nodes
  rqproc request --stdin --json < ids.txt > values.jsonl            one id a line

\b
Where no node can answer (none lives, the one that has the request is silent at half of the
timeout, Redis cannot be reached), --on-lost local runs the handler here, in this process, and
withdraws the request; --on-lost error ends at once, with exit code 3, 1 or 5. A handler's own
error is never such a loss.
""",
)
@IDS_OR_STDIN
@click.option(
    "--stdin", "from_stdin", is_flag=True,
    help="Read the ids from standard input, one a line; each is answered as it comes.",
)  # fmt: skip
@RESOURCE
@TIMEOUT
@click.option(
    "--on-lost", type=click.Choice(get_args(OnLost)),
    help="Where no node can answer: wait for one until the timeout, run the handler here, or end "
    "with an error.  [default: what the app says, else wait]",
)  # fmt: skip
@click.option(
    "--app", "spec", metavar="MODULE:APP",
    help="The app whose handlers run here, with `--on-lost local` or `--url local://`; if it names "
    "a server, that is asked.",
)  # fmt: skip
@click.option("--refresh", is_flag=True, help="Have the values made now, whatever is kept.")
@click.option("--verbose", "-v", is_flag=True, help="Say who answered, hit or miss, and the age.")
@AS_JSON
@click.pass_obj
def request(
    target: Target,
    ids: tuple[str, ...],
    from_stdin: bool,
    resource: str,
    timeout: float,
    on_lost: OnLost | None,
    spec: str | None,
    refresh: bool,
    verbose: bool,
    as_json: bool,
) -> int:
    """Ask for the values of IDs.

    Several ids go out together. A value is printed as it is if it is text, else as JSON; with
    several ids each line begins with its id. An id that fails has its error on stderr; the exit
    code is that of the first failure.

    With --stdin each line has its line of output, in the same order; up to 256 go out together, and
    each such group has --timeout.
    """
    if from_stdin == bool(ids):
        trouble = "IDs or --stdin, not both" if ids else "Missing argument 'ID...', or --stdin"
        raise click.UsageError(trouble)
    if from_stdin and sys.stdin is None:
        raise click.UsageError("--stdin: standard input is closed")
    if refresh and on_lost not in (None, "wait"):
        raise click.UsageError("--refresh waits for the owner of an id: leave --on-lost out")
    show = partial(_show, resource=resource, verbose=verbose, as_json=as_json)
    with _client(target, resource, on_lost, spec) as (client, policy):

        def ask(ids: Iterable[Id]) -> dict[Id, Reply | RqprocError]:
            if refresh:
                return client.refresh_many(ids, resource, timeout=timeout)
            return client.reply_many(ids, resource, timeout=timeout, on_lost=policy)

        if from_stdin:
            source = cast(Input, sys.stdin.buffer)
            with progress_of(source) as progress:
                return ask_each(source, ask, show, progress)
        outcomes = ask(map(canonical, ids))
    for id, outcome in outcomes.items():
        show(id, outcome, alone=len(outcomes) == 1)
    failures = (found.exit_code for found in outcomes.values() if isinstance(found, RqprocError))
    return next(failures, 0)


@contextmanager
def _client(
    target: Target, resource: str, on_lost: OnLost | None, spec: str | None
) -> Iterator[tuple[Client, OnLost | None]]:
    """What is asked with, and what it is to do where no node can answer.

    Raises:
        UsageError: the handler is to be run here, and is not here.
    """
    app = _app(target, spec) if spec else None
    where = Target(app.url, app.namespace) if app else target
    alone = resolve_url(where.url) == LOCAL
    handlers = _handlers(app) if spec or on_lost == "local" else {}
    if on_lost == "local" and resource not in handlers:
        raise click.UsageError(
            f"--on-lost local needs --app MODULE:APP, an app that declares {resource!r}; known "
            f"here: {', '.join(sorted(handlers))}"
        )
    with Client(where.url, namespace=where.namespace, app=app if alone else handlers) as client:
        yield client, None if alone else on_lost  # there is nobody who could be lost


def _app(target: Target, spec: str) -> App:
    """Return an app whose own client, which handlers may use, asks where the command asks.

    Raises:
        ConfigError: no such app.
    """
    from rqproc.cli.apps import load_app, target_of

    app = load_app(spec)
    where = target_of(target, app)
    app.url, app.namespace = where.url, where.namespace
    return app


def _handlers(app: App | None) -> Mapping[str, ResourceSpec]:
    """Return what this process can run."""
    from rqproc.sample import with_demo

    return with_demo(app)


def _show(
    id: Id, outcome: Reply | RqprocError, *, resource: str, verbose: bool, as_json: bool,
    alone: bool = False,
) -> None:  # fmt: skip
    if as_json:
        click.echo(json.dumps(_line(id, resource, outcome)))
    else:
        _print(id, outcome, verbose=verbose, alone=alone)


def _print(id: Id, outcome: Reply | RqprocError, *, verbose: bool, alone: bool) -> None:
    if isinstance(outcome, RqprocError):
        click.echo(f"error: {outcome}", err=True)
        if remote := getattr(outcome, "traceback", "") if verbose else "":
            click.echo(remote.rstrip(), err=True)
        return
    text = outcome.value if isinstance(outcome.value, str) else json.dumps(outcome.value)
    text = text.encode(errors="backslashreplace").decode()
    click.echo(text if alone else f"{id}\t{text}")
    if verbose:
        click.echo(
            f"  {id}: {outcome.source} from {outcome.node}, {outcome.age_s:.1f} s old, "
            f"expires in {outcome.expires_in_s:.1f} s",
            err=True,
        )


def _line(id: Id, resource: str, outcome: Reply | RqprocError) -> dict[str, Any]:
    head = {"id": id, "resource": resource}
    if isinstance(outcome, RqprocError):
        error = {"type": type(outcome).__name__, "message": str(outcome)}
        return {**head, "ok": False, "error": error}
    return {
        **head,
        "ok": True,
        "value": outcome.value,
        "node": outcome.node,
        "source": outcome.source,
        "age_s": outcome.age_s,
        "expires_in_s": outcome.expires_in_s,
    }


@click.command(
    cls=IdsCommand,
    epilog="""\b
Examples:
  rqproc owner 1 2 3
  rqproc owner ABC-1 --json
""",
)
@IDS
@RESOURCE
@AS_JSON
@click.pass_obj
def owner(target: Target, ids: tuple[str, ...], resource: str, as_json: bool) -> int:
    """Say which node owns IDs, and why.

    The owner is the member at place `slot modulo members`, or with placement `slots` the one that
    the id's hash slot is dealt to. A holder, if there is one, is a node that is busy with the id at
    this moment: its requests go there until it has finished.
    """
    with Client(target.url, namespace=target.namespace) as client:
        locations = client.locate(ids, resource)
    for found in locations:
        if as_json:
            click.echo(json.dumps({**asdict(found), "members": list(found.members)}))
            continue
        if found.owner is None:
            click.echo(f"{found.id}\t-\tno live node")
            continue
        why = why_there(found)
        held = f"; held by {found.holder}" if found.holder else ""
        click.echo(f"{found.id}\t{found.owner}\t{why} (epoch {found.epoch}){held}")
    if locations and locations[0].owner is None:
        click.echo("error: no live node: start one with `rqproc node start`", err=True)
        return 3
    return 0
