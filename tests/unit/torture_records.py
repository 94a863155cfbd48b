"""Small histories, told in a line each."""

from __future__ import annotations

from typing import Any

from rqproc.lab.torture.history import check
from rqproc.lab.torture.records import (
    Ask,
    Death,
    Fault,
    Limit,
    ObservedRun,
    Stop,
    TortureHistory,
    Value,
)

LEASE_S = 1.0
TTL_S = 1.0
LIMIT_S = 0.3
LIMITS = {"limited": Limit(LIMIT_S), "alimited": Limit(LIMIT_S, cancels=True)}

_numbers = iter(range(1, 1_000_000))


def run(
    began: float, ended: float | None = None, *, key: str = "charge:1", tag: str = "",
    token: int | None = None, pid: int = 1,
) -> ObservedRun:  # fmt: skip
    """A run; its token rises with its start unless it is given."""
    found = (round(began * 1000) or 1) if token is None else token
    return ObservedRun(f"{pid}.{next(_numbers)}", key, tag, found, pid, f"n{pid}", began, ended)


def value_of(made: ObservedRun) -> Value:
    return Value(made.id, made.key, made.tag, made.pid, made.ended or made.began)


def ask(
    asked: float,
    answered: float | None,
    made: ObservedRun | None = None,
    *,
    key: str = "",
    **said: Any,
) -> Ask:
    """A request, answered by a run's value if there is one."""
    found = made.key if made else key or "charge:1"
    said = {"how": "request", "tag": made.tag if made else "", "timeout_s": 8.0, **said}
    value = value_of(made) if made else None
    return Ask(key=found, asked=asked, answered=answered, value=value, **said)


def inner(
    by: ObservedRun,
    asked: float,
    answered: float | None,
    made: ObservedRun | None = None,
    **said: Any,
) -> Ask:
    """What a run's handler asks for."""
    return ask(asked, answered, made, how="nested", by=by.id, **said)


def local(began: float, ended: float, **said: Any) -> ObservedRun:
    """A run in a caller's own process."""
    return run(began, ended, **{"token": 0, "pid": 99, **said})


def fault(kind: Any, began: float, healed: float, recovered: float | None = None) -> Fault:
    return Fault(kind, "n1", began, healed, healed if recovered is None else recovered)


def killed(at: float, *, pid: int = 1) -> Death:
    return Death(pid, f"n{pid}", at + 0.05, -9, killed=at)


def ended(seen: float, *, pid: int = 1, code: int = 1) -> Death:
    return Death(pid, f"n{pid}", seen, code)


def history(*records: ObservedRun | Ask | Stop | Death | Fault, **said: Any) -> TortureHistory:
    def of(kind: type) -> tuple[Any, ...]:
        return tuple(record for record in records if isinstance(record, kind))

    return TortureHistory(
        lease_s=LEASE_S, ttl_s=TTL_S, limits=LIMITS, runs=of(ObservedRun), asks=of(Ask),
        stops=of(Stop), deaths=of(Death), faults=of(Fault), **said,
    )  # fmt: skip


def broken(*records: ObservedRun | Ask | Stop | Death | Fault, **said: Any) -> list[str]:
    """The laws that a history breaks."""
    return [violation.law for violation in check(history(*records, **said))]
