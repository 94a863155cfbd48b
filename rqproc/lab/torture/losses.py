"""The laws of callers that do not want to wait where no node can answer: ``on_lost``. Pure.

A handler that such a caller runs itself may run beside another run of its id at a node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rqproc.lab.torture.answers import may_seem_away
from rqproc.lab.torture.records import Ask, Breach, ObservedRun, TortureHistory
from rqproc.lab.torture.timeline import name_of

MAY_FAIL = frozenset({"RequestTimeout", "NodeLost"})
"""With ``on_lost="local"``: its own time is over; or nodes died on it, as this process might."""
EARLY_S = 0.05
LOOKS_AT = 0.5
"""Part of its time that a caller grants a silent node."""


def local_answers(history: TortureHistory) -> Iterator[Breach]:
    """With ``on_lost="local"`` a request ends in a value, unless its own time is over."""
    for ask in history.asks:
        if ask.how != "on_lost=local" or not ask.error or ask.answered is None:
            continue
        took_s = ask.answered - ask.asked
        too_soon = ask.error == "RequestTimeout" and took_s < ask.timeout_s - EARLY_S
        if ask.error not in MAY_FAIL or too_soon:
            text = f"{name_of(ask)} ended in {ask.error} after {took_s:.1f} s, not in a value"
            yield Breach("local answers", text, (ask,))


def local_for_a_reason(history: TortureHistory) -> Iterator[Breach]:
    """A caller runs a handler itself only if it said so, and a fault kept the nodes from it."""
    wanted: dict[str, list[Ask]] = defaultdict(list)
    for ask in history.asks:
        if ask.how == "on_lost=local":
            wanted[ask.key].append(ask)
    for run in history.runs:
        if not run.local:
            continue
        asks = [ask for ask in wanted[run.key] if ask.tag == run.tag and _is_open(ask, run.began)]
        if not asks:
            text = f"run {run.id} of {run.key} in a caller's process was for nobody"
            yield Breach("local for a reason", text, (run,))
        elif not any(_had_reason(ask, run, history) for ask in asks):
            text = f"run {run.id} of {run.key} was in its caller's process for no reason"
            yield Breach("local for a reason", text, (run, asks[0]))


def owner_granted_time(history: TortureHistory) -> Iterator[Breach]:
    """A node is given up for silence at half of the request's time, no sooner."""
    for ask in history.asks:
        if ask.error != "OwnerLost" or ask.answered is None:
            continue
        if (took_s := ask.answered - ask.asked) < LOOKS_AT * ask.timeout_s - EARLY_S:
            text = f"{name_of(ask)} ended in OwnerLost after {took_s:.2f} s of {ask.timeout_s:g} s"
            yield Breach("owner granted time", text, (ask,))


def withdrawn_not_begun(history: TortureHistory) -> Iterator[Breach]:
    """What ended in OwnerLost is withdrawn: no node begins it afterwards.

    But the silent one may that had taken it: within a lease, or when it goes on after a stop. Which
    one that is nobody knows where the server had lost the request.
    """
    for ask in history.asks:
        if ask.error != "OwnerLost" or ask.answered is None:
            continue
        for run in history.by_tag.get(ask.tag, ()):
            late_s = run.began - ask.answered
            if late_s > 0 and not _may_begin(run, ask, late_s, history):
                text = f"{name_of(ask)} was withdrawn, and begun {late_s:.1f} s later"
                yield Breach("withdrawn not begun", text, (ask, run))


def _had_reason(ask: Ask, run: ObservedRun, history: TortureHistory) -> bool:
    return history.explained(ask.asked, run.began) or may_seem_away(ask, run.began)


def _is_open(ask: Ask, at: float) -> bool:
    return ask.asked <= at and (ask.answered is None or at <= ask.answered)


def _may_begin(run: ObservedRun, ask: Ask, late_s: float, history: TortureHistory) -> bool:
    """Whether a node may have taken it before it was withdrawn."""
    if history.stopped_s(run.pid, ask.asked, run.began) > 0:
        return True
    taken = f"node {run.node} has it" in ask.detail or "has lost it" in ask.detail
    return taken and late_s <= history.lease_s
