"""What a node publishes of its work with each heartbeat, as JSON of at most ``MOST_BYTES``.

Knows ``NodeStats`` alone. Pure. Moments stand in it as seconds before the one that it is of: a
node's clock is its own, and whoever reads it has the server's. Each kind of thing has its share of
the bytes. What there is no room for is left out: of runs and errors the oldest, of ids the coldest;
of resources those that came last are summed up under ``OTHERS``, so that totals stay right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any, TypeVar

from rqproc.stats import (
    BOUNDS_S,
    OTHERS,
    Histogram,
    HotId,
    NodeStats,
    PastError,
    PastRun,
    ResourceStats,
    StuckRun,
    total,
)

MOST_BYTES = 16384
RESOURCE_BYTES = 6000
HOT_BYTES = 1800
RUN_BYTES = 2000
SLOW_BYTES = 1000
ERROR_BYTES = 1500
TRACEBACK_BYTES = 2500
STUCK_BYTES = 700

COUNTS = (
    "up_s", "entries", "bytes", "evictions", "objects", "held", "lanes", "lanes_busy", "beats",
    "beats_missed", "epochs", "handed_over", "taken_over", "hot_s",
)  # fmt: skip

T = TypeVar("T")
Row = list[Any]


def encode(stats: NodeStats) -> str:
    """Return it as ASCII."""
    now = stats.at_s
    runs = _fitting(stats.runs, lambda run: _run(run, now), RUN_BYTES)
    found: dict[str, Any] = {
        "counts": [round(getattr(stats, name), 3) for name in COUNTS],
        "resources": _resources(stats.resources),
        "hot": _fitting(
            stats.hot, lambda hot: [hot.resource, hot.id, hot.count, hot.over], HOT_BYTES
        ),
        "runs": runs,
        "slowest": _fitting(stats.slowest, lambda run: _run(run, now), SLOW_BYTES),
        "errors": _errors(stats.errors, now),
        "stuck": _fitting(
            stats.stuck, lambda run: [run.resource, run.id, _age(run.since_s, now)], STUCK_BYTES
        ),
    }  # fmt: skip
    return _json(found)


def decode(incarnation: str, at_s: float, text: bytes | str) -> NodeStats:
    """Read what a node has published at a moment of the server's clock.

    What another build of rqproc has not written is as if there were none.
    """
    found: Mapping[str, Any] = json.loads(text)
    counts = dict(zip(COUNTS, found.get("counts", ()), strict=False))
    return NodeStats(
        at_s, incarnation.rpartition("#")[0], incarnation, **counts,
        resources=tuple(map(_read_resource, found.get("resources", ()))),
        hot=tuple(HotId(*row) for row in found.get("hot", ())),
        runs=tuple(_read_run(row, at_s) for row in found.get("runs", ())),
        slowest=tuple(_read_run(row, at_s) for row in found.get("slowest", ())),
        errors=tuple(
            PastError(name, id, at_s - age_s, *rest)
            for name, id, age_s, *rest in found.get("errors", ())
        ),
        stuck=tuple(
            StuckRun(name, id, at_s - age_s) for name, id, age_s in found.get("stuck", ())
        ),
    )  # fmt: skip


# --- what has room ---


def _json(found: object) -> str:
    return json.dumps(found, separators=(",", ":"))


def _fitting(items: Iterable[T], row: Callable[[T], Row], most: int) -> list[Row]:
    """Return the rows of the first of these, as many as have room."""
    rows = list(map(row, items))
    sizes = accumulate(len(_json(row)) + 1 for row in rows)
    return [row for row, size in zip(rows, sizes, strict=True) if size <= most]


def _resources(resources: tuple[ResourceStats, ...]) -> list[Row]:
    rows = list(map(_resource, resources))
    if len(_json(rows)) <= RESOURCE_BYTES:
        return rows
    fitting = len(_fitting(rows, lambda row: row, RESOURCE_BYTES * 4 // 5))
    others = total(resources[fitting:], OTHERS)
    others = replace(others, errors={OTHERS: others.failed})  # of so many, there may be any
    return [*rows[:fitting], _resource(others)]


def _errors(errors: tuple[PastError, ...], now: float) -> list[Row]:
    """Return the rows of the latest errors, and the tracebacks of the latest of these."""
    rows = _fitting(errors, lambda error: _error(error, now), ERROR_BYTES)
    texts = _fitting(errors[: len(rows)], lambda error: [error.traceback], TRACEBACK_BYTES)
    for row, (traceback,) in zip(rows, texts, strict=False):
        row.append(traceback)
    return rows


# --- rows ---


def _age(at_s: float, now: float) -> float:
    return round(max(0.0, now - at_s), 3)


def _histogram(one: Histogram) -> Row:
    counts = list(one.counts)
    while counts and not counts[-1]:
        counts.pop()
    return [round(one.sum_s, 6), *counts]


def _read_histogram(row: Row) -> Histogram:
    sum_s, *counts = row
    missing = len(BOUNDS_S) + 1 - len(counts)
    return Histogram((*counts, *(0,) * missing), sum_s)


def _resource(one: ResourceStats) -> Row:
    durations = map(_histogram, (one.queueing, one.run, one.whole))
    return [one.name, one.answers, one.errors, one.runs, *durations]


def _read_resource(row: Row) -> ResourceStats:
    name, answers, errors, runs, *durations = row
    return ResourceStats(name, answers, errors, runs, *map(_read_histogram, durations))


def _run(run: PastRun, now: float) -> Row:
    times = round(run.queued_s, 6), round(run.run_s, 6)
    return [run.resource, run.id, _age(run.at_s, now), *times, run.error]


def _read_run(row: Row, at_s: float) -> PastRun:
    name, id, age_s, *rest = row
    return PastRun(name, id, at_s - age_s, *rest)


def _error(error: PastError, now: float) -> Row:
    return [error.resource, error.id, _age(error.at_s, now), error.type, error.message]
