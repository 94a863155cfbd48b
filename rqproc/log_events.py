"""Every event that is logged: its stable name, its level, and the fields that its record has.

Knows the standard library's logging. What is logged at a steady state is ``debug``.

A record has the event's name as ``event`` and each field as an attribute; ``--json-logs`` writes
them. ``request`` is the id of a call, by which its caller's error names it too; of an RQ job it is
the job's id.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple


class Event(NamedTuple):
    """How one event is logged: ``level`` as ``logging`` names it."""

    level: str
    fields: tuple[str, ...] = ()


EVENTS = {
    # A node's life.
    "node_ready": Event("info", ("epoch", "server")),
    "node_drains": Event("info", ("reason",)),
    "node_stopped_hard": Event("warning"),
    "node_died": Event("error", ("error",)),
    "node_outlives": Event("warning"),
    "name_taken": Event("warning"),
    "left_without_word": Event("warning", ("error",)),
    "lease_lost": Event("warning", ("incarnation",)),
    "joined_anew": Event("warning", ("incarnation",)),
    "ended_by_strict": Event("error"),
    # Its connections.
    "outage": Event("warning", ("what", "error")),
    "outage_over": Event("warning", ("what", "seconds")),
    "connection_renewed": Event("debug"),
    "requests_lost": Event("warning", ("count",)),
    "entries_given": Event("info", ("count",)),
    "handoff_refused": Event("warning", ("error",)),
    # Requests and their handlers.
    "answered": Event("debug", ("resource", "id", "request", "source")),
    "handler_failed": Event("error", ("resource", "id", "job", "request")),
    "handler_stuck": Event("error", ("resource", "id", "timeout_s", "request")),
    "old_value_answers": Event("warning", ("resource", "id", "request")),
    "ids_not_asked_for": Event("warning", ("resource",)),
    "task_failed": Event("error", ("error",)),
    "executor_kept": Event("warning"),
    "tracing_failed": Event("warning", ("error",)),
    "state_late": Event("warning", ("address", "error")),
    "state_lost": Event("error", ("address",)),
    "runner_died": Event("critical", ("error",)),
    # RQ's jobs.
    "job_refused": Event("warning", ("job", "error")),
    "job_unreadable": Event("warning", ("job", "error")),
    "job_unknown": Event("warning", ("job",)),
    "job_stopped": Event("warning", ("job",)),
    "job_runs_on": Event("warning", ("job", "reason")),
    "after_jobs_failed": Event("error", ("error",)),
    "maintenance_left": Event("info", ("queue", "error")),
    "command_refused": Event("warning", ("command",)),
    # A supervisor and its nodes.
    "child_recycled": Event("info", ("pid", "reason")),
    "child_died": Event("error", ("pid", "cause")),
    "child_stopped": Event("error", ("pid",)),
    "child_cannot_start": Event("error", ("cause",)),
    "death_unreported": Event("warning", ("error",)),
    "app_changed": Event("info", ("reason",)),
    "app_broken": Event("error", ("error",)),
    "app_awaited": Event("info", ("where",)),
    "watch_failed": Event("error", ("where",)),
    # Callers.
    "near_cache_down": Event("warning", ("server", "error")),
    "near_cache_back": Event("warning", ("server",)),
    "request_failed": Event("debug", ("resource", "id", "request", "error")),
}
"""Besides these a record may have ``node``."""

FIELDS = tuple(dict.fromkeys(("node", *(f for event in EVENTS.values() for f in event.fields))))


def tell(
    log: logging.Logger, event: str, text: str, *args: object, level: str = "",
    exc_info: BaseException | bool | None = None, **fields: Any,
) -> None:  # fmt: skip
    """Log an event.

    Args:
        text, args: for people, as ``logging`` takes them.
        level: another one than the event's own.
        fields: those that ``EVENTS`` names, and ``node``.
    """
    number: int = getattr(logging, (level or EVENTS[event].level).upper())
    log.log(
        number, text, *args, exc_info=exc_info, extra={"event": event, **fields}, stacklevel=2
    )  # fmt: skip
