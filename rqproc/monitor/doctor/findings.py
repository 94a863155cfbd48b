"""What a check has found. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "skipped", "warning", "fault"]

EXIT_CODES: dict[Level, int] = {"ok": 0, "skipped": 0, "warning": 1, "fault": 2}
"""What the command ends with where this is the worst that was found, from mild to bad."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact.

    Attributes:
        level: "fault": requests fail, or will; "warning": they may, or something is wasted;
            "skipped": it could not be looked at; "ok".
        text: what was found.
        advice: what to do about it; "" where there is nothing to do.
        check: the name of the check that found it.
    """

    level: Level
    text: str
    advice: str = ""
    check: str = ""


Findings = Iterator[Finding]


def ok(text: str) -> Finding:
    return Finding("ok", text)


def skipped(text: str, advice: str = "") -> Finding:
    return Finding("skipped", text, advice)


def warning(text: str, advice: str) -> Finding:
    return Finding("warning", text, advice)


def fault(text: str, advice: str) -> Finding:
    return Finding("fault", text, advice)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level among them."""
    levels = list(EXIT_CODES)
    return max((finding.level for finding in findings), key=levels.index, default="ok")


def listed(things: Iterable[str], *, most: int = 5) -> str:
    """Return the first few, and how many more there are."""
    found = list(things)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
