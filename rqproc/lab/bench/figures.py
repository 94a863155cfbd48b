"""From what the probes read, round by round, to one figure, whether it meets its target, and how
it is drawn.

Pure: numbers and text.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Reading = Mapping[str, float]
"""What one probe found in one round, by name. What cannot be measured here is left out."""

Readings = Mapping[str, Sequence[Reading]]
"""By the probe's name, one reading for each round."""

LATENCY_FIELDS = ("p50_s", "p99_s")


@dataclass(frozen=True, slots=True)
class FormulaTerm:
    """One number of a probe's readings."""

    probe: str
    field: str

    def of(self, readings: Readings) -> list[float]:
        """Return it round by round; rounds that do not have it are left out."""
        found = readings.get(self.probe, ())
        return [reading[self.field] for reading in found if self.field in reading]

    def median(self, readings: Readings) -> float | None:
        return median(self.of(readings))


ONE = FormulaTerm("", "")
"""Over another term: so many of that in a second, or whatever its unit is."""


@dataclass(frozen=True, slots=True)
class Formula:
    """``over / under``, or ``over`` alone, times ``scale``."""

    over: FormulaTerm
    under: FormulaTerm | None = None
    scale: float = 1.0

    @property
    def terms(self) -> tuple[FormulaTerm, ...]:
        return tuple(term for term in (self.over, self.under) if term and term != ONE)

    def rounds(self, readings: Readings) -> list[float]:
        """Return the figure of each round: only what lay side by side is compared."""
        unders = self.under.of(readings) if self.under else []
        overs = [1.0] * len(unders) if self.over == ONE else self.over.of(readings)
        if self.under is None:
            return [over * self.scale for over in overs]
        pairs = zip(overs, unders, strict=True)
        return [over / under * self.scale for over, under in pairs]

    def figure(self, readings: Readings) -> float | None:
        """Return the median of the rounds' figures; None where nothing could be measured."""
        return median(self.rounds(readings))


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def latency(times_s: Sequence[float]) -> Reading:
    """Return the p50 and the p99 of two times or more."""
    cuts = statistics.quantiles(times_s, n=100, method="inclusive")
    return dict(zip(LATENCY_FIELDS, (statistics.median(times_s), cuts[98]), strict=True))


Verdict = Literal["met", "missed", "n/a", ""]
"""``n/a``: could not be measured here; empty: the row has no target."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound: figures are to be at least that, or at most."""

    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.bound:g}"

    def score(self, figure: float) -> float:
        """Return how many times better than asked for a figure is: 1.0 just meets the target.

        A figure of nothing, where little is good, has no such number: it is as good as can be.
        """
        good, bad = (figure, self.bound) if self.at_least else (self.bound, figure)
        return good / bad if bad > 0 else float("inf")


def at_most(bound: float) -> Goal:
    return Goal(bound)


def at_least(bound: float) -> Goal:
    return Goal(bound, at_least=True)


def judge(figure: float | None, target: Goal | None) -> Verdict:
    """Say whether a figure meets its target."""
    if figure is None:
        return "n/a"
    if target is None:
        return ""
    return "met" if target.score(figure) >= 1.0 else "missed"


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
