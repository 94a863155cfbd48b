"""The ingress: carries jobs from the queue that any application may fill to their owners.

Knows the ingress queue and how to read a foreign job. It has a connection of its own.

Every node has one, and a job is safe at each step:
  1. BLMOVE puts the id on the intermediate list, and gives it to one node.
  2. The node reads the job's data: what it asks for, and so its address.
  3. adopt takes the id off that list and queues it at its target, or fails the job.
A node that dies between 1 and 3 leaves the id on the list. Any other finds it there within
seconds; whoever comes first in step 3 acts, and for everyone else it changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from rqproc.errors import RedisUnavailable
from rqproc.ids import address
from rqproc.node.reader import CALL, GROUP
from rqproc.protocol import codec
from rqproc.protocol.commands import Commands
from rqproc.transport.backoff import Backoff
from rqproc.transport.connection import Command, Connection, ConnectionLost, Refused
from rqproc.transport.connector import Connector

log = logging.getLogger("rqproc.node")

BLOCK_S = 5.0
GRACE_S = 2.0
SWEEP_MOST = 256


class Ingress:
    """Serves one namespace's ingress queue. ``functions``: see ``codec.decode_call``."""

    def __init__(
        self,
        connector: Connector,
        commands: Commands,
        functions: Mapping[str, str],
        *,
        failed: Callable[[Exception], None],
    ) -> None:
        self._connector = connector
        self._commands = commands
        self._functions = functions
        self._failed = failed
        runtime = connector.runtime
        self._monotonic = runtime.monotonic
        self._stopped = runtime.event()
        self._connection: Connection | None = None
        self._backoff = Backoff(shortest_s=0.05, longest_s=1.0, chance=runtime.chance)
        self._thread = runtime.thread(self._run, name="rqproc-ingress")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop; the thread's connection is closed under its blocking read."""
        self._stopped.set()
        if self._connection:
            self._connection.interrupt()
        self._thread.join(timeout=BLOCK_S)

    def reconnect(self) -> None:
        """Connect anew: the server may be somewhere else by now."""
        if self._connection:
            self._connection.interrupt()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    self._serve()
                except (ConnectionLost, Refused, RedisUnavailable) as error:
                    if not self._stopped.wait(self._backoff.next_s()):
                        log.debug("ingress: %s", error)
        except Exception as error:  # noqa: BLE001 - jobs would wait unseen: the node must not go on
            self._failed(error)

    def _serve(self) -> None:
        """Connect, and carry until stopped."""
        connection = self._connection = self._connector.connect()
        try:
            sweep_at = self._monotonic()
            while not self._stopped.is_set():
                if self._monotonic() >= sweep_at:
                    self._sweep(connection)
                    sweep_at = self._monotonic() + BLOCK_S
                if moved := self._next(connection):
                    self._carry(connection, [moved])
                    self._backoff.reset()
        finally:
            connection.close()

    def _next(self, connection: Connection) -> bytes | None:
        keys = self._commands.keys
        move: Command = (
            "BLMOVE", keys.ingress_queue, keys.ingress_intermediate, "LEFT", "RIGHT",
            str(BLOCK_S),
        )  # fmt: skip
        moved: bytes | None = connection.exchange((move,), timeout_s=BLOCK_S + GRACE_S)[0]
        return moved

    def _sweep(self, connection: Connection) -> None:
        """Carry what a node that died has left."""
        left: Command = (
            "LRANGE",
            self._commands.keys.ingress_intermediate,
            "0",
            str(SWEEP_MOST - 1),
        )
        self._carry(connection, connection.exchange((left,), timeout_s=GRACE_S)[0])

    def _carry(self, connection: Connection, ids: list[bytes]) -> None:
        if not ids:
            return
        found = connection.exchange((self._commands.inspect(ids),), timeout_s=GRACE_S)[0]
        connection.exchange(
            [self._sorted(id, data) for id, data in zip(ids, found, strict=True)],
            timeout_s=GRACE_S,
        )

    def _sorted(self, job_id: bytes, data: bytes) -> Command:
        """The command that ends this job's stay: adopted by its target, or refused."""
        try:
            if CALL.fullmatch(job_id) or GROUP.fullmatch(job_id):
                raise codec.Unreadable("its id is one of rqproc's own")
            call = codec.decode_call(data, functions=self._functions)
            if call.function == codec.INVALIDATE:
                raise codec.Unreadable("an invalidation is not a job")
        except codec.Unreadable as error:
            log.warning("ingress: job %r refused: %s", job_id, error)
            return self._commands.refuse(job_id, str(error))
        return self._commands.adopt(job_id, address(call.request.resource, call.request.id))
