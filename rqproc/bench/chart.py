"""How figures are drawn and written. Pure: knows text alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDTH = 21

REACH = 4.0
"""A bar is empty at a quarter of what was asked for, and full at four times that."""


@dataclass(frozen=True, slots=True)
class Ink:
    """The characters of a bar: what is reached, the target's mark, and the rest."""

    full: str = "█"
    mark: str = "│"
    rest: str = " "


PLAIN = Ink("#", "|", ".")


def bar(score: float, *, width: int = WIDTH, ink: Ink | None = None) -> str:
    """Draw a score on a log scale; its mark, in the middle, is reached where the target is met."""
    ink = ink or Ink()
    middle = width // 2
    filled = _filled(score, width)
    cells = [ink.full if place < filled else ink.rest for place in range(width)]
    if filled <= middle:
        cells[middle] = ink.mark
    return "".join(cells)


def _filled(score: float, width: int) -> int:
    """Cells up to the score; the middle one is full just where the score is 1.0 or more."""
    clamped = min(max(score, 1 / REACH), REACH)
    share = math.log(clamped, REACH)  # -1.0 to 1.0
    middle = width // 2
    return (
        middle + 1 + math.floor(share * middle) if share >= 0 else math.ceil((1 + share) * middle)
    )


def number(value: float) -> str:
    """Write a number with about three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def amount(field: str, value: float) -> str:
    """Write what a probe has read, in the unit that its name ends with."""
    if field.endswith("per_s"):
        return f"{number(value)}/s"
    if field.endswith("_s"):
        return _duration(value)
    if field.endswith("_bytes"):
        return f"{number(value / 1e6)} MB" if abs(value) >= 1e6 else f"{number(value)} bytes"
    if field.endswith("_share"):
        return f"{number(value * 100)} %"
    return number(value)


def _duration(seconds: float) -> str:
    if seconds >= 1.0:
        return f"{number(seconds)} s"
    return f"{number(seconds * 1e3)} ms" if seconds >= 1e-2 else f"{number(seconds * 1e6)} µs"
