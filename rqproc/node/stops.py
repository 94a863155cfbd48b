"""Jobs that RQ has told a node to stop: one that waits ends at once, one that runs with its run.

Pure: it cancels no handler, but says which to cancel. Must not know where the command comes from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rqproc.log_events import tell
from rqproc.node.outbox import Outbox
from rqproc.node.runs import Failed, HandlerRun
from rqproc.node.unacknowledged import Unacknowledged

log = logging.getLogger("rqproc.node")

STOPPED = "the job was stopped by RQ's command"
STOPPED_LATE = f"{STOPPED}; its handler, which a thread runs, went on to its end"


class Stops:
    """Ends jobs that RQ has told one node to stop."""

    def __init__(self, node: str, unacknowledged: Unacknowledged, outbox: Outbox) -> None:
        self._node = node
        self._unacknowledged = unacknowledged
        self._outbox = outbox

    def stop(self, id: bytes, running: Iterable[HandlerRun]) -> HandlerRun | None:
        """End a job: at once where it waits, else when its run ends.

        Args:
            running: the runs that are under way.

        Returns:
            the run that is to be cancelled: a coroutine's, that nobody else waits for.
        """
        taken = self._unacknowledged.get(id)
        if taken is None or taken.ended:
            text = "%s: told to stop the job %r, which is not here"
            tell(log, "job_unknown", text, self._node, id, job=id.decode(errors="replace"))
            return None
        taken.stopped = True
        run = next((run for run in running if taken in run.waiting), None)
        if run is None:
            self._outbox.failure(taken, Failed("Stopped", STOPPED, ""), ":stopped")
            return None
        together = run.made_together
        if run.resource.is_async and all(o.stopped for one in together for o in one.waiting):
            name = taken.name
            tell(log, "job_stopped", "%s: stopping the job %s", self._node, name, job=name)
            return together[0]
        why = "others wait for its value" if run.resource.is_async else "a thread cannot be ended"
        text = "%s: the job %s is to stop, but %s: it is stopped when its handler returns"
        tell(log, "job_runs_on", text, self._node, taken.name, why, job=taken.name, reason=why)
        return None

    def run_ended(self, run: HandlerRun) -> None:
        """End the jobs that were to stop and whose run has ended, whatever that came to."""
        for taken in run.waiting:
            if taken.stopped and not taken.ended:
                how = STOPPED if run.resource.is_async else STOPPED_LATE
                self._outbox.failure(taken, Failed("Stopped", how, ""), ":stopped")
        run.waiting = [taken for taken in run.waiting if not taken.ended]
