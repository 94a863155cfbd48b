"""The laws of runs: one at a time per key, tokens that rise, attempts that end. Pure.

What a process does that was stopped for longer than its lease can be relied on is not promised: its
run is cut where it stopped, and counted as one that outlived a pause. With ``--strict`` the process
must end itself, so what it still does some time after it has gone on counts again.

What a caller runs in its own process is bound to that process alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from rqproc.lab.overlaps import Span, overlaps
from rqproc.lab.torture.records import Breach, ObservedRun, Stop, TortureHistory

TRUST = 0.8
"""Part of its lease that a node relies on; a longer stop ends what is promised of it."""
GRACE = 0.5
"""Part of a lease in which a process that has gone on notices that it was stopped too long."""


def serial(history: TortureHistory) -> Iterator[Breach]:
    """No two runs of a key overlap: of all nodes together, and in each process that runs it itself.

    A run that takes longer than its resource allows counts until it ends, whoever was told what.
    Resources that share a lane are one.
    """
    runs = (run for run in history.runs if not run.was_put)
    for first, second in overlaps(part for run in runs for part in parts_of(run, history)):
        both_s = min(first.ended, second.ended) - second.began
        text = f"two runs of {history.lane(second.of.key)} overlap for {both_s:.3f} s"
        yield Breach("serial", text, (first.of, second.of))


def tokens_rise(history: TortureHistory) -> Iterator[Breach]:
    """Of two runs of a key, the one that starts later has the higher fencing token.

    Also across a loss of the server's data. A run that begins in a process just after too long a
    stop is excepted: it was on its way before.
    """
    by_key: dict[str, list[ObservedRun]] = defaultdict(list)
    for run in sorted(history.runs, key=lambda run: run.began):
        if run.token > 0 and not _woken(run, history):
            by_key[run.key].append(run)
    for key, told in by_key.items():
        for first, second in pairwise(told):
            if second.token <= first.token:
                text = f"{key}: token {second.token} comes after token {first.token}"
                yield Breach("tokens rise", text, (first, second))


def bounded_attempts(history: TortureHistory) -> Iterator[Breach]:
    """A request is started ``max_attempts`` times at most, and once more per loss of data."""
    for tag, runs in history.by_tag.items():
        limit = history.max_attempts + history.wipes(runs[0].began, runs[-1].began)
        if len(runs) > limit:
            text = f"request {tag} was started {len(runs)} times, {limit} are allowed"
            yield Breach("bounded attempts", text, tuple(runs))


def no_needless_repeats(history: TortureHistory) -> Iterator[Breach]:
    """A request is run again only if something happened since its last run began.

    What a caller runs in its own process is another matter: see ``local_for_a_reason``.
    """
    for tag, found in history.by_tag.items():
        runs = [run for run in found if not run.local]
        for first, second in pairwise(runs):
            if not history.explained(first.began, second.began):
                text = f"request {tag} was run again though nothing had happened"
                yield Breach("no needless repeats", text, (first, second))


def outlived(history: TortureHistory) -> list[ObservedRun]:
    """Return the runs that went on after too long a stop of their process."""
    return [
        run
        for run in history.runs
        if _woken(run, history)
        or any(
            run.began < stop.ended and run.ended is not None and run.ended > stop.ended
            for stop in _long_stops(run.pid, history)
        )
    ]


def parts_of(run: ObservedRun, history: TortureHistory) -> list[Span[ObservedRun]]:
    """Return the parts of a run that surely happened, and are held against it."""
    began, ended, key = run.began, history.end_of_run(run), _key(run, history)
    parts = []
    for stop in _long_stops(run.pid, history):
        awake = stop.ended + GRACE * history.lease_s
        if awake <= began or stop.began >= ended:
            continue
        if stop.began > began:
            parts.append(Span(key, run, began, stop.began))
        if not history.strict:
            return parts
        began = awake
    return [*parts, Span(key, run, began, ended)] if ended > began else parts


def _woken(run: ObservedRun, history: TortureHistory) -> bool:
    grace_s = GRACE * history.lease_s
    return any(
        stop.began <= run.began <= stop.ended + grace_s for stop in _long_stops(run.pid, history)
    )


def _long_stops(pid: int, history: TortureHistory) -> list[Stop]:
    longest_s = TRUST * history.lease_s
    found = [s for s in history.stops if s.pid == pid and s.ended - s.began > longest_s]
    return sorted(found, key=lambda stop: stop.began)


def _key(run: ObservedRun, history: TortureHistory) -> tuple[str, int]:
    """Its lane and, where a caller runs it itself, that process."""
    return history.lane(run.key), run.pid if run.local else 0
