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
from rqproc.node.reader import CALL, GROUP
from rqproc.placement import address
from rqproc.protocol import codec
from rqproc.protocol.commands import Commands
from rqproc.transport.backoff import Backoff
from rqproc.transport.connection import Command, Dial, Link, LinkLost, Refused

log = logging.getLogger("rqproc.node")

BLOCK_S = 5.0
GRACE_S = 2.0
SWEEP_MOST = 256


class Ingress:
    """Serves one namespace's ingress queue. ``functions``: see ``codec.decode_call``."""

    def __init__(
        self,
        dial: Dial,
        commands: Commands,
        functions: Mapping[str, str],
        *,
        failed: Callable[[Exception], None],
    ) -> None:
        self._dial = dial
        self._commands = commands
        self._functions = functions
        self._failed = failed
        ground = dial.ground
        self._monotonic = ground.monotonic
        self._stopped = ground.event()
        self._link: Link | None = None
        self._backoff = Backoff(shortest_s=0.05, longest_s=1.0, chance=ground.chance)
        self._thread = ground.thread(self._run, name="rqproc-ingress")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop; the thread's connection is closed under its blocking read."""
        self._stopped.set()
        if self._link:
            self._link.interrupt()
        self._thread.join(timeout=BLOCK_S)

    def reconnect(self) -> None:
        """Connect anew: the server may be somewhere else by now."""
        if self._link:
            self._link.interrupt()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    self._serve()
                except (LinkLost, Refused, RedisUnavailable) as error:
                    if not self._stopped.wait(self._backoff.next_s()):
                        log.debug("ingress: %s", error)
        except Exception as error:  # noqa: BLE001 - jobs would wait unseen: the node must not go on
            self._failed(error)

    def _serve(self) -> None:
        """Connect, and carry until stopped."""
        link = self._link = self._dial.connect()
        try:
            sweep_at = self._monotonic()
            while not self._stopped.is_set():
                if self._monotonic() >= sweep_at:
                    self._sweep(link)
                    sweep_at = self._monotonic() + BLOCK_S
                if moved := self._next(link):
                    self._carry(link, [moved])
                    self._backoff.reset()
        finally:
            link.close()

    def _next(self, link: Link) -> bytes | None:
        keys = self._commands.keys
        move: Command = (
            "BLMOVE", keys.ingress_queue, keys.ingress_intermediate, "LEFT", "RIGHT", BLOCK_S,
        )  # fmt: skip
        moved: bytes | None = link.exchange((move,), timeout_s=BLOCK_S + GRACE_S)[0]
        return moved

    def _sweep(self, link: Link) -> None:
        """Carry what a node that died has left."""
        left: Command = ("LRANGE", self._commands.keys.ingress_intermediate, 0, SWEEP_MOST - 1)
        self._carry(link, link.exchange((left,), timeout_s=GRACE_S)[0])

    def _carry(self, link: Link, ids: list[bytes]) -> None:
        if not ids:
            return
        found = link.exchange((self._commands.inspect(ids),), timeout_s=GRACE_S)[0]
        link.exchange(
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
