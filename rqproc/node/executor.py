"""Starts the runs that may start, and takes in what comes of them.

Knows the scheduler, the runner and the watchdog. Must not know sessions or the server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from rqproc.node.lease import Term
from rqproc.node.runner import Heard, Runner
from rqproc.node.runs import HandlerRun
from rqproc.node.scheduler import Scheduler
from rqproc.node.watchdog import Watch


class Executor:
    """But for ``hear`` and ``stop_job``, used by whoever holds the worker's lock.

    Args:
        watch: told whether handlers run.
        term: gives the present term.
    """

    def __init__(
        self, scheduler: Scheduler, runner: Runner, watch: Watch, *, term: Callable[[], Term]
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._watch = watch
        self._term = term
        self._news: deque[Heard] = deque()
        self._stops: deque[bytes] = deque()

    def start_runs(self, *, leave_one: bool = False) -> HandlerRun | None:
        """Start what may run while the lease may be relied on.

        Returns:
            the last one, where it is to ``leave_one`` for the calling thread.
        """
        last: HandlerRun | None = None
        term, scheduler = self._term(), self._scheduler
        while term.trusted and (run := scheduler.next_run()):
            # Before it starts: it may never let go of the interpreter.
            self._watch.busy(True, self._trusted_s)
            if not leave_one or run.resource.is_async:
                self._runner.start(run)
                continue
            if last:
                self._runner.start(last)
            last = run
        if last:
            self._runner.expect(last)
        return last

    def hear(self, heard: Iterable[Heard]) -> None:
        """Handlers have come to something. From any thread."""
        self._news.extend(heard)

    def stop_job(self, id: bytes) -> None:
        """RQ was told to stop a job. From any thread."""
        self._stops.append(id)

    @property
    def has_news(self) -> bool:
        return bool(self._news)

    def take_in_news(self) -> None:
        while self._stops:
            if stopped := self._scheduler.stop(self._stops.popleft()):
                self._runner.cancel(stopped)
        while self._news:
            run, news = self._news.popleft()
            if isinstance(news, str):
                self._scheduler.change_slot(run, news)
            else:
                self._scheduler.complete(run, news)

    def mind_the_time(self) -> None:
        """Give up on runs that take too long; tell the watchdog whether any runs.

        First comes what has been heard: on a slow network a run that ended in time may be waiting
        there for longer than it was allowed to take.
        """
        self.take_in_news()
        self._scheduler.mind_the_time()
        self._watch.busy(self._scheduler.running, self._trusted_s)

    def _trusted_s(self) -> float:
        return self._term().trusted_s
