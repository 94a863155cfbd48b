"""Every event that is logged: its stable name, its level, and the fields that its record has.

Knows the standard library's logging. What is logged at a steady state is ``debug``.

A record has the event's name as ``event`` and each field as an attribute; ``--json-logs`` writes
them. ``request`` is the id of a call, by which its caller's error names it too; of an RQ job it is
the job's id.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple


class LogEvent(NamedTuple):
    """How one event is logged: ``level`` as ``logging`` names it."""

    level: str
    fields: tuple[str, ...] = ()


EVENTS = {
    # A node's life.
    "node_ready": LogEvent("info", ("epoch", "server")),
    "node_drains": LogEvent("info", ("reason",)),
    "node_stopped_hard": LogEvent("warning"),
    "node_died": LogEvent("error", ("error",)),
    "node_outlives": LogEvent("warning"),
    "name_taken": LogEvent("warning"),
    "left_without_word": LogEvent("warning", ("error",)),
    "lease_lost": LogEvent("warning", ("incarnation",)),
    "joined_anew": LogEvent("warning", ("incarnation",)),
    "ended_by_strict": LogEvent("error"),
    # Its connections.
    "outage": LogEvent("warning", ("what", "error")),
    "outage_over": LogEvent("warning", ("what", "seconds")),
    "connection_renewed": LogEvent("debug"),
    "requests_lost": LogEvent("warning", ("count",)),
    "entries_given": LogEvent("info", ("count",)),
    "handoff_refused": LogEvent("warning", ("error",)),
    # Requests and their handlers.
    "answered": LogEvent("debug", ("resource", "id", "request", "source")),
    "handler_failed": LogEvent("error", ("resource", "id", "job", "request")),
    "handler_stuck": LogEvent("error", ("resource", "id", "timeout_s", "request")),
    "old_value_answers": LogEvent("warning", ("resource", "id", "request")),
    "ids_not_asked_for": LogEvent("warning", ("resource",)),
    "task_failed": LogEvent("error", ("error",)),
    "executor_kept": LogEvent("warning"),
    "tracing_failed": LogEvent("warning", ("error",)),
    "state_late": LogEvent("warning", ("address", "error")),
    "state_lost": LogEvent("error", ("address",)),
    "runner_died": LogEvent("critical", ("error",)),
    # RQ's jobs.
    "job_refused": LogEvent("warning", ("job", "error")),
    "job_unreadable": LogEvent("warning", ("job", "error")),
    "job_unknown": LogEvent("warning", ("job",)),
    "job_stopped": LogEvent("warning", ("job",)),
    "job_runs_on": LogEvent("warning", ("job", "reason")),
    "after_jobs_failed": LogEvent("error", ("error",)),
    "maintenance_left": LogEvent("info", ("queue", "error")),
    "command_refused": LogEvent("warning", ("command",)),
    # A supervisor and its nodes.
    "child_recycled": LogEvent("info", ("pid", "reason")),
    "child_died": LogEvent("error", ("pid", "cause")),
    "child_stopped": LogEvent("error", ("pid",)),
    "child_cannot_start": LogEvent("error", ("cause",)),
    "death_unreported": LogEvent("warning", ("error",)),
    "app_changed": LogEvent("info", ("reason",)),
    "app_broken": LogEvent("error", ("error",)),
    "app_awaited": LogEvent("info", ("where",)),
    "watch_failed": LogEvent("error", ("where",)),
    # Callers.
    "near_cache_down": LogEvent("warning", ("server", "error")),
    "near_cache_back": LogEvent("warning", ("server",)),
    "request_failed": LogEvent("debug", ("resource", "id", "request", "error")),
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
