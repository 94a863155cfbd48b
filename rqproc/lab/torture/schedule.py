"""What is done to the cluster, and when: the same for the same seed. Pure.

Kinds come in rounds, shuffled anew for each, so that every kind has its turn. Those with a duration
are by turns short and long: within the lease, and past it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from rqproc.lab.torture.records import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)

LASTING: frozenset[Kind] = frozenset({"pause", "stall", "delay", "drop", "mute", "restart"})
"""Kinds that take a while, during which something sudden may happen too."""
SUDDEN: tuple[Kind, ...] = ("kill", "drain", "join")

OVERLAPS = 0.25
"""How often a lasting fault is joined by a sudden one."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault, or two at once."""

    kind: Kind
    long: bool
    second: Kind | None = None


def schedule(kinds: Sequence[Kind], chance: random.Random) -> Iterator[PlannedFault]:
    """Yield planned faults without end; none if no kind is wanted."""
    longs = {kind: chance.random() < 0.5 for kind in kinds}
    sudden = [kind for kind in SUDDEN if kind in kinds]
    while kinds:
        for kind in chance.sample(kinds, len(kinds)):
            longs[kind] = not longs[kind]
            joined = chance.random() < OVERLAPS
            other = chance.choice(sudden) if sudden and joined and kind in LASTING else None
            yield PlannedFault(kind, longs[kind], other)
