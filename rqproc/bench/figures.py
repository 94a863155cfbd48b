"""From what the probes read, round by round, to one figure. Pure: knows numbers alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Reading = Mapping[str, float]
"""What one probe found in one round, by name. What cannot be measured here is left out."""

Readings = Mapping[str, Sequence[Reading]]
"""By the probe's name, one reading for each round."""

LATENCY_FIELDS = ("p50_s", "p99_s")


@dataclass(frozen=True, slots=True)
class Term:
    """One number of a probe's readings."""

    probe: str
    field: str

    def of(self, readings: Readings) -> list[float]:
        """Return it round by round; rounds that do not have it are left out."""
        found = readings.get(self.probe, ())
        return [reading[self.field] for reading in found if self.field in reading]

    def median(self, readings: Readings) -> float | None:
        return median(self.of(readings))


ONE = Term("", "")
"""Over another term: so many of that in a second, or whatever its unit is."""


@dataclass(frozen=True, slots=True)
class Formula:
    """``over / under``, or ``over`` alone, times ``scale``."""

    over: Term
    under: Term | None = None
    scale: float = 1.0

    @property
    def terms(self) -> tuple[Term, ...]:
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
