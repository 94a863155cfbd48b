"""The worker: serves a node's queue from its first term to its end.

Knows terms, ``sessions`` and the runner. It is in one of these states::

            ┌──────────── joins anew ◀── lease lost ──┐
            ▼                                         │
       connecting ──reconciled──▶ settling ──▶ serving ──drain──▶ draining ──▶ over
            ▲                                │        │
            └────── outside (pauses) ◀───────┴────────┘ connection lost

* settling: the server has lost what it knew, and gives out nothing for now.
* outside: there is no connection; what handlers return is taken in, entries are forgotten in time.
* draining: this node is no member any more; it finishes what it has taken.

Which thread does it is told in ``leaders``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rqproc.log_events import tell
from rqproc.node.dispatcher import Dispatcher
from rqproc.node.drain import NodeDrain
from rqproc.node.executor import Executor
from rqproc.node.leaders import Leaders
from rqproc.node.lease import Term
from rqproc.node.pace import TALLY_S, Pace
from rqproc.node.runner import Enter, Heard, Runner
from rqproc.node.runs import HandlerRun, Taken
from rqproc.node.session import ACKNOWLEDGED_S, Session
from rqproc.node.sessions import FAILURES, Sessions
from rqproc.node.watchdog import Watch
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import LeaseLost, Settling, Tally
from rqproc.settings import NodeSettings
from rqproc.stats import NodeStats
from rqproc.transport.backoff import Backoff
from rqproc.transport.connector import Connector

log = logging.getLogger("rqproc.node")


class Worker:
    """Serves until told to stop.

    Args:
        term: the first term.
        join: begins a new term; called whenever a lease was lost.
        ended: called with the ids of finished jobs that others depend on.
        watch: told whether handlers run.
        find_job: see ``Runner``.
    """

    def __init__(
        self, connector: Connector, commands: Commands, dispatcher: Dispatcher, *,
        settings: NodeSettings, node: str, term: Term, join: Callable[[], Term],
        ended: Callable[[Sequence[str]], None], watch: Watch,
        find_job: Callable[[Taken], Enter | None],
    ) -> None:  # fmt: skip
        runtime = connector.runtime
        self._monotonic = runtime.monotonic
        self._dispatcher = dispatcher
        self._join = join
        self._leaders = leaders = Leaders(
            runtime, serve=self._serve, work_off=self._work_off, close=self._close
        )
        self._sessions = Sessions(
            connector, commands, dispatcher, node=node, ended=ended, waker=leaders.waker,
            lock=leaders.lock,
        )  # fmt: skip
        runner = Runner(
            node, commands.keys.namespace, runtime=runtime, report=self._report, logs=True,
            find_job=find_job, objects=dispatcher.objects,
        )  # fmt: skip
        leaders.runner = runner
        self._waker = leaders.waker
        self._executor = Executor(dispatcher.scheduler, runner, watch, term=lambda: self.term)
        self._drain = NodeDrain(
            dispatcher, self._executor, most_s=settings.drain_s, clock=runtime.monotonic
        )
        self._rejoined = False
        self._backoff = Backoff(shortest_s=0.02, longest_s=1.0, chance=runtime.chance)
        self._pace = Pace(
            dispatcher, settings.max_queue, term=lambda: self.term, clock=self._monotonic
        )
        self.term = term

    # --- called from other threads ---

    def wake(self) -> None:
        self._waker.wake()

    def stop(self, *, within_s: float) -> None:
        """Finish what is held, then end; give up what is not finished in ``within_s`` seconds."""
        self._drain.stop(within_s=within_s)
        self._waker.wake()

    def reconnect(self, *, bare: bool = False) -> None:
        """Begin a new session: the server may be somewhere else by now, or has lost what was on its
        way here. ``bare``: it was found without functions.
        """
        self._sessions.renew(bare=bare)
        self._waker.wake()

    def stop_job(self, id: bytes) -> None:
        """RQ was told to stop a job."""
        self._executor.stop_job(id)
        self._waker.wake()

    def tally(self) -> Tally:
        """Return the counts as they were, up to a quarter of a second ago."""
        return self._pace.tally

    def stats(self) -> NodeStats:
        """Return the same with what is remembered, by the term's clock."""
        return self._pace.stats

    def most_taken(self) -> int:
        """Return the most that this node may have known to be taken at once since it was asked
        last: with what came at once, as much may have been on its way back.
        """
        session = self._sessions.current
        return self._dispatcher.held + (2 * session.take_most_popped() if session else 0)

    def fail(self, error: Exception) -> None:
        """End at once with an error: a thread that the node cannot do without has died."""
        self._leaders.fail(error)

    def run(self) -> bool:
        """Serve; return whether everything held was finished.

        Raises:
            Exception: what ``fail`` was given.
        """
        self._leaders.run()
        return self._dispatcher.idle

    # --- a handler's thread ---

    def _report(self, heard: Sequence[Heard]) -> None:
        self._executor.hear(heard)
        if any(isinstance(news, str) for _, news in heard):
            self._leaders.waker.wake()  # its handler goes on; what limits its time may raise here
        else:
            self._leaders.help()

    def _work_off(self) -> bool:
        """Answer what a handler has come to; return whether nothing is left to do at once."""
        session = self._sessions.current
        if session is None:
            return False
        try:
            self._mind_the_lease()
            self._executor.take_in_news()
            session.push_out()  # before others start: one may take this process with it
            self._executor.start_runs()
            session.push_out()
            session.acknowledge()
        except LeaseLost:
            return False
        except FAILURES as error:
            self._sessions.broken(error)
            return False
        self._executor.mind_the_time()
        settled = session.is_popping and not self._dispatcher.intake.has_asks
        return settled and not self._drain.is_on(self.term)

    # --- the leader: terms and sessions ---

    def _serve(self) -> HandlerRun | None:
        """Serve; return a run for this thread, None when it is over.

        Raises:
            Exception: what ``fail`` was given.
        """
        while not self._is_over():
            try:
                if self.term.over:  # by the heartbeat's word, it may be
                    self._end_term()
                    if self._is_over():
                        break
                    self._begin_term()
                session = self._sessions.current
                run = self._serve_session(
                    session or self._sessions.open(self.term, rejoined=self._rejoined)
                )
                if run:
                    return run
            except LeaseLost:
                self._end_term()
            except Settling:  # a new session tells what runs here
                self._sessions.close()
            except FAILURES as error:
                self._outside(error)
        return None

    def _is_over(self) -> bool:
        self._leaders.check()
        return self._drain.is_on(self.term) and self._drain.is_over

    def _close(self) -> None:
        self._sessions.close()

    def _end_term(self) -> None:
        self._sessions.close()
        self._dispatcher.forget()
        self.term.over = True
        if self._drain.is_on(self.term):
            self._drain.stop(within_s=0.0)  # what was held is others' by now
        self._executor.mind_the_time()  # what still runs may meet others' from now on

    def _begin_term(self) -> None:
        self.term = self._join()
        self._rejoined = True
        inc = self.term.incarnation
        tell(log, "joined_anew", "joined anew as %s", inc, incarnation=inc)

    def _outside(self, error: Exception) -> None:
        """A connection is lost: pause, take in outcomes, and forget entries in time."""
        self._sessions.lost(error)
        left_s = self._backoff.next_s()
        end = self._monotonic() + left_s
        while left_s > 0 and not (self._leaders.failure or self._sessions.is_due):
            self._waker.wait(left_s)
            left_s = end - self._monotonic()
            self._executor.mind_the_time()
            if not self.term.trusted:
                self._dispatcher.forget_entries()

    # --- the leader: one session ---

    def _serve_session(self, session: Session) -> HandlerRun | None:
        """Serve until over or the connection breaks, or until there is a run for this thread."""
        # The lease comes first: who is not sure of it starts nothing, who has lost it must end.
        while not self._is_over():
            if self._sessions.is_due:
                raise self._sessions.reason
            self._mind_the_lease()
            drains = self._drain.is_on(self.term)
            if drains:
                session.drain()
            self._dispatcher.close_objects(every=drains)
            self._executor.mind_the_time()
            if run := self._advance(session):
                return run
            self._pace.count()
            if not self._is_over():
                self._wait(session)
        session.finish()
        return None

    def _advance(self, session: Session) -> HandlerRun | None:
        """Send what has ended, start what may run, and ask for more; return what this thread is to
        run.
        """
        session.ask_all(self._most)
        run = self._executor.start_runs(leave_one=True)
        try:
            while self._dispatcher.intake.has_asks:
                session.ask_all(0)
                run = run or self._executor.start_runs(leave_one=True)
            session.push_out()
            session.pop(self._most)
            session.exchange_entries()
        except BaseException:  # this thread sees to the connection: another runs what is begun
            if run:
                self._leaders.runner.start(run)
            raise
        return run

    def _wait(self, session: Session) -> None:
        """Serve hits, until something else happens; take in what that is."""
        until, patience_s = self._look_again(session)
        woken = session.serve_hits(self._most, until, patience_s)
        if session.acknowledge():
            self._backoff.reset()  # the connection does its work
        if woken:
            self._executor.take_in_news()

    @property
    def _most(self) -> int:
        return 0 if self._drain.is_on(self.term) else self._pace.most

    def _look_again(self, session: Session) -> tuple[float, float]:
        """Return when something must be looked at even if nothing happens: as a moment of the
        term's clock, and in seconds.
        """
        now = self.term.clock()
        left_s = min(self._pace.look_again_s(now), self._drain.look_again_s)
        if (settles_in_s := session.settles_in_s) is not None:
            left_s = min(left_s, settles_in_s)
        if (idle_at := self._dispatcher.idle_at) is not None:
            left_s = min(left_s, max(0.0, idle_at - now))
        if self._drain.is_on(self.term):  # it ends as soon as all is acknowledged
            left_s = min(left_s, ACKNOWLEDGED_S)
        patience_s = min(left_s, ACKNOWLEDGED_S) if session.has_unacknowledged else left_s
        return now + min(left_s, TALLY_S), patience_s

    # --- what goes on beside it ---

    def _mind_the_lease(self) -> None:
        if self.term.over:
            raise LeaseLost
        if not self.term.trusted:
            self._dispatcher.forget_entries()
