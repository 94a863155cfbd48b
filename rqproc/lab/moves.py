"""What a change of the members moves, by each placement: computed, without a server.

Knows ids, placements and counts. Must not know how it is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rqproc.ids import owner
from rqproc.placement import Deal, Placement, deal, hash_slot


@dataclass(frozen=True, slots=True)
class Moves:
    """How ids are spread before and after, and how many have another owner then.

    Attributes:
        before, after: dict of members to how many of the ids they own.
        moved: int, ids with another owner.
        least: float, ids that any placement with even shares has to move.
    """

    placement: Placement
    ids: int
    before: dict[str, int]
    after: dict[str, int]
    moved: int
    least: float


def simulate(placement: Placement, *, nodes: int, join: int, leave: int, ids: int) -> Moves:
    """Have nodes join and leave, one after the other, and see who owns the ids 1 to ``ids``.

    Those that leave are the first by their names. At least one is left.
    """
    width = len(str(nodes + join))
    names = [f"{number:0{width}}" for number in range(1, nodes + join + 1)]
    before, after = names[:nodes], names[leave:]
    if placement == "slots":
        steps = [names[:count] for count in range(1, nodes + join + 1)]
        steps += [names[gone:] for gone in range(1, leave + 1)]
        owners = _by_slots(steps[:nodes]), _by_slots(steps)
    else:
        owners = _by_modulo(before), _by_modulo(after)
    pairs = Counter((owners[0](id), owners[1](id)) for id in range(1, ids + 1))
    return Moves(
        placement,
        ids,
        {name: sum(n for (a, _), n in pairs.items() if a == name) for name in before},
        {name: sum(n for (_, b), n in pairs.items() if b == name) for name in after},
        sum(n for (a, b), n in pairs.items() if a != b),
        ids * (1 - len({*before} & {*after}) * min(1 / len(before), 1 / len(after))),
    )


def _by_slots(steps: Sequence[Sequence[str]]) -> Callable[[int], str | None]:
    found: Deal = ()
    for members in steps:
        found = deal(found, members)
    return lambda id: found[hash_slot(id)]


def _by_modulo(members: Sequence[str]) -> Callable[[int], str | None]:
    return lambda id: owner(id, members)
