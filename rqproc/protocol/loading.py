"""Runs one function on a connection, and loads the library where the server does not have it.

Knows links, the library, and how a server says that it lacks either. Must not know what a function
does, nor when to try again.
"""

from __future__ import annotations

import re
from typing import Any

from rqproc.errors import ConfigError
from rqproc.protocol.commands import Commands
from rqproc.transport.connection import Command, Dial, Link, LinkLost, Refused, pack, too_old


def run(link: Link, commands: Commands, command: Command, *, dial: Dial, timeout_s: float) -> Any:
    """Run one function; return its reply.

    Args:
        link: one that ``dial`` has made, and on which no reply is due.

    Raises:
        ConfigError: the server knows no functions: it is too old.
        LinkLost, Refused: the link is closed.
    """
    reply = ask(link, command, dial=dial, timeout_s=timeout_s)
    if isinstance(reply, Refused) and reply.code == "NOFUNCTION":
        load(link, commands, dial=dial, timeout_s=timeout_s)
        reply = ask(link, command, dial=dial, timeout_s=timeout_s)
    return _checked(link, reply, dial, timeout_s)


def load(link: Link, commands: Commands, *, dial: Dial, timeout_s: float) -> None:
    """Load the library, in the place of another build of it. Raises: as ``run``."""
    reply = ask(link, commands.load, dial=dial, timeout_s=timeout_s)
    _checked(link, reply, dial, timeout_s)


def ask(link: Link, command: Command, *, dial: Dial, timeout_s: float) -> Any:
    """Return a command's reply; an error of the server's is returned as ``Refused``, and leaves the
    link open.

    Raises:
        LinkLost.
    """
    clock = dial.ground.monotonic
    end = clock() + timeout_s
    link.send(pack((command,)), timeout_s=timeout_s)
    while not (found := link.take(max(0.0, end - clock()))):  # it may come in pieces
        if clock() >= end:
            link.close()
            raise LinkLost("it does not answer", spent_s=timeout_s)
    reply = found[0]
    return Refused(str(reply)) if isinstance(reply, Exception) else reply


def is_unknown_command(error: Refused) -> bool:
    """Whether a server does not know the command itself, as one that is too old."""
    return error.reason.startswith("ERR unknown command")


def _checked(link: Link, reply: Any, dial: Dial, timeout_s: float) -> Any:
    if not isinstance(reply, Refused):
        return reply
    if is_unknown_command(reply):
        about = ask(link, ("INFO", "server"), dial=dial, timeout_s=timeout_s)
        link.close()
        raise _too_old(dial.server, about) from reply
    link.close()
    raise reply


def _too_old(server: str, about: Any) -> ConfigError:
    """``about``: what INFO tells, by which a Valkey has two versions."""
    told = dict(re.findall(r"(\w+):([^\r\n]*)", about.decode())) if isinstance(about, bytes) else {}
    version = told.get("valkey_version") or told.get("redis_version", "(unknown)")
    name = "Valkey " if "valkey_version" in told else "Redis "
    return too_old(server, name + version)
