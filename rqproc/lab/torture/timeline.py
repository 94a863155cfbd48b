"""A history's records in words, in the order of their times. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rqproc.lab.torture.records import Ask, Death, Fault, ObservedRun, Record, Stop, TortureHistory

SUDDEN_S = 0.05
"""A fault that took no longer has no end of its own in the telling."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something happened."""

    at: float
    text: str


def lines(history: TortureHistory, records: Iterable[Record]) -> tuple[Line, ...]:
    """Tell records, with the faults and the ends and stops of processes that were about then."""
    chosen = list(dict.fromkeys(records))
    told = [line for record in chosen for line in _tell(record)]
    if told:
        first = min(line.at for line in told) - history.lease_s
        last = max(line.at for line in told) + history.lease_s
        pids = {record.pid for record in chosen if isinstance(record, ObservedRun)}
        around = [
            line for other in _around(history, pids) if other not in chosen for line in _tell(other)
        ]
        told += [line for line in around if first <= line.at <= last]
    return tuple(sorted(told, key=lambda line: line.at))


def name_of(ask: Ask) -> str:
    """Return a request in a few words."""
    return f"{ask.how} of {ask.key}" + (f" ({ask.tag})" if ask.tag else "")


def _around(history: TortureHistory, pids: set[int]) -> list[Record]:
    near: list[Record] = [*history.faults]
    near += [stop for stop in history.stops if stop.pid in pids]
    near += [death for death in history.deaths if death.pid in pids]
    return near


def _tell(record: Record) -> list[Line]:
    if isinstance(record, ObservedRun):
        return _run(record)
    if isinstance(record, Ask):
        return _ask(record)
    if isinstance(record, Stop):
        who = f"process {record.pid}"
        return [Line(record.began, f"{who} stopped"), Line(record.ended, f"{who} continued")]
    if isinstance(record, Death):
        return [*_death(record)]
    return _fault(record)


def _run(run: ObservedRun) -> list[Line]:
    what = f"{run.node} (pid {run.pid}) run {run.id} of {run.key}"
    what += f" for {run.tag}" if run.tag else ""
    began = Line(run.began, f"{what} begins, token {run.token}")
    return [began] if run.ended is None else [began, Line(run.ended, f"{what} ends")]


def _ask(ask: Ask) -> list[Line]:
    who = f"run {ask.by}" if ask.by else "caller"
    what = f"{who} {ask.how} {ask.key}" + (f" {ask.tag}" if ask.tag else "")
    limit = f", timeout {ask.timeout_s:g} s" if ask.timeout_s else ""
    told = [Line(ask.asked, f"{what}: asks{limit}")]
    if ask.accepted is not None:
        told.append(Line(ask.accepted, f"{what}: accepted"))
    if ask.answered is None:
        return told
    if ask.error:
        came = f"{ask.error}: {ask.detail}"
    elif ask.value:
        age_s = ask.asked - ask.value.at
        when = f"{age_s:.3f} s old when asked for" if age_s > 0 else "made since"
        came = f"the value of run {ask.value.run}, {when}"
    else:
        came = "done"
    return [*told, Line(ask.answered, f"{what}: gets {came}")]


def _death(death: Death) -> list[Line]:
    who = f"{death.node} (pid {death.pid})"
    words = f", its last words: {death.words}" if death.words else ""
    ended = Line(death.seen, f"{who} has ended with {death.code}{words}")
    return [ended] if death.killed is None else [Line(death.killed, f"{who}: kill -9"), ended]


def _fault(fault: Fault) -> list[Line]:
    what = f"FAULT {fault.kind} {fault.target}"
    told = [Line(fault.began, f"{what} {fault.detail}".rstrip())]
    if fault.healed > fault.began + SUDDEN_S:
        told.append(Line(fault.healed, f"{what} is over"))
    return told
