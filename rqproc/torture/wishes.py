"""What callers ask for: which ids there are, and what one caller asks next, by its own dice.

Knows the torture app's resources. Must not know how anything is asked.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rqproc.torture.ledger import Ledger

KEPT = tuple(range(1, 9))
SERIAL = ("charge", "acharge")
SERIAL_IDS = tuple(range(1, 5))
SLOW_ID = 5
"""Of serial resources: the only id whose handlers take long, so that no other waits for them."""
SLOW_PART = 0.012
PATIENT_S = 8.0
BRIEF_S = 0.5
HOLD_S = 0.08


def keys() -> tuple[str, ...]:
    """Return every key that is asked for."""
    kept = tuple(f"kept:{id}" for id in KEPT)
    return kept + tuple(f"{name}:{id}" for name in SERIAL for id in SERIAL_IDS)


@dataclass(frozen=True, slots=True)
class Wish:
    """A request of a serial resource, before it is sent."""

    resource: str
    id: int
    tag: str
    hold_s: float
    timeout_s: float

    @property
    def key(self) -> str:
        return f"{self.resource}:{self.id}"

    @property
    def args(self) -> tuple[str, float]:
        return (self.tag, self.hold_s)


class Wishes:
    """What one caller will ask next, by its own dice."""

    def __init__(self, ledger: Ledger, seed: str, *, longest_s: float) -> None:
        self._ledger = ledger
        self._longest_s = longest_s
        self.chance = random.Random(seed)  # noqa: S311

    def serial(self) -> Wish:
        chance = self.chance
        resource, tag = chance.choice(SERIAL), self._ledger.tag()
        if self._longest_s and chance.random() < SLOW_PART:
            hold_s = chance.uniform(HOLD_S, self._longest_s)
            return Wish(resource, SLOW_ID, tag, hold_s, PATIENT_S)
        hold_s = chance.uniform(0.0, HOLD_S)
        return Wish(resource, chance.choice(SERIAL_IDS), tag, hold_s, self.timeout())

    def timeout(self) -> float:
        return BRIEF_S if self.chance.random() < 0.05 else PATIENT_S

    def kept(self) -> int:
        return self.chance.choice(KEPT)

    def many(self) -> list[int]:
        return self.chance.sample(KEPT, self.chance.randint(2, len(KEPT)))

    def pause(self) -> float:
        return self.chance.uniform(0.0, 0.06)
