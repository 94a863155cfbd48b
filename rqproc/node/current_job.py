"""What ``rq.get_current_job()`` returns in a handler that a job has caused to run.

Knows RQ's own place for it. Reads nothing unless the program has imported RQ by itself: else nobody
can ask.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rqproc.log_events import tell
from rqproc.protocol import codec

if TYPE_CHECKING:
    import redis

    from rqproc.node.runs import Taken

log = logging.getLogger("rqproc.node")


def find(taken: Taken, connection: Callable[[], redis.Redis]) -> Callable[[], object] | None:
    """Return what makes a job the current one in the context that it is called in.

    None where nobody can ask for it, or where it cannot be read: a handler runs without it too.
    """
    rq_job = sys.modules.get("rq.job")
    if rq_job is None or taken.serializer is None:
        return None
    serializer = codec.PlainSerializer(taken.serializer)
    try:
        job = rq_job.Job.fetch(taken.name, connection=connection(), serializer=serializer)
    except Exception as error:  # noqa: BLE001 - it was deleted, the server is away, it is malformed
        text = "the job %s cannot be read by its handler: %s"
        tell(log, "job_unreadable", text, taken.name, error, job=taken.name, error=error)
        return None
    return partial(rq_job._current_job.set, job)
