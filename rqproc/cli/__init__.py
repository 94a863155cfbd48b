"""The command line: parse, call, print, exit code. No decisions are taken here.

Exit codes: 0 ok; 1 a handler failed, or the output cannot be written; 2 usage; 3 no live node;
4 timeout; 5 Redis unreachable; 6 overloaded; 75 a node has reached a limit of its own; 130 Ctrl-C.
Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130
UNWRITABLE = (errno.EBADF, errno.EIO, errno.ENOSPC)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    if sys.stdout is None:  # closed by the caller: to write there is an error that can be told
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what it cannot carry is spelled out
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    import click

    from rqproc.cli.root import ReaderGone, rqproc
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
    except (ReaderGone, SystemExit) as error:  # rich ends by the latter
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        _give_up_stdout()
        return 0
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        click.echo(f"error: cannot write to standard output: {error.strerror}", err=True)
        _give_up_stdout()
        return 1
    return code if isinstance(code, int) else 0


def _give_up_stdout() -> None:
    """Have the interpreter throw away, as it ends, what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
