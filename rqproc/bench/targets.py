"""What a figure should be, and whether it is. Pure: knows numbers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["met", "missed", "n/a", ""]
"""``n/a``: could not be measured here; empty: the row has no target."""


@dataclass(frozen=True, slots=True)
class Target:
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


def at_most(bound: float) -> Target:
    return Target(bound)


def at_least(bound: float) -> Target:
    return Target(bound, at_least=True)


def judge(figure: float | None, target: Target | None) -> Verdict:
    """Say whether a figure meets its target."""
    if figure is None:
        return "n/a"
    if target is None:
        return ""
    return "met" if target.score(figure) >= 1.0 else "missed"
