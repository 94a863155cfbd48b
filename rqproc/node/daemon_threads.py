"""Threads for handlers, which do not keep their process from ending.

``ThreadPoolExecutor`` joins its threads when the interpreter ends, so a handler that hangs would
keep a program for ever. A node ends its process itself; a program that is one without a cluster
ends when its main thread does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from threading import Condition, Thread
from typing import ParamSpec, TypeVar

from rqproc.runtime import resolve

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """As many threads as there is work, up to ``most``. One that is idle is used again."""

    def __init__(self, most: int, *, name: str) -> None:
        self._most = most
        self._name = name
        self._todo = _Todo()
        self._threads: list[Thread] = []

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        found: Future[T] = Future()
        waits_for_a_thread = self._todo.add(partial(resolve, found, partial(fn, *args, **kwargs)))
        if waits_for_a_thread and len(self._threads) < self._most:
            name = f"{self._name}_{len(self._threads)}"
            thread = Thread(target=self._todo.work_off, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return found

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads, each when it has done what it does; ``wait`` for all of them."""
        self._todo.end(at_once=cancel_futures)
        if wait:
            for thread in self._threads:
                thread.join()


class _Todo:
    """What is to be done. Threads know no more than this: an idle one keeps nothing alive."""

    def __init__(self) -> None:
        self._work: deque[Callable[[], None]] = deque()
        self._news = Condition()
        self._idle = 0
        self._over = False

    def add(self, work: Callable[[], None]) -> bool:
        """Return whether there are too few idle threads."""
        with self._news:
            self._work.append(work)
            self._news.notify()
            return len(self._work) > self._idle

    def end(self, *, at_once: bool) -> None:
        with self._news:
            self._over = True
            if at_once:
                self._work.clear()
            self._news.notify_all()

    def work_off(self) -> None:
        """Work until the end; one thread of several."""
        while work := self._next():
            work()
            del work

    def _next(self) -> Callable[[], None] | None:
        with self._news:
            while not self._work and not self._over:
                self._idle += 1
                self._news.wait()
                self._idle -= 1
            return self._work.popleft() if self._work else None
