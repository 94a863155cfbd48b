"""Which of a node's threads waits for the server: leaders and followers (Schmidt et al., 2000).

Knows threads and one lock. Must not know what is served.

One thread, the leader, waits for the server. When it has claimed something to run it makes another
thread the leader, and runs it itself; and whoever has run something answers it, if the leader waits
just then. So a request that is run needs no other thread to be woken for it, which takes longer
than all else that is done for it.

All that these threads share is used under one lock, which the leader lets go of while it waits.
"""

from __future__ import annotations

from collections.abc import Callable

from rqproc.node.runner import Runner
from rqproc.node.runs import HandlerRun
from rqproc.runtime import Runtime

SIGNAL_S = 1.0
"""For so long a signal may go unheard."""


class Leaders:
    """The threads of one node's worker.

    Args:
        serve: what a leader does, with the lock: serve until there is a run for its thread, which
            it returns; None when all is over.
        work_off: what any thread does, with the lock, when its run has come to something; returns
            whether the leader need not be woken for what is left.
        close: called, with the lock, when all is over.

    Attributes:
        lock: see above; ``serve`` lets go of it while it waits.
        waker: wakes the leader.
        failure: why all ends at once; None if it does not.
    """

    runner: Runner

    def __init__(
        self, runtime: Runtime, *, serve: Callable[[], HandlerRun | None],
        work_off: Callable[[], bool], close: Callable[[], None],
    ) -> None:  # fmt: skip
        self._serve = serve
        self._work_off = work_off
        self._close = close
        self._over = runtime.event()
        self.lock = runtime.lock()
        self.waker = runtime.waker()
        self.failure: Exception | None = None

    def run(self) -> None:
        """Have a thread lead, and wait until all is over.

        Raises:
            Exception: what ``fail`` was given.
        """
        self.runner.submit(self._lead)
        try:
            # A signal that comes just before the main thread blocks does not wake it.
            while not self._over.wait(SIGNAL_S):
                pass
        except BaseException:  # Ctrl-C where nobody handles it
            self.fail(RuntimeError("interrupted"))
            self._over.wait()
            raise
        finally:
            self.runner.stop()
            self.waker.close()
        self.check()

    def fail(self, error: Exception) -> None:
        """End at once with an error. From any thread."""
        self.failure = self.failure or error
        self.waker.wake()

    def check(self) -> None:
        """Raises: what ``fail`` was given."""
        if self.failure:
            raise self.failure

    def help(self) -> None:
        """Do what the calling thread's run has led to, if the leader waits; else tell the
        leader.
        """
        if not self.lock.acquire(blocking=False):
            self.waker.wake()
            return
        try:
            if not self._work_off():
                self.waker.wake()
        except Exception as error:  # noqa: BLE001 - not the handler's: the node must not go on
            self.fail(error)
        finally:
            self.lock.release()

    def _lead(self) -> None:
        run: HandlerRun | None = None
        self.lock.acquire()
        try:
            run = self._serve()
            if run:
                self.runner.submit(self._lead)
        except Exception as error:  # noqa: BLE001 - nobody serves any more: the node must not go on
            self.failure, run = self.failure or error, None
        finally:
            if run is None:
                self._close()
                self._over.set()
            self.lock.release()
        if run:
            self.runner.run(run)
