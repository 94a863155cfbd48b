"""Hunts one request: whichever node runs it is killed, until the request is given up.

Knows the setup. A kill at random seldom meets the same request twice: the limit of attempts, and
the error that names it, would never be seen.
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import suppress

from rqproc.errors import RqprocError
from rqproc.lab.torture.nodes import TorturedNode
from rqproc.lab.torture.setup import Setup

FIRST_ID = 1000
RESOURCE = "charge"
HOLD_S = 30.0
TIMEOUT_S = 8.0
STARTS_WITHIN_S = 3.0
MOST_KILLS = 4
"""One more than a request may lose."""


class RepeatedKills:
    """Hunts in one setup; each quarry has an id of its own, since what kills nodes is refused."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._ids = itertools.count(FIRST_ID)

    def run(self) -> tuple[TorturedNode, ...]:
        """Hunt one request to its end; return the nodes that were killed."""
        id, tag = next(self._ids), self._setup.ledger.tag()
        caller = threading.Thread(target=self._ask, args=(id, tag), daemon=True)
        caller.start()
        killed: list[TorturedNode] = []
        while len(killed) < MOST_KILLS and (holder := self._await_run(id, tag, caller, killed)):
            holder.kill()
            self._setup.tell_of(holder)
            killed.append(holder)
            # The others that ran there are answered first: else their ids would be blamed too.
            self._setup.recover()
        caller.join(TIMEOUT_S)
        return tuple(killed)

    def _ask(self, id: int, tag: str) -> None:
        client, key = self._setup.client, f"{RESOURCE}:{id}"
        asking = self._setup.ledger.asking("request", [key], tag=tag, timeout_s=TIMEOUT_S)
        with asking as found:
            found[key] = client.request(id, RESOURCE, args=(tag, HOLD_S), timeout=TIMEOUT_S)

    def _await_run(
        self, id: int, tag: str, caller: threading.Thread, killed: list[TorturedNode]
    ) -> TorturedNode | None:
        """Wait until the request runs once more; None if it has ended, or does not come."""
        end = time.monotonic() + STARTS_WITHIN_S
        while caller.is_alive() and time.monotonic() < end:
            with suppress(RqprocError):
                if self._starts(tag) > len(killed) and (node := self._holder(id)):
                    return node
            time.sleep(0.02)
        return None

    def _starts(self, tag: str) -> int:
        return sum(run.tag == tag for run in self._setup.run_log.told().runs)

    def _holder(self, id: int) -> TorturedNode | None:
        (at,) = self._setup.client.locate([id], RESOURCE)
        return next((b for b in self._setup.nodes.alive if b.name == at.holder), None)
