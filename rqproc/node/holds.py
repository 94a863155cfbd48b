"""What this node has taken and not finished, by claim and by address. Pure bookkeeping."""

from __future__ import annotations

from collections import Counter

from rqproc.cluster import Claim


class Holds:
    """Claims that are held, and when the caller of each gives up (None for never)."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, float | None]] = {}
        self._busy: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, claim: Claim) -> bool:
        held = self._held.get(claim.id)
        return held is not None and held[0] == claim.token

    def add(self, claim: Claim, due: float | None) -> None:
        self._held[claim.id] = (claim.token, due)
        self._busy[claim.address] += 1

    def due(self, claim: Claim) -> float | None:
        """Return when the caller gives up."""
        return self._held[claim.id][1]

    def remove(self, claim: Claim) -> None:
        del self._held[claim.id]
        self._busy[claim.address] -= 1
        if self._busy[claim.address] <= 0:
            del self._busy[claim.address]

    def count(self, address: str) -> int:
        """How many claims of this address are held."""
        return self._busy[address]

    def busy(self, address: str) -> bool:
        """Whether any claim of this address is held."""
        return address in self._busy

    def addresses(self) -> frozenset[str]:
        return frozenset(self._busy)

    def clear(self) -> None:
        self._held.clear()
        self._busy.clear()
