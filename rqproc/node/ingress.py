"""The ingress: what RQ's applications and tools say to a node. It looks into jobs that lie in the
list that any of them may fill, and has them queued at their owners; and it hears RQ's commands.

Knows that list, how to read a foreign job, and the channel of commands. It has a connection of its
own.

Every node has one, and nothing is taken off the list for it:
  1. BLMOVE, from one end of the list to that same end, waits until something lies there.
  2. arrivals enqueues what was scheduled for now, and reads what no node has; the ingress of one
     node at a time is told of it.
  3. adopt queues a job at its owner, or fails it. It lies in the list until it is started.
Where there is nothing new among what lies there, the list is looked at again after a pause.
Commands are pushed on the same connection, while it blocks too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hiredis

from rqproc.errors import RedisUnavailable
from rqproc.ids import address
from rqproc.log_events import tell
from rqproc.node.outage import Outage
from rqproc.node.reader import CALL, GROUP
from rqproc.protocol import codec
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Arrival
from rqproc.transport.backoff import Backoff
from rqproc.transport.connection import Command, Connection, ConnectionLost, Refused, pack
from rqproc.transport.connector import Connector

log = logging.getLogger("rqproc.node")

BLOCK_S = 1.0
"""So often it is looked whether the time of a scheduled job has come."""

GRACE_S = 2.0
MOST = 256

MAINTENANCE_S = 600.0
FIRST_MAINTENANCE_S = 60.0
"""When RQ's own maintenance is begun, and the first time after the start: it has to import RQ."""

SHORTEST_S = 0.002
LONGEST_S = 0.05
"""Pauses between looks at a list with nothing new: most jobs are started at once, and are gone."""


class Ingress:
    """Serves one namespace's ingress queue.

    Args:
        functions: see ``codec.decode_call``.
        incarnation: gives the node's present one.
        channel: where RQ's commands to this node are published.
        hear: given each of them.
        maintain: begins RQ's maintenance of the queue.
    """

    def __init__(
        self,
        connector: Connector,
        commands: Commands,
        functions: Mapping[str, str],
        *,
        incarnation: Callable[[], str],
        channel: str,
        hear: Callable[[bytes], None],
        maintain: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._connector = connector
        self._commands = commands
        self._functions = functions
        self._incarnation = incarnation
        self._channel = channel
        self._hear = hear
        self._maintain = maintain
        self._failed = failed
        runtime = connector.runtime
        self._monotonic = runtime.monotonic
        self._maintenance_due = runtime.monotonic() + FIRST_MAINTENANCE_S
        self._stopped = runtime.event()
        self._connection: Connection | None = None
        self._backoff = Backoff(shortest_s=0.05, longest_s=1.0, chance=runtime.chance)
        self._pauses = Backoff(shortest_s=SHORTEST_S, longest_s=LONGEST_S, chance=runtime.chance)
        self._outage = Outage(log, "looking for jobs", clock=runtime.monotonic)
        self._thread = runtime.thread(self._run, name="rqproc-ingress")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop; the thread's connection is closed under its blocking read."""
        self._stopped.set()
        if self._connection:
            self._connection.interrupt()
        self._thread.join(timeout=GRACE_S)

    def reconnect(self) -> None:
        """Connect anew: the server may be somewhere else by now."""
        if self._connection:
            self._connection.interrupt()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    self._serve()
                except (
                    Refused
                ) as error:  # as by a right that the node's user lacks: nobody else tells
                    self._outage.goes_on(error)
                    self._stopped.wait(self._backoff.next_s())
                except (ConnectionLost, RedisUnavailable) as error:
                    if not self._stopped.wait(self._backoff.next_s()):
                        tell(
                            log, "outage", "ingress: %s", error, level="debug",
                            what="looking for jobs", error=error,
                        )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - jobs would wait unseen: the node must not go on
            self._failed(error)

    def _serve(self) -> None:
        """Connect, and look until stopped."""
        connection = self._connection = self._connector.connect(pushes=True)
        try:
            connection.send(pack((("SUBSCRIBE", self._channel),)), timeout_s=GRACE_S)
            while not self._stopped.is_set():
                lies_any = self._await(connection)
                found = self._arrivals(connection)
                self._outage.is_over()
                if found:
                    self._exchange(connection, [self._sorted(one) for one in found])
                    self._backoff.reset()
                    self._pauses.reset()
                elif lies_any:
                    self._stopped.wait(self._pauses.next_s())
                if self._monotonic() >= self._maintenance_due:
                    self._maintenance_due = self._monotonic() + MAINTENANCE_S
                    self._maintain()
        finally:
            connection.close()

    def _await(self, connection: Connection) -> bool:
        """Wait until something lies in the list; return whether it does."""
        command, since = self._commands.await_jobs(BLOCK_S), self._monotonic()
        (found,) = self._exchange(connection, (command,), timeout_s=BLOCK_S + GRACE_S)
        if self._monotonic() - since > SHORTEST_S:  # it was empty meanwhile
            self._pauses.reset()
        return found is not None

    def _arrivals(self, connection: Connection) -> list[Arrival]:
        command = self._commands.arrivals(self._incarnation(), most=MOST)
        return self._commands.read_arrivals(self._exchange(connection, (command,))[0])

    def _exchange(
        self, connection: Connection, commands: Sequence[Command], *, timeout_s: float = GRACE_S
    ) -> list[Any]:
        """Return the replies to commands, and hear what comes between them.

        Raises:
            ConnectionLost, Refused.
        """
        connection.send(pack(commands), timeout_s=timeout_s)
        replies: list[Any] = []
        while len(replies) < len(commands):
            arrived, reply = connection.next_reply()
            if not arrived:
                connection.receive()
            elif not isinstance(reply, hiredis.PushNotification):
                replies.append(reply)
            elif reply[0] == b"message":
                self._hear(reply[2])
        return replies

    def _sorted(self, job: Arrival) -> Command:
        """Return the command that queues a job at its owner, or refuses it."""
        try:
            if CALL.fullmatch(job.id) or GROUP.fullmatch(job.id):
                raise codec.Unreadable("its id is one of rqproc's own")
            if job.wants:
                raise codec.Unreadable(f"rqproc runs what its app declares, and so no {job.wants}")
            call = codec.decode_call(job.data, functions=self._functions)
            if call.function != codec.REQUEST:
                raise codec.Unreadable(f"{call.function} is not a job")
        except codec.Unreadable as error:
            tell(
                log, "job_refused", "ingress: job %r refused: %s", job.id, error, job=job.id,
                error=error,
            )  # fmt: skip
            return self._commands.refuse(job.id, str(error))
        place = address(call.request.resource, call.request.id)
        return self._commands.adopt(job.id, place, is_front=job.is_front)
