"""The command line: parse, call, print, exit code. No decisions are taken here.

Exit codes: 0 ok; 1 a handler failed; 2 usage; 3 no live node; 4 timeout; 5 Redis unreachable;
6 overloaded; 75 a node has reached a limit of its own; 130 Ctrl-C. Results go to stdout, everything
else to stderr.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what it cannot carry is spelled out
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    import click

    from rqproc.cli.root import rqproc
    from rqproc.errors import RqprocError

    try:
        code = rqproc.main(
            args, prog_name="rqproc", standalone_mode=False, auto_envvar_prefix="RQPROC"
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except RqprocError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone; so may we, in silence
        return 0
    return code if isinstance(code, int) else 0
