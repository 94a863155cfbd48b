"""What this node has taken and not finished, by claim and by address. Pure bookkeeping."""

from __future__ import annotations

from rqproc.cluster import Claim


class Holds:
    """Claims that are held, and when the caller of each gives up (None for never)."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, float | None]] = {}
        self._busy: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, claim: Claim) -> bool:
        held = self._held.get(claim.id)
        return held is not None and held[0] == claim.token

    def add(self, claim: Claim, due: float | None) -> None:
        self._held[claim.id] = (claim.token, due)
        self._busy[claim.address] = self._busy.get(claim.address, 0) + 1

    def due(self, claim: Claim) -> float | None:
        """Return when the caller gives up."""
        return self._held[claim.id][1]

    def remove(self, claim: Claim) -> None:
        del self._held[claim.id]
        left = self._busy[claim.address] - 1
        if left:
            self._busy[claim.address] = left
        else:
            del self._busy[claim.address]

    def count(self, address: str) -> int:
        """How many claims of this address are held."""
        return self._busy.get(address, 0)

    def busy(self, address: str) -> bool:
        """Whether any claim of this address is held."""
        return address in self._busy

    def addresses(self) -> frozenset[str]:
        return frozenset(self._busy)

    def clear(self) -> None:
        self._held.clear()
        self._busy.clear()
