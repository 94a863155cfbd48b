"""The command group, its options, and where each command lives.

Commands are imported when they are called: ``rqproc request`` does not pay for tables or demos.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module

import click

from rqproc import __version__

COMMANDS = {
    "bench": "rqproc.cli.bench:bench",
    "dashboard": "rqproc.cli.dashboard:dashboard",
    "demo": "rqproc.cli.demo:demo",
    "docs": "rqproc.cli.docs:docs",
    "doctor": "rqproc.cli.doctor:doctor",
    "explain": "rqproc.cli.explain:explain",
    "invalidate": "rqproc.cli.change:invalidate",
    "set": "rqproc.cli.change:put",
    "node": "rqproc.cli.node:node",
    "owner": "rqproc.cli.ask:owner",
    "request": "rqproc.cli.ask:request",
    "server": "rqproc.cli.server:server",
    "simulate": "rqproc.cli.simulate:simulate_command",
    "top": "rqproc.cli.top:top",
    "torture": "rqproc.cli.torture:torture",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster a command is for, as the user has said it; None where it was not said."""

    url: str | None
    namespace: str | None


class ReaderGone(Exception):
    """Whoever read the output through a pipe reads no more: no fault of anybody's."""


class LazyGroup(click.Group):
    """A group whose commands are imported by name."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # of which click makes exit code 1
            raise ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return _with_target(command)


def _with_target(command: click.Command) -> click.Command:
    """Let ``--url`` and ``--namespace`` stand behind the command's name as well."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _with_target(inner)
    elif not any(param.name == "url" for param in command.params):
        for flags, metavar in ((["--url"], "URL"), (["--namespace", "-n"], "NS")):
            option = click.Option(
                flags, metavar=metavar, help="As before the command.", expose_value=False,
                callback=_retarget,
            )  # fmt: skip
            command.params.append(option)
    return command


def _retarget(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None and param.name:
        ctx.obj = replace(ctx.obj or Target(None, None), **{param.name: value})


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
    epilog="""\b
Examples:
  rqproc demo                              the whole story in one console
  rqproc node start --name 1               one node, in the foreground
  rqproc request 1 2 3                     values, from the nodes that own the ids
  rqproc request 1 --url local://          a value, computed here: no server, no nodes
  rqproc node start prices:app --count 4   four nodes that serve your own app
  rqproc docs                              the documentation, page by page

\b
Every option can be set as RQPROC_..., such as RQPROC_REDIS_URL, RQPROC_NAMESPACE or
RQPROC_REQUEST_TIMEOUT. Shell completion, for bash (zsh and fish alike):
  eval "$(_RQPROC_COMPLETE=bash_source rqproc)"
""",
)
@click.option(
    "--url",
    envvar="RQPROC_EXPLICIT_URL",  # the supervisor's way to hand on what was said to it
    metavar="URL",
    help="The Redis or Valkey server: redis://, rediss://, unix://, or "
    "redis+sentinel://HOST,HOST/NAME; or local:// for none: handlers run in this process. Without "
    "it RQPROC_REDIS_URL, RQ_REDIS_URL, REDIS_URL, else the embedded server, which is started when "
    "needed.",
)
@click.option(
    "--namespace",
    "-n",
    envvar="RQPROC_EXPLICIT_NAMESPACE",
    metavar="NS",
    help="Name of the cluster on that server.  [default: default]",
)
@click.version_option(__version__, prog_name="rqproc")
@click.pass_context
def rqproc(ctx: click.Context, url: str | None, namespace: str | None) -> None:
    """Every id has one process in the cluster.

    The owner of an id is `id modulo the live nodes`; it computes the id's value, keeps it for a few
    seconds and answers everyone who asks.
    """
    ctx.obj = Target(url, namespace)
