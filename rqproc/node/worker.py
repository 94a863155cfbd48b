"""The worker: takes requests, hands them to the desk, and sends the answers.

Knows the desk, the session and the runner. One thread owns all of it; others leave messages and
wake it.

After a broken connection nobody knows which packets were carried out, so a new session begins:
  1. reconcile names a new session; a take of an older one, late on its way, claims nothing by then.
  2. It tells all that this node has taken: claims the desk has never seen are received.
  3. Finishes that were not acknowledged are sent again; the script leaves alone what it has had.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rqproc.backoff import Backoff
from rqproc.cluster import (
    Cluster,
    Finish,
    FinishMany,
    LeaseLost,
    ManyClaims,
    SessionSuperseded,
    Settling,
    Tally,
)
from rqproc.errors import RedisUnavailable
from rqproc.link import Dial, LinkLost, Refused
from rqproc.node.desk import Desk
from rqproc.node.runner import Runner
from rqproc.node.runs import Outcome, Run, Slot
from rqproc.node.session import PATIENCE_S, Session
from rqproc.node.spell import Spell
from rqproc.node.term import Term
from rqproc.node.watchdog import Watch
from rqproc.settings import NodeSettings

log = logging.getLogger("rqproc.node")

TALLY_S = 0.25
SETTLE_S = 0.1
"""How often a node asks whether a server that is another one gives out requests again."""

TAKE_MOST = 256


class Worker:
    """Serves until told to stop.

    Args:
        term: the first term.
        join: begins a new term; called whenever a lease was lost.
        ended: called with the ids of finished jobs that others depend on.
        watch: told whether handlers run.
    """

    def __init__(
        self, dial: Dial, cluster: Cluster, desk: Desk, *, settings: NodeSettings, node: str,
        term: Term, join: Callable[[], Term], ended: Callable[[Sequence[str]], None], watch: Watch,
    ) -> None:  # fmt: skip
        self._dial = dial
        ground = dial.ground
        self._monotonic = ground.monotonic
        self._cluster = cluster
        self._desk = desk
        self._join = join
        self._ended = ended
        self._watch = watch
        self._name = node
        self._max_held = settings.max_queue
        self._drain_s = settings.drain_s
        self._runner = Runner(node, cluster.keys.namespace, ground=ground, report=self._report)
        self._news: deque[tuple[Run, Outcome | Slot]] = deque()
        self._bell = ground.bell()
        self._stop_by: float | None = None
        self._failure: Exception | None = None
        self._session: Session | None = None
        self._sessions = 0
        self._rejoined = False
        self._ask_after = 0.0
        self._drained = False
        self._moved = False
        self._spell = Spell(log, "connection to Redis", clock=ground.monotonic)
        self._backoff = Backoff(shortest_s=0.02, longest_s=1.0, chance=ground.chance)
        self._tally = (0.0, desk.tally())
        self.term = term

    # --- called from other threads ---

    def wake(self) -> None:
        self._bell.ring()

    def stop(self, *, within_s: float) -> None:
        """Finish what is held, then end; give up what is not finished in ``within_s`` seconds."""
        self._stop_by = self._monotonic() + within_s
        self._bell.ring()

    def reconnect(self) -> None:
        """Begin a new session: the server may be somewhere else by now."""
        self._moved = True
        self._bell.ring()

    def tally(self) -> Tally:
        """Return the counts as they were, up to a quarter of a second ago."""
        return self._tally[1]

    def fail(self, error: Exception) -> None:
        """End at once with an error: a thread that the node cannot do without has died."""
        self._failure = error
        self._bell.ring()

    def _report(self, run: Run, news: Outcome | Slot) -> None:
        self._news.append((run, news))
        self._bell.ring()

    # --- the worker's own thread ---

    def run(self) -> bool:
        """Serve; return whether everything held was finished.

        Raises:
            Exception: what ``fail`` was given.
        """
        try:
            while not self._is_over():
                try:
                    if self.term.over:  # by the heart's word, it may be
                        self._end_term()
                        if self._is_over():
                            break
                        self._begin_term()
                    self._serve_session()
                except LeaseLost:
                    self._end_term()
                except (LinkLost, Refused, RedisUnavailable, SessionSuperseded) as error:
                    self._spell.goes_on(error)
                    self._wait_outside(self._backoff.next_s())
        finally:
            self._close_session()
            self._runner.stop()
            self._bell.close()
        return self._desk.idle

    def _is_over(self) -> bool:
        if self._failure:
            raise self._failure
        if not self._draining:
            return False
        if self._stop_by is None:  # by a word from elsewhere
            self._stop_by = self._monotonic() + self._drain_s
        if self._monotonic() >= self._stop_by:
            return True
        return self._desk.idle and not self._news

    def _end_term(self) -> None:
        self._close_session()
        self._desk.forget()
        self.term.over = True
        if self._draining:
            self._stop_by = self._monotonic()  # what was held is others' by now
        self._mind_the_runs()  # what still runs may meet others' from now on

    def _begin_term(self) -> None:
        self.term = self._join()
        self._rejoined = True
        log.warning("joined anew as %s", self.term.incarnation)

    def _wait_outside(self, pause_s: float) -> None:
        """Without a connection: outcomes are taken in, and entries forgotten in time."""
        self._close_session()
        self._moved = False
        end = self._monotonic() + pause_s
        while (left_s := end - self._monotonic()) > 0 and not (self._failure or self._moved):
            self._bell.wait(left_s)
            self._take_in_news()
            self._mind_the_runs()
            if not self.term.trusted:
                self._desk.forget_entries()

    def _serve_session(self) -> None:
        """Connect, reconcile, and serve until over or the connection breaks."""
        self._moved = False
        session = self._open_session()
        self._spell.is_over()
        # The lease comes first: who is not sure of it starts nothing, who has lost it must end.
        while not self._is_over():
            if self._moved:
                raise LinkLost("a new one is made, as for the heartbeat")
            self._mind_the_lease()
            self._mind_the_drain(session)
            self._start_runs()
            self._mind_the_runs()
            self._send(session)
            self._count()
            if not self._is_over():
                self._wait(session)
        if finishes := self._desk.collect():
            self._push_out(session, finishes)

    def _send(self, session: Session) -> None:
        """Finishes go with the next look at the queue; where none can be sent now, on their own."""
        if not self._may_ask(session):
            if finishes := self._desk.collect():
                self._push_out(session, finishes)
            if not (finishes and self._may_ask(session)):  # what is finished makes room
                return
        self._ask_after = 0.0
        most = min(TAKE_MOST, self._room)
        session.ask(self._desk.collect(), epoch=self._desk.epoch, most=most)

    def _may_ask(self, session: Session) -> bool:
        if session.is_asking or self._draining or self._room <= 0:
            return False
        return not self._ask_after or self._monotonic() >= self._ask_after

    @property
    def _room(self) -> int:
        """How many more requests this node may hold; the rest wait in its queue.

        What waits for handlers that do nothing themselves must not fill it: these may wait for what
        is in the queue.
        """
        return self._max_held - self._desk.held + self._desk.held_by_paused

    @property
    def _draining(self) -> bool:
        return self._stop_by is not None or self.term.draining

    def _open_session(self) -> Session:
        self._sessions += 1
        self._drained = False  # the server may have forgotten
        session = self._session = Session(
            self._dial,
            self._cluster,
            node=self._name,
            incarnation=self.term.incarnation,
            number=self._sessions,
            bell=self._bell,
        )
        reply = session.reconcile(self._desk.unfinished(), rejoined=self._rejoined)
        self._take_in(reply)
        return session

    def _close_session(self) -> None:
        if self._session:
            self._desk.again(self._session.close())
            self._session = None

    def _push_out(self, session: Session, finishes: Sequence[Finish | FinishMany]) -> None:
        try:
            reply = session.finish(finishes, draining=self._drained)
        except (LinkLost, Refused):
            self._desk.again(finishes)
            raise
        self._acknowledge(finishes, reply)

    def _wait(self, session: Session) -> None:
        """Wait for the server, an outcome or a message, and take in what has come."""
        if session.wait(self._patience_s()):
            self._take_in_news()
        for finishes, reply in session.replies():
            if finishes:
                self._acknowledge(finishes, reply)
                if self._drained:
                    session.drain()  # these were sent before it: what waits for them goes on
            else:
                self._take_in(reply)

    def _count(self) -> None:
        """Publish the counts, for other threads: they may not look into the desk."""
        now = self._monotonic()
        if now - self._tally[0] >= TALLY_S:
            self._tally = (now, self._desk.tally())

    def _patience_s(self) -> float:
        """Seconds until something must be looked at even if nothing happens."""
        left_s = PATIENCE_S
        if self._ask_after:
            left_s = max(0.0, self._ask_after - self._monotonic())
        if (overdue_at := self._desk.overdue_at) is not None:
            left_s = min(left_s, max(0.0, overdue_at - self.term.clock()))
        if self._desk.changed_since(self._tally[1]):
            left_s = min(left_s, TALLY_S)
        if self._stop_by is not None:
            left_s = min(left_s, max(0.0, self._stop_by - self._monotonic()))
        return min(left_s, max(0.05, self.term.trusted_until - self.term.clock()))

    def _take_in(self, reply: Sequence[Any]) -> None:
        try:
            taken = self._cluster.read_take(reply)
        except Settling as error:
            self._ask_after = self._monotonic() + min(error.left_s, SETTLE_S)
            return
        self._ask_after = 0.0
        self._desk.learn(taken.epoch, taken.members)
        self._mind_the_lease()
        for claim in taken.in_turn():
            due = self._due(claim.deadline_ms, taken.now_ms)
            if isinstance(claim, ManyClaims):
                self._desk.receive_many(claim, due=due)
            else:
                self._desk.receive(claim, due=due)

    def _due(self, deadline_ms: int, now_ms: int) -> float | None:
        return self.term.clock() + (deadline_ms - now_ms) / 1000 if deadline_ms else None

    def _acknowledge(self, finishes: Sequence[Finish | FinishMany], reply: Sequence[bytes]) -> None:
        self._desk.acknowledged(finishes)
        self._backoff.reset()  # the connection does its work
        if reply:
            self._ended([id.decode() for id in reply])

    def _take_in_news(self) -> None:
        while self._news:
            run, news = self._news.popleft()
            if isinstance(news, str):
                self._desk.change_slot(run, news)
            else:
                self._desk.complete(run, news)

    def _start_runs(self) -> None:
        while self.term.trusted and (run := self._desk.next_run()):
            # Before it starts: it may never let go of the interpreter.
            self._watch.busy(True, self._trusted_s)
            self._runner.start(run)

    def _trusted_s(self) -> float:
        return self.term.trusted_s

    def _mind_the_runs(self) -> None:
        self._desk.mind_the_time()
        self._watch.busy(self._desk.running, self._trusted_s)

    def _mind_the_lease(self) -> None:
        if self.term.over:
            raise LeaseLost
        if not self.term.trusted:
            self._desk.forget_entries()

    def _mind_the_drain(self, session: Session) -> None:
        """Say once, however the drain began, that this node is no member any more."""
        if self._draining and not self._drained:
            session.drain()
            self._drained = True
