"""A node's term, which is one incarnation and how long it may rely on its lease, and its heartbeat,
which renews the lease and tells the worker when it is lost or when a drain is asked for.

``trusted_until = sent_at + trust_s``: counted from the sending, so a slow answer cannot stretch
a lease, and a failed renewal never extends it (the rule of River's and etcd's leader election).

The heartbeat knows one function, beat. It has a connection of its own, so that no long packet
delays it.

A pop is not a transaction: what a connection that broke has swallowed is open at the node, neither
in its queue nor known to it. A new session finds it; one that is lost after that, by a pop that
came late, is found here: the server says how much this node must know of, and where that is more
than it does, several beats in a row, it begins another session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from rqproc.errors import RedisUnavailable
from rqproc.log_events import tell
from rqproc.node.outage import Outage
from rqproc.node.watchdog import Watch
from rqproc.protocol import stats_codec
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Beaten, LeaseLost, Tally
from rqproc.settings import NodeSettings
from rqproc.stats import NodeStats
from rqproc.transport.backoff import Backoff
from rqproc.transport.connection import Connection, ConnectionLost, Refused
from rqproc.transport.connector import Connector


@dataclass(slots=True)
class Term:
    """Renewed by the heartbeat, read by others; each field is written whole, by one thread.

    Attributes:
        epoch: the cluster's, as the last heartbeat was told it. A node that has not seen the member
            list of this epoch does not know what it owns by now.
    """

    incarnation: str
    trusted_until: float
    clock: Callable[[], float]
    epoch: int = 0
    over: bool = False
    draining: bool = False

    @property
    def trusted_s(self) -> float:
        """For how many seconds it may still be relied on; 0 or less when it may not."""
        return 0.0 if self.over else self.trusted_until - self.clock()

    @property
    def trusted(self) -> bool:
        return not self.over and self.clock() < self.trusted_until


log = logging.getLogger("rqproc.node")


BEATS_OF_LOSS = 3
"""So many in a row must miss something: what was popped just now is on its way."""


class Heartbeat:
    """Beats for the present term.

    Args:
        term: gives the present term; a node that has rejoined has a new one.
        tally, stats: give the counts that the beat carries.
        most_taken: gives how much the node knew to be taken at once since it was asked last.
        wake: called after each change of the term that the worker must act on.
        failed: called if the thread itself ends with an error: the node must not go on.
        moved: called when beats work again, over a new connection, after some that failed.
        lost: called when something is lost on its way to this node; with True where the server has
            no functions.
        watch: told of each renewal.
        recycle: called before each beat: a node that has served for long enough ends.
        has_parent: asked before each beat; False makes the node drain.

    Attributes:
        answered, missed: int, how many beats were, and were not.
    """

    def __init__(
        self, connector: Connector, commands: Commands, settings: NodeSettings, *,
        term: Callable[[], Term],
        tally: Callable[[], Tally], stats: Callable[[], NodeStats],
        most_taken: Callable[[], int], wake: Callable[[], None],
        failed: Callable[[Exception], None], recycle: Callable[[], None],
        has_parent: Callable[[], bool],
        moved: Callable[[], None], lost: Callable[[bool], None], watch: Watch,
    ) -> None:  # fmt: skip
        self._connector = connector
        self._commands = commands
        self._settings = settings
        self._term = term
        self._tally = tally
        self._stats = stats
        self.answered = self.missed = 0
        self._wake = wake
        self._failed = failed
        self._recycle = recycle
        self._has_parent = has_parent
        self._watch = watch
        self._moved = moved
        self._lost = lost
        self._most_taken = most_taken
        self._losses = 0
        self._connection: Connection | None = None
        runtime = connector.runtime
        self._suspend_proof = runtime.suspend_proof
        self._outage = Outage(log, "heartbeat", clock=runtime.monotonic)
        beat_s = settings.heartbeat_s
        self._backoff = Backoff(shortest_s=beat_s / 8, longest_s=beat_s, chance=runtime.chance)
        self._stopped = runtime.event()
        self._thread = runtime.thread(self._run, name="rqproc-heartbeat")

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
        except Exception as error:  # noqa: BLE001 - without beats the node must stop, loudly
            self._failed(error)
        finally:
            if self._connection:
                self._connection.close()

    def _beat(self, term: Term) -> bool:
        """Renew the lease; return whether the server was reached."""
        if term.over:
            return True  # the worker is about to begin a new one
        self._recycle()
        if not self._has_parent() and not term.draining:
            term.draining = True
            self._wake()
        sent_at = self._suspend_proof()
        try:
            beaten = self._commands.read_beat(self._exchange(term))
        except LeaseLost:
            inc = term.incarnation
            tell(log, "lease_lost", "%s: the lease is lost", inc, incarnation=inc)
            term.over = True
            self._wake()
        except (ConnectionLost, Refused, RedisUnavailable) as error:
            self._connection = None
            self.missed += 1
            self._outage.goes_on(error)
            if isinstance(error, Refused) and error.code == "NOFUNCTION":
                self._lost(True)
            else:
                self._wake()
            return False
        else:
            self.answered += 1
            term.epoch = beaten.epoch
            term.trusted_until = sent_at + self._settings.trust_s
            self._watch.renewed()
            self._found_again()
            self._mind_losses(beaten)
            if beaten.state == "draining" and not term.draining:
                term.draining = True
                self._wake()
        return True

    def _found_again(self) -> None:
        """After an outage the others' connections may still lead to where the server was."""
        if self._outage.is_over():
            self._moved()
        self._backoff.reset()

    def _mind_losses(self, beaten: Beaten) -> None:
        if beaten.taken <= self._most_taken():
            self._losses = 0
            return
        self._losses += 1
        if self._losses == BEATS_OF_LOSS:
            self._losses = 0
            text = "%s requests are lost on their way: connecting anew"
            tell(log, "requests_lost", text, beaten.taken, count=beaten.taken)
            self._lost(False)

    def _exchange(self, term: Term) -> list[object]:
        timeout_s = self._settings.beat_timeout_s
        if self._connection and self._connection.is_cut():
            text = "heartbeat: the server has closed the connection that rested: a new one"
            tell(log, "connection_renewed", text)
            self._connection.close()
            self._connection = None
        if self._connection is None:
            self._connection = self._connector.connect(timeout_s=timeout_s)
        beat = self._commands.beat(
            term.incarnation, lease_s=self._settings.lease_s, tally=self._tally(),
            stats=stats_codec.encode(self._stats()),
        )  # fmt: skip
        reply: list[object] = self._connection.exchange((beat,), timeout_s=timeout_s)[0]
        return reply
