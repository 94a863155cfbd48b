"""The laws of answers: in time, named, true, fresh. Pure.

What bounds a value's age: a value is made at its run's last line, its ttl counts from the handler's
return, and it is served after it was asked for. So its age when it was asked for is at most the ttl
and what lies between the first two: a moment, and whatever its process was stopped then.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping

from rqproc.calls.retry import GRACE_S
from rqproc.lab.torture.records import DROPPING, Ask, Breach, How, ObservedRun, TortureHistory
from rqproc.lab.torture.timeline import name_of

NAMED = frozenset(
    {"NoLiveNode", "RequestTimeout", "RedisUnavailable", "Overloaded", "NodeLost", "JobFailed"}
)
"""What a request may end in here: no handler raises, and all that is asked for exists."""
OF_SOME: Mapping[str, frozenset[How]] = {
    "RequestCycle": frozenset({"nested"}),
    "OwnerLost": frozenset({"on_lost=error"}),
}
"""What those may end in who ask in such a way; ``nesting`` and ``losses`` say when."""
SLACK_S = 2.5
"""Past its deadline a caller grants a silent server 1.5 s, and a busy machine is late."""
PATIENT_S = 1.0
"""A request with less time may be late on a busy machine."""
SILENT_S = GRACE_S - 0.1
"""Little less than what a caller grants a silent server, whatever its deadline."""
UNHURRIED_S, AWAY_PART = 4.0, 0.25
"""Who does not want to wait believes a server away that is silent for a quarter of its time, a
second at most: with less time than this, a busy machine may look so."""
BUSY = 0.5
"""Part of its time for which a request that timed out must have found its key busy."""
RETURN_S = 0.2
"""What may pass, on a busy machine, between a handler's last line and its return."""


def in_time(history: TortureHistory) -> Iterator[Breach]:
    """Every request ends by its deadline.

    That of a handler may end with the handler's process instead, and as much later as that process
    was stopped.
    """
    for ask in history.asks:
        if ask.how == "enqueue":
            continue
        by = history.by_run.get(ask.by)
        ended = ask.answered
        if ended is None and by:
            ended = history.end_of_process(by.pid)
        if ended is None:
            yield Breach("in time", f"{name_of(ask)} never came back", (ask,))
            continue
        stopped_s = history.stopped_s(by.pid, ask.asked, ended) if by else 0.0
        if (late_s := ended - ask.asked - ask.timeout_s - stopped_s) > SLACK_S:
            text = f"{name_of(ask)} ended {late_s:.1f} s past its deadline"
            yield Breach("in time", text, (ask,))


def named(history: TortureHistory) -> Iterator[Breach]:
    """Where it does not end in a value, it ends in one of the errors that say what was lost."""
    for ask in history.asks:
        if ask.error and not _is_named(ask, history):
            text = f"{name_of(ask)} ended in {ask.error}: {ask.detail}"
            yield Breach("named errors", text, (ask,))


def _is_named(ask: Ask, history: TortureHistory) -> bool:
    if ask.error == "HandlerTimeout":
        return ask.resource in history.limits
    return ask.error in NAMED or ask.how in OF_SOME.get(ask.error, ())


def explained(history: TortureHistory) -> Iterator[Breach]:
    """No request fails but for a fault that may cost that, or if it had to be answered too soon.

    The death or the pause of some nodes costs no error at all, only time; but who does not want to
    wait may be told of it. Circles, and runs that take too long, have laws of their own.
    """
    for ask in history.asks:
        if not ask.error or not ask.answered or ask.error in ("RequestCycle", "HandlerTimeout"):
            continue
        if history.explained(ask.asked, ask.answered, ask.error):
            continue
        if ask.error == "RequestTimeout" and _may_be_late(ask, ask.answered, history):
            continue
        if ask.error == "RedisUnavailable" and (
            may_seem_away(ask, ask.answered) or _heard_nothing(ask, ask.answered)
        ):
            continue
        text = f"{name_of(ask)} ended in {ask.error} though nothing had happened that costs it"
        yield Breach("no needless errors", text, (ask,))


def _may_be_late(ask: Ask, answered: float, history: TortureHistory) -> bool:
    """It had little time, or the handler of its key was busy for most of it."""
    parts = (
        min(run.ended or answered, answered) - max(run.began, ask.asked)
        for run in history.runs
        if history.lane(run.key) == history.lane(ask.key)
    )
    busy_s = sum(max(0.0, part) for part in parts)
    return ask.timeout_s < PATIENT_S or busy_s > BUSY * (answered - ask.asked)


def _heard_nothing(ask: Ask, answered: float) -> bool:
    """It had little time, and a busy machine kept the server silent for as long as is granted."""
    return ask.timeout_s < PATIENT_S and answered - ask.asked >= SILENT_S


def may_seem_away(ask: Ask, at: float) -> bool:
    """Whether who asks may have found the server away, where a busy machine made it late."""
    hurried = ask.how.startswith("on_lost") and ask.timeout_s < UNHURRIED_S
    return hurried and at - ask.asked >= AWAY_PART * ask.timeout_s


def true_values(history: TortureHistory) -> Iterator[Breach]:
    """A value was made for this request, by a run that ended before it came."""
    for ask in history.asks:
        if (value := ask.value) is None or ask.answered is None:
            continue
        run = history.by_run.get(value.run)
        later = _taken_over(history, run) if run else None
        if value.key != ask.key or value.tag != ask.tag:
            text = f"{name_of(ask)} got the value of {value.key} {value.tag}"
        elif run is None:
            text = f"{name_of(ask)} got the value of a run that never began"
        elif run.ended is None or run.ended > ask.answered:
            text = f"{name_of(ask)} got the value of a run that had not ended"
        elif later:
            text = f"{name_of(ask)} got the value of a run that another had taken over from"
        else:
            continue
        yield Breach("true values", text, tuple(filter(None, (ask, run, later))))


def _taken_over(history: TortureHistory, run: ObservedRun) -> ObservedRun | None:
    """A run of the same request, given out later, that began before this one ended.

    What this one had to say came too late, then: the later one's word counts. But not of one that
    a caller ran itself: that is for handlers that may run beside another.
    """
    if run.local:
        return None
    return next(
        (
            other
            for other in history.by_tag.get(run.tag, ())
            if other.token > run.token and run.ended is not None and other.began < run.ended
        ),
        None,
    )


def jobs_answered(history: TortureHistory) -> Iterator[Breach]:
    """An enqueued job that was accepted has a result, unless the server lost its data since."""
    for ask in history.asks:
        if ask.how != "enqueue" or ask.accepted is None or ask.answered is not None:
            continue
        if not history.wipes(ask.asked, float("inf")):
            yield Breach("nothing lost", f"{name_of(ask)} was accepted and has no result", (ask,))


def fresh(history: TortureHistory) -> Iterator[Breach]:
    """No value is older than its ttl when it is asked for, unless it is marked as an old one."""
    for ask in history.asks:
        if (value := ask.value) is None or value.tag:
            continue
        age_s = ask.asked - history.kept_from(value)
        limit_s = history.ttl_s + RETURN_S + history.stopped_s(value.pid, value.at, ask.asked)
        limit_s += history.stale_s.get(ask.resource, 0.0) if value.stale else 0.0
        if age_s > limit_s:
            text = f"{name_of(ask)} got a value {age_s:.3f} s old, ttl {history.ttl_s:g} s"
            run = history.by_run.get(value.run)
            yield Breach("fresh", text, (ask, run) if run else (ask,))


def never_back(history: TortureHistory) -> Iterator[Breach]:
    """Who asks after someone was answered never gets an older value; nor after an invalidation.

    What a caller made itself is kept nowhere, and binds nobody.
    """
    by_key: dict[str, list[Ask]] = defaultdict(list)
    for ask in history.asks:
        if ask.answered is None or ask.error or ask.tag or history.ran_locally(ask):
            continue
        by_key[ask.key].append(ask)
    for asks in by_key.values():
        yield from _never_back(asks, history)


def _never_back(asks: list[Ask], history: TortureHistory) -> Iterator[Breach]:
    ended = sorted(asks, key=lambda ask: ask.answered or 0.0)
    done, floor, by = 0, float("-inf"), None
    for ask in sorted(asks, key=lambda ask: ask.asked):
        while done < len(ended) and (ended[done].answered or 0.0) < ask.asked:
            if (least := _least(ended[done])) > floor:
                floor, by = least, ended[done]
            done += 1
        if ask.value and by and history.kept_from(ask.value) < floor:
            after = f"{by.how} had ended" if by.how in DROPPING else "a later value was given"
            text = f"{name_of(ask)} got an older value after {after}"
            yield Breach("never back", text, (by, ask))


def _least(ask: Ask) -> float:
    """The moment before which no value may be made that is given to those who ask later."""
    made = ask.value.at if ask.value else float("-inf")
    return max(made, ask.asked) if ask.how in DROPPING else made


def refreshed(history: TortureHistory) -> Iterator[Breach]:
    """Who has a value made anew gets that of a run that began after this was asked."""
    for ask in history.asks:
        run = history.by_run.get(ask.value.run) if ask.how == "refresh" and ask.value else None
        if run and run.began < ask.asked:
            yield Breach("refreshed", f"{name_of(ask)} got a value from before", (ask, run))


def counted(history: TortureHistory) -> Iterator[Breach]:
    """An id's object knows all calls that were answered before, on whichever node they were.

    Its state is kept before they are answered; only a server that loses its data loses it.
    """
    by_key: dict[str, list[Ask]] = defaultdict(list)
    for ask in history.asks:
        if ask.value and ask.value.count and ask.answered is not None:
            by_key[ask.key].append(ask)
    for asks in by_key.values():
        ended = deque(sorted(asks, key=lambda ask: ask.answered or 0.0))
        last: Ask | None = None
        for ask in sorted(asks, key=lambda ask: ask.asked):
            while ended and (ended[0].answered or 0.0) < ask.asked:
                last = max(filter(None, (last, ended.popleft())), key=_count)
            if last and _count(ask) <= _count(last):
                if history.wipes(last.asked, ask.answered or 0.0):
                    last = None
                    continue
                text = f"{name_of(ask)} is call {_count(ask)}, after call {_count(last)}"
                yield Breach("counted", text, (last, ask))


def _count(ask: Ask) -> int:
    return ask.value.count if ask.value else 0
