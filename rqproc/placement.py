"""Placement by slots: a fixed number of them, each dealt to a member, so that few ids move.

Where the owner is ``slot modulo members``, a change of the members moves nearly all ids. Here an id
has a hash slot for good, one of ``SLOTS``, and a change moves as few of these as it can: one that
joins n others takes 1/(n+1) of them, and those of one that leaves go to the others.

Knows slots and member names. Must not know Redis: the same arithmetic stands in
``protocol/functions/slots.lua``, and the property tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Literal, get_args

Placement = Literal["modulo", "slots"]
"""How an id's owner is found: ``members[slot % len(members)]``, or whoever has its hash slot."""

PLACEMENTS: tuple[Placement, ...] = get_args(Placement)

SLOTS = 4096

FACTOR = 2053
"""Odd: so two slots that differ in one digit, of base ``SLOTS``, have different hash slots."""

Deal = Sequence[str]
"""The member that has each hash slot, in their order; empty where nobody lives."""


def hash_slot(slot: int) -> int:
    """Return the hash slot of the number that an id stands for, see ``ids.slot``.

    Numbers below ``SLOTS`` are their own; multiples of a power of two, as many ids are, are spread
    like all others.
    """
    found = 0
    while True:
        slot, digit = divmod(slot, SLOTS)
        found = (found * FACTOR + digit) % SLOTS
        if not slot:
            return found


def deal(before: Deal, members: Sequence[str]) -> Deal:
    """Return who has which hash slot now.

    Shares differ by one at most, and no slot moves that need not for that. What a member gives away
    is spread over all that it has, and so is what one is given: ids in a row have many owners.

    Args:
        before: who had which, whether they are members still or not.
        members: sorted by the bytes of their names.
    """
    if not members:
        return ()
    have: dict[str, list[int]] = {member: [] for member in members}
    free: list[int] = []
    for slot in range(SLOTS):
        had_by = before[slot] if before else ""
        have.get(had_by, free).append(slot)
    share, more = divmod(SLOTS, len(members))
    ranked = sorted(members, key=lambda member: -len(have[member]))
    want = {member: share + (place < more) for place, member in enumerate(ranked)}
    for member, slots in have.items():
        given = len(slots) - want[member]
        free += [slots[number * len(slots) // given] for number in range(given)]
    lacks = {member: want[member] - len(slots) for member, slots in have.items()}
    after = [before[slot] if before else "" for slot in range(SLOTS)]
    takers = cycle(member for member in members if lacks[member] > 0)
    for slot in sorted(free):
        taker = next(member for member in takers if lacks[member] > 0)
        lacks[taker] -= 1
        after[slot] = taker
    return after


def packed(deal: Deal, member: str) -> bytes:
    """Return the hash slots of a member as bits, as a node is told them; see ``has``."""
    bits = bytearray(SLOTS // 8)
    for slot, owner in enumerate(deal):
        if owner == member:
            bits[slot >> 3] |= 1 << (slot & 7)
    return bytes(bits)


def has(bits: bytes, slot: int) -> bool:
    """Whether a member, by what ``packed`` gives, has the hash slot of a slot."""
    found = hash_slot(slot)
    return bool(bits[found >> 3] >> (found & 7) & 1)
