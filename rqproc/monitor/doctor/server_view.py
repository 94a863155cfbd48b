"""A server as the checks see it: each question within bounds of time, each answer asked for once.

Knows a connection, and how a server says no. Must not know what an answer should be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from rqproc.model import Membership
from rqproc.protocol import loading
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.transport.connection import Arg, Command, Connection, ConnectionLost, Refused, pack
from rqproc.transport.connector import Connector

ANSWER_S = 2.0
"""What a server may take for one answer. One that has work to do for longer than this keeps every
caller waiting, and nodes from renewing their leases."""


class NotAllowed(Exception):
    """This user may not run a command, or the server does not have it."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"{command}: {reason}")
        self.command = command
        self.is_unknown = not reason.startswith("NOPERM")


class ServerView:
    """One connection's view of a server, for one run of the checks.

    Args:
        left_s: tells the seconds that are left for all that is still to be asked.

    Attributes:
        first_time: the server's time and this machine's, as ``time`` returns them, at the start.
    """

    def __init__(
        self, connector: Connector, connection: Connection, keys: Keys, *,
        left_s: Callable[[], float],
    ) -> None:  # fmt: skip
        self._connector = connector
        self._connection = connection
        self.left_s = left_s
        self.keys = keys
        self.commands = Commands(keys)
        self.clock = connector.runtime.monotonic
        self.first_time = self.time()

    @property
    def server(self) -> str:
        return self._connector.server

    def ask(self, *command: Arg) -> Any:
        """Return the reply.

        Raises:
            NotAllowed: no right to run this, or it is no command of this server.
            Refused: another error; the connection stays open.
            ConnectionLost: no answer in time, or the connection broke.
        """
        (reply,) = self.answers([command])
        return self._checked(command, reply)

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that are sent together. Raises: as ``ask``."""
        replies = self.answers(commands)
        return [self._checked(*pair) for pair in zip(commands, replies, strict=True)]

    def answers(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, errors (``Refused``) among them. Raises: ConnectionLost."""
        timeout_s = min(ANSWER_S, self.left_s())
        if timeout_s <= 0:
            raise ConnectionLost("no time is left to ask it")
        if not commands:
            return []
        end = self.clock() + timeout_s
        self._connection.send(pack(commands), timeout_s=timeout_s)
        replies: list[Any] = []
        while len(replies) < len(commands):
            replies += self._connection.take(max(0.0, end - self.clock()))
            if len(replies) < len(commands) and self.clock() >= end:
                raise ConnectionLost("it does not answer", spent_s=timeout_s)
        return [Refused(str(one)) if isinstance(one, Exception) else one for one in replies]

    def _checked(self, command: Command, reply: Any) -> Any:
        if not isinstance(reply, Refused):
            return reply
        if reply.code == "NOPERM" or loading.is_unknown_command(reply):
            raise NotAllowed(_named(command), reply.reason)
        raise reply

    @cached_property
    def info(self) -> dict[str, str]:
        """What INFO tells. Raises: as ``ask``."""
        told = self.ask("INFO").decode(errors="replace")
        return dict(re.findall(r"^([a-z_0-9]+):([^\r\n]*)", told, flags=re.M))

    def number(self, name: str) -> int:
        """Return a number that INFO tells; 0 where it does not."""
        found = self.info.get(name, "0")
        return int(found) if found.lstrip("-").isdigit() else 0

    def config(self, name: str) -> str:
        """Return a setting of the server's; "" where it does not have it. Raises: as ``ask``."""
        found = self.ask("CONFIG", "GET", name)
        return found[1].decode() if found else ""

    def time(self) -> tuple[float, float, float]:
        """Return the server's time, and this machine's before and after it was asked: its time of
        day is compared by the caller, what has passed by the monotonic clock.
        """
        before = self.clock()
        seconds, micros = self.ask("TIME")
        return int(seconds) + int(micros) / 1e6, before, self.clock()

    @cached_property
    def membership(self) -> Membership | None:
        """The live nodes as they were found first. Raises: as ``ask``."""
        return self.look_at_members()

    def look_at_members(self) -> Membership | None:
        """Return the live nodes now; None where the server has no functions. Raises: as ``ask``."""
        command = self.commands.survey()
        try:
            return self.commands.read_survey(self.ask(*command))
        except Refused as error:
            if error.code == "NOFUNCTION":
                return None
            raise

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes that live, draining ones too."""
        return tuple(node.name for node in self.membership.nodes) if self.membership else ()


def _named(command: Command) -> str:
    """A command as an ACL names it."""
    containers = ("config", "acl", "function", "slowlog")
    name, *args = (str(part).lower() for part in command)
    return f"{name}|{args[0]}" if name in containers else name
