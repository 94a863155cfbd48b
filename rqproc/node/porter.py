"""The porter: carries jobs from the ingress queue, which any application fills, to their owners.

Knows the ingress queue and how to read a foreign job. It has a connection of its own.

Every node has one, and a job is safe at each step:
  1. BLMOVE puts the id on the intermediate list, and gives it to one porter.
  2. The porter reads the job's data: what it asks for, and so its address.
  3. adopt.lua takes the id off that list and queues it at its target, or fails the job.
A porter that dies between 1 and 3 leaves the id on the list. Any other finds it there within
seconds; whoever comes first in step 3 acts, and for everyone else it changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from rqproc import wire
from rqproc.backoff import Backoff
from rqproc.cluster import Cluster
from rqproc.errors import RedisUnavailable
from rqproc.link import Command, Dial, Link, LinkLost, Refused
from rqproc.placement import address

log = logging.getLogger("rqproc.node")

BLOCK_S = 5.0
GRACE_S = 2.0
SWEEP_MOST = 256


class Porter:
    """Serves one namespace's ingress queue. ``functions``: see ``wire.decode_call``."""

    def __init__(
        self,
        dial: Dial,
        cluster: Cluster,
        functions: Mapping[str, str],
        *,
        failed: Callable[[Exception], None],
    ) -> None:
        self._dial = dial
        self._cluster = cluster
        self._functions = functions
        self._failed = failed
        ground = dial.ground
        self._monotonic = ground.monotonic
        self._stopped = ground.event()
        self._link: Link | None = None
        self._backoff = Backoff(shortest_s=0.05, longest_s=1.0, chance=ground.chance)
        self._thread = ground.thread(self._run, name="rqproc-porter")

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
            link.exchange(self._cluster.load("adopt", "inspect"), timeout_s=GRACE_S)
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
        keys = self._cluster.keys
        move: Command = (
            "BLMOVE", keys.ingress_queue, keys.ingress_intermediate, "LEFT", "RIGHT", BLOCK_S,
        )  # fmt: skip
        moved: bytes | None = link.exchange((move,), timeout_s=BLOCK_S + GRACE_S)[0]
        return moved

    def _sweep(self, link: Link) -> None:
        """Carry what a porter that died has left."""
        left: Command = ("LRANGE", self._cluster.keys.ingress_intermediate, 0, SWEEP_MOST - 1)
        self._carry(link, link.exchange((left,), timeout_s=GRACE_S)[0])

    def _carry(self, link: Link, ids: list[bytes]) -> None:
        if not ids:
            return
        found = link.exchange((self._cluster.inspect(ids),), timeout_s=GRACE_S)[0]
        link.exchange(
            [self._sorted(id, data) for id, data in zip(ids, found, strict=True)],
            timeout_s=GRACE_S,
        )

    def _sorted(self, job_id: bytes, data: bytes) -> Command:
        """The command that ends this job's stay: adopted by its target, or refused."""
        try:
            call = wire.decode_call(data, functions=self._functions)
            if call.function == wire.INVALIDATE:
                raise wire.Unreadable("an invalidation is not a job")
        except wire.Unreadable as error:
            log.warning("ingress: job %r refused: %s", job_id, error)
            return self._cluster.refuse(job_id, str(error))
        return self._cluster.adopt(job_id, address(call.request.resource, call.request.id))
