"""A node's membership: under which name it joins, how long it waits for that, and that it leaves.

Knows the functions that join and leave. Must not know what a node does meanwhile.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import sys
from importlib.metadata import version
from secrets import token_hex

from rqproc.calls.functions import FunctionCalls
from rqproc.calls.retry import OUTAGE_S
from rqproc.errors import NameTaken, RedisUnavailable
from rqproc.log_events import tell
from rqproc.node.lease import Term
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import check_node_name
from rqproc.protocol.messages import Joined, Limits, OtherBuild
from rqproc.runtime import ThreadEvent
from rqproc.settings import NodeSettings
from rqproc.transport.connection import Command, Connection
from rqproc.transport.connector import Connector

log = logging.getLogger("rqproc.node")

MOST_DERIVED_NAMES = 1000
RENEWED_S = 0.1
"""A lease that ends so much later than was told before has been renewed."""


class NodeMembership:
    """How one node becomes a member, and ceases to be one.

    Args:
        name, parent: see ``Node``.
        code: of its resources, as ``code_of`` tells it.
        stopping: set when the node is to end.

    Raises:
        ConfigError: a malformed name.
    """

    def __init__(
        self, connector: Connector, functions: FunctionCalls, commands: Commands,
        settings: NodeSettings, *, name: str | None, parent: int | None, code: str,
        stopping: ThreadEvent,
    ) -> None:  # fmt: skip
        self._runtime = connector.runtime
        self._functions = functions
        self._commands = commands
        self._settings = settings
        self._given_name = check_node_name(name) if name else None
        self._parent = parent
        self._code = code
        self._stopping = stopping
        self._nonce = token_hex(8)

    def first_join(self) -> tuple[str, Joined, Term]:
        if self._given_name:
            return (self._given_name, *self._join_in_time(self._given_name))
        for number in range(1, MOST_DERIVED_NAMES):
            name = f"{host_name()}-{number}"
            try:
                return (name, *self.join(name))
            except NameTaken:
                continue
        raise NameTaken(host_name(), 0.0)

    def _join_in_time(self, name: str) -> tuple[Joined, Term]:
        """Join; where the name is taken, wait for a predecessor's lease that nobody renews.

        A supervisor's child, whose name is its own, waits though it is renewed: not for long.
        Renewed once may be grace, that the dead have too.
        """
        end = self._runtime.monotonic() + 2 * self._settings.lease_s
        expires, renewals = math.inf, 0
        while True:
            try:
                return self.join(name)
            except NameTaken as error:
                now = self._runtime.monotonic()
                renewals += now + error.lease_left_s > expires + RENEWED_S
                lives = renewals > 1 and self._parent is None
                if lives or now > end or self._stopping.is_set():
                    raise
                if math.isinf(expires):
                    text = "%r was here: waiting for its lease to run out"
                    tell(log, "name_taken", text, name, node=name)
                expires = now + error.lease_left_s
                self._stopping.wait(min(error.lease_left_s, 0.5) + 0.05)

    def join(self, name: str) -> tuple[Joined, Term]:
        sent_at = self._runtime.suspend_proof()

        def join(connection: Connection) -> Joined:
            nonlocal sent_at
            sent_at = self._runtime.suspend_proof()
            reply = self._functions.run_over(connection, self._join_command(name))
            return self._commands.read_join(name, reply)

        def join_or_load(connection: Connection) -> Joined:
            # By it a node knows a server that has forgotten: who may not ask must not join.
            connection.server_id(timeout_s=OUTAGE_S)
            try:
                return join(connection)
            except OtherBuild:
                self._functions.load(connection)
                return join(connection)

        joined = self._functions.talk(join_or_load)
        self._functions.close()  # the next time is at the end
        trusted_until = sent_at + self._settings.trust_s
        clock = self._runtime.suspend_proof
        return joined, Term(joined.incarnation, trusted_until, clock, joined.epoch)

    def _join_command(self, name: str) -> Command:
        return self._commands.join(
            name,
            lease_s=self._settings.lease_s,
            nonce=self._nonce,
            limits=self._limits,
            pid=os.getpid(),
            host=socket.gethostname(),
            versions=_versions(),
            placement=self._settings.placement,
            code=self._code,
        )

    @property
    def _limits(self) -> Limits:
        settings = self._settings
        return Limits(settings.max_queue, settings.max_waiters, settings.concurrency)

    def leave(self, name: str, term: Term) -> None:
        leave = self._commands.leave(name, term.incarnation)
        try:
            self._functions.run(leave)
        except RedisUnavailable as error:
            text = "left without a word, the lease will run out: %s"
            tell(log, "left_without_word", text, error, error=error)


def host_name() -> str:
    """Return the host's name as a node's may begin with it: there is room for a number."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:48] or "node"


def _versions() -> tuple[str, str]:
    """RQ's and Python's versions, as ``rq info`` shows them."""
    return version("rq"), sys.version
