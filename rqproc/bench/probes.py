"""What a probe is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rqproc.bench.figures import Reading, Term
from rqproc.bench.ground import Ground, Rival


@dataclass(frozen=True, slots=True)
class Probe:
    """Measures one thing, for about so many seconds.

    Attributes:
        doing: what it measures, for those who wait.
        rival: whom it measures, if not rqproc.
        alone: it is measured once, before anything else is started: others would disturb it.
    """

    name: str
    doing: str
    run: Callable[[Ground, float], Reading]
    rival: Rival | None = None
    alone: bool = False

    def __getitem__(self, field: str) -> Term:
        return Term(self.name, field)
