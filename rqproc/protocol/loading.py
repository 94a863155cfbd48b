"""Runs one function on a connection, and loads the library where the server does not have it.

Knows connections, the library, and how a server says that it lacks either. Must not know what a
function does, nor when to try again.
"""

from __future__ import annotations

import re
from typing import Any

from rqproc.errors import ConfigError
from rqproc.protocol.commands import Commands
from rqproc.transport.connection import Command, Connection, ConnectionLost, Refused, pack
from rqproc.transport.connector import Connector, too_old


def run(
    connection: Connection,
    commands: Commands,
    command: Command,
    *,
    connector: Connector,
    timeout_s: float,
) -> Any:
    """Run one function; return its reply.

    Args:
        connection: one that ``connector`` has made, and on which no reply is due.

    Raises:
        ConfigError: the server knows no functions: it is too old.
        ConnectionLost, Refused: the connection is closed.
    """
    reply = ask(connection, command, connector=connector, timeout_s=timeout_s)
    if isinstance(reply, Refused) and reply.code == "NOFUNCTION":
        load(connection, commands, connector=connector, timeout_s=timeout_s)
        reply = ask(connection, command, connector=connector, timeout_s=timeout_s)
    return _checked(connection, reply, connector, timeout_s)


def load(
    connection: Connection, commands: Commands, *, connector: Connector, timeout_s: float
) -> None:
    """Load the library, in the place of another build of it. Raises: as ``run``."""
    reply = ask(connection, commands.load, connector=connector, timeout_s=timeout_s)
    _checked(connection, reply, connector, timeout_s)


def ask(connection: Connection, command: Command, *, connector: Connector, timeout_s: float) -> Any:
    """Return a command's reply; an error of the server's is returned as ``Refused``, and leaves the
    connection open.

    Raises:
        ConnectionLost.
    """
    clock = connector.runtime.monotonic
    end = clock() + timeout_s
    connection.send(pack((command,)), timeout_s=timeout_s)
    while not (found := connection.take(max(0.0, end - clock()))):  # it may come in pieces
        if clock() >= end:
            connection.close()
            raise ConnectionLost("it does not answer", spent_s=timeout_s)
    reply = found[0]
    return Refused(str(reply)) if isinstance(reply, Exception) else reply


def is_unknown_command(error: Refused) -> bool:
    """Whether a server does not know the command itself, as one that is too old."""
    return error.reason.startswith("ERR unknown command")


def _checked(connection: Connection, reply: Any, connector: Connector, timeout_s: float) -> Any:
    if not isinstance(reply, Refused):
        return reply
    if is_unknown_command(reply):
        about = ask(connection, ("INFO", "server"), connector=connector, timeout_s=timeout_s)
        connection.close()
        raise _too_old(connector.server, about) from reply
    connection.close()
    raise reply


def _too_old(server: str, about: Any) -> ConfigError:
    """``about``: what INFO tells, by which a Valkey has two versions."""
    told = dict(re.findall(r"(\w+):([^\r\n]*)", about.decode())) if isinstance(about, bytes) else {}
    version = told.get("valkey_version") or told.get("redis_version", "(unknown)")
    name = "Valkey " if "valkey_version" in told else "Redis "
    return too_old(server, name + version)
