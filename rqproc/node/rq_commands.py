"""What RQ's commands to a worker (``rq.command.send_stop_job_command`` and others) mean for a node.

Knows their form. RQ publishes them on a channel of the worker's own; anyone may write there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from rqproc.log_events import tell

log = logging.getLogger("rqproc.node")


def obey(
    message: bytes, node: str, *, stop_job: Callable[[bytes], None], shut_down: Callable[[], None]
) -> None:
    """Do what a command says.

    Args:
        stop_job: given the id of a job.
        shut_down: has the node drain.
    """
    try:
        asked = json.loads(message)
        command, job_id = asked["command"], str(asked.get("job_id", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        told = message[:200]
        tell(log, "command_refused", "%s: no command of RQ's: %r", node, told, command=str(told))
        return
    if command in ("stop-job", "stop-execution"):  # a job has one execution at a time
        stop_job(job_id.encode(errors="surrogateescape"))
    elif command == "shutdown":
        tell(
            log, "node_drains", "%s: draining, as RQ's shutdown command says", node,
            level="warning", reason="RQ's shutdown command",
        )  # fmt: skip
        shut_down()
    else:
        text = "%s: RQ's command %r is not for a node: it has no work horse"
        tell(log, "command_refused", text, node, command, command=str(command))
