"""The heart: renews the lease, and tells the worker when it is lost or when a drain is asked for.

Knows one script, beat. It has a connection of its own, so that no long packet delays it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rqproc.backoff import Backoff
from rqproc.cluster import Cluster, LeaseLost, Tally
from rqproc.errors import RedisUnavailable
from rqproc.link import Dial, Link, LinkLost, Refused
from rqproc.node.spell import Spell
from rqproc.node.term import Term
from rqproc.node.watchdog import Watch
from rqproc.settings import NodeSettings

log = logging.getLogger("rqproc.node")


class Heart:
    """Beats for the present term.

    Args:
        term: gives the present term; a node that has rejoined has a new one.
        tally: gives the counts that the beat carries.
        wake: called after each change of the term that the worker must act on.
        failed: called if the thread itself ends with an error: the node must not go on.
        moved: called when beats work again, over a new connection, after some that failed.
        watch: told of each renewal.
        may_live: asked before each beat; False makes the node drain (its parent has gone).
    """

    def __init__(
        self, dial: Dial, cluster: Cluster, settings: NodeSettings, *, term: Callable[[], Term],
        tally: Callable[[], Tally], wake: Callable[[], None], failed: Callable[[Exception], None],
        may_live: Callable[[], bool], moved: Callable[[], None], watch: Watch,
    ) -> None:  # fmt: skip
        self._dial = dial
        self._cluster = cluster
        self._settings = settings
        self._term = term
        self._tally = tally
        self._wake = wake
        self._failed = failed
        self._may_live = may_live
        self._watch = watch
        self._moved = moved
        self._link: Link | None = None
        ground = dial.ground
        self._suspend_proof = ground.suspend_proof
        self._spell = Spell(log, "heartbeat", clock=ground.monotonic)
        beat_s = settings.heartbeat_s
        self._backoff = Backoff(shortest_s=beat_s / 8, longest_s=beat_s, chance=ground.chance)
        self._stopped = ground.event()
        self._thread = ground.thread(self._run, name="rqproc-heart")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=self._settings.lease_s)

    def _run(self) -> None:
        try:
            pause_s = self._settings.heartbeat_s
            while not self._stopped.wait(pause_s):
                beaten = self._beat(self._term())
                # One that failed is repeated soon: there may be little left of the lease.
                pause_s = self._settings.heartbeat_s if beaten else self._backoff.next_s()
        except Exception as error:  # noqa: BLE001 - a dead heart must stop the node, loudly
            self._failed(error)
        finally:
            if self._link:
                self._link.close()

    def _beat(self, term: Term) -> bool:
        """Renew the lease; return whether the server was reached."""
        if term.over:
            return True  # the worker is about to begin a new one
        if not self._may_live() and not term.draining:
            term.draining = True
            self._wake()
        sent_at = self._suspend_proof()
        try:
            beaten = self._cluster.read_beat(self._exchange(term))
        except LeaseLost:
            log.warning("%s: the lease is lost", term.incarnation)
            term.over = True
            self._wake()
        except (LinkLost, Refused, RedisUnavailable) as error:
            self._link = None
            self._spell.goes_on(error)
            self._wake()
            return False
        else:
            term.epoch = beaten.epoch
            term.trusted_until = sent_at + self._settings.trust_s
            self._watch.renewed()
            self._found_again()
            if beaten.state == "draining" and not term.draining:
                term.draining = True
                self._wake()
        return True

    def _found_again(self) -> None:
        """After an outage the others' connections may still lead to where the server was."""
        if self._spell.is_over():
            self._moved()
        self._backoff.reset()

    def _exchange(self, term: Term) -> list[object]:
        timeout_s = self._settings.beat_timeout_s
        if self._link is None:
            self._link = self._dial.connect(timeout_s=timeout_s)
            self._link.exchange(self._cluster.load("beat"), timeout_s=timeout_s)
        beat = self._cluster.beat(
            term.incarnation, lease_s=self._settings.lease_s, tally=self._tally()
        )
        reply: list[object] = self._link.exchange((beat,), timeout_s=timeout_s)[0]
        return reply
