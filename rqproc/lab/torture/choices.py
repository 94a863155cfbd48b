"""What callers ask for: which ids there are, and what one caller asks next, by its own dice.

Knows the torture app's resources. Must not know how anything is asked.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rqproc.lab.torture.ledger import Ledger
from rqproc.lab.torture.records import How
from rqproc.model import OnLost

KEPT = tuple(range(1, 9))
RENEWED = "renewed"
"""Whose old values are given too: who asks for these is told of what age they are."""
KEEPING = ("kept", "batched", RENEWED)
SERIAL = ("charge", "acharge")
SERIAL_IDS = tuple(range(1, 5))
SLOW_ID = 5
"""Of serial resources: the only id whose handlers take long, so that no other waits for them."""
SLOW_PART = 0.012
LANE, IN_LANE = "tenant", ("till", "book")
COUNTING = ("tally", "atally")
FEW_IDS = (1, 2)
NESTED = ("nested", "anested")
NESTED_IDS = (1, 2, 3)
"""Few: so callers' handlers ask for each other's ids in a circle."""
MOST_INNER = 3
LIMITED = ("limited", "alimited")
LIMITED_IDS = (1, 2, 3)
OVERDUE_PART = 0.15
PATIENT_S = 8.0
BRIEF_S = 0.5
HOLD_S = 0.08
OVERDUE_S = 0.6
"""What a run takes at the least that takes longer than its resource allows."""
HASTY_S = (1.2, 1.7)
"""The time of most of those that do not want to wait: a node that dies may be silent at half of it,
and still have its lease."""

QUICK: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(KEEPING, KEPT),
    **dict.fromkeys(SERIAL, SERIAL_IDS),
}
"""By resource, the ids whose handlers neither wait for others nor take long."""
PROBED = {
    **QUICK,
    **dict.fromkeys(NESTED, NESTED_IDS),
    **dict.fromkeys(LIMITED, LIMITED_IDS),
}
"""Those that are asked for all the time."""

_ELSE: Mapping[OnLost, How] = {"local": "on_lost=local", "error": "on_lost=error"}


@dataclass(frozen=True, slots=True)
class Choice:
    """A request of one id, before it is sent; ``tag`` is empty where one run may serve several.

    Attributes:
        resource: by which it is asked for: of those that share a lane, the lane's.
    """

    resource: str
    id: int
    tag: str
    timeout_s: float
    args: tuple[Any, ...] = ()
    on_lost: OnLost = "wait"

    @property
    def key(self) -> str:
        return f"{self.args[0] if self.resource == LANE else self.resource}:{self.id}"

    def how(self, way: How) -> How:
        """Return how it is asked, in a way: who does not want to wait says so."""
        return _ELSE.get(self.on_lost, way)


class Choices:
    """What one caller will ask next, by its own dice."""

    def __init__(self, ledger: Ledger, seed: str, *, longest_s: float) -> None:
        self._ledger = ledger
        self._longest_s = longest_s
        self.chance = random.Random(seed)  # noqa: S311

    def call(self) -> Choice:
        """Choose a request that its caller waits for."""
        choices = (
            self.serial,
            self.laned,
            self.counting,
            self.nested,
            self.limited,
            self.impatient,
        )
        (choice,) = self.chance.choices(choices, (8, 2, 3, 2, 2, 2))
        return choice()

    def job(self) -> Choice:
        """Choose a run that takes no longer than it may, since nobody waits for it."""
        return self.nested() if self.chance.random() < 0.2 else self.serial()

    def serial(self) -> Choice:
        chance = self.chance
        resource, tag = chance.choice(SERIAL), self._ledger.tag()
        if self._longest_s and chance.random() < SLOW_PART:
            hold_s = chance.uniform(HOLD_S, self._longest_s)
            return Choice(resource, SLOW_ID, tag, PATIENT_S, (tag, hold_s))
        hold_s = chance.uniform(0.0, HOLD_S)
        return Choice(resource, chance.choice(SERIAL_IDS), tag, self.timeout(), (tag, hold_s))

    def laned(self) -> Choice:
        """Another resource's runs of its id are in its lane too."""
        tag, hold_s = self._ledger.tag(), self.chance.uniform(0.0, HOLD_S)
        resource, id = self.chance.choice(IN_LANE), self.chance.choice(FEW_IDS)
        return Choice(LANE, id, tag, self.timeout(), (resource, tag, hold_s))

    def counting(self) -> Choice:
        """It is a call of its id's object."""
        tag, hold_s = self._ledger.tag(), self.chance.uniform(0.0, HOLD_S)
        resource, id = self.chance.choice(COUNTING), self.chance.choice(FEW_IDS)
        return Choice(resource, id, tag, self.timeout(), ("add", tag, hold_s))

    def nested(self) -> Choice:
        """Its handler asks for another id, whose handler may ask for a third, or for this one."""
        chance = self.chance
        resource, id, tag = chance.choice(NESTED), chance.choice(NESTED_IDS), self._ledger.tag()
        hold_s = chance.uniform(0.0, HOLD_S)
        way = [self._inner(f"{resource}:{id}")]
        while len(way) < MOST_INNER and way[-1].partition(":")[0] in NESTED:
            way.append(self._inner(way[-1]))
        return Choice(resource, id, tag, self.timeout(), (tag, hold_s, way))

    def _inner(self, key: str) -> str:
        """Return a key for a handler to ask for: mostly one whose handler asks, never its own."""
        chance = self.chance
        among = (
            NESTED if chance.random() < 0.6 else tuple(name for name in PROBED if name != RENEWED)
        )
        keys = [f"{name}:{id}" for name in among for id in PROBED[name]]
        return chance.choice([other for other in keys if other != key])

    def limited(self) -> Choice:
        """It may take longer than its resource allows."""
        chance = self.chance
        resource, id, tag = chance.choice(LIMITED), chance.choice(LIMITED_IDS), self._ledger.tag()
        hold_s = chance.uniform(0.0, HOLD_S)
        if self._longest_s and chance.random() < OVERDUE_PART:
            hold_s = chance.uniform(OVERDUE_S, self._longest_s)
        return Choice(resource, id, tag, PATIENT_S, (tag, hold_s))

    def impatient(self) -> Choice:
        """It is not to wait where no node can answer."""
        choice = self.one() if self.chance.random() < 0.3 else self.serial()
        while choice.id == SLOW_ID and choice.resource in SERIAL:
            choice = self.serial()
        on_lost: OnLost = "local" if self.chance.random() < 0.5 else "error"
        timeout_s = self.chance.uniform(*HASTY_S) if self.chance.random() < 0.7 else PATIENT_S
        return replace(choice, on_lost=on_lost, timeout_s=timeout_s)

    def one(self) -> Choice:
        return Choice(self.keeping(), self.kept(), "", self.timeout())

    def keeping(self) -> str:
        return self.chance.choice(KEEPING)

    def timeout(self) -> float:
        return BRIEF_S if self.chance.random() < 0.05 else PATIENT_S

    def kept(self) -> int:
        return self.chance.choice(KEPT)

    def many(self) -> list[int]:
        return self.chance.sample(KEPT, self.chance.randint(2, len(KEPT)))

    def pause(self) -> float:
        return self.chance.uniform(0.0, 0.06)
