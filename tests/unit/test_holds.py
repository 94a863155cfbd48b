"""What a node holds, by claim and by address."""

from __future__ import annotations

from rqproc.cluster import Claim
from rqproc.node.holds import Holds


def claim(id: str, token: int = 1, address: str = "1|r:1") -> Claim:
    return Claim(id, token, address, "call", id, 0, b"", 0)


def test_an_address_is_busy_until_its_last_claim_is_gone() -> None:
    holds = Holds()
    first, second = claim("a"), claim("b", 2)
    holds.add(first, None)
    holds.add(second, None)
    holds.remove(first)
    assert holds.busy("1|r:1")
    holds.remove(second)
    assert not holds.busy("1|r:1")
    assert holds.addresses() == frozenset()


def test_a_claim_is_known_by_its_token_too() -> None:
    """A request that was lost and taken again is another claim."""
    holds = Holds()
    holds.add(claim("a", 1), None)
    assert claim("a", 1) in holds
    assert claim("a", 2) not in holds
    assert claim("b", 1) not in holds


def test_it_knows_when_a_caller_gives_up() -> None:
    holds = Holds()
    holds.add(claim("a"), 7.5)
    holds.add(claim("b"), None)
    assert holds.due(claim("a")) == 7.5
    assert holds.due(claim("b")) is None


def test_cleared_it_holds_nothing() -> None:
    holds = Holds()
    holds.add(claim("a"), None)
    holds.clear()
    assert len(holds) == 0
    assert not holds.busy("1|r:1")
    assert claim("a") not in holds


def test_it_counts_the_claims_of_an_address() -> None:
    holds = Holds()
    assert holds.count("1|r:1") == 0
    holds.add(claim("j:0", 1), None)
    holds.add(claim("k:0", 2), None)
    assert holds.count("1|r:1") == len(holds) == 2
    holds.remove(claim("j:0", 1))
    assert holds.count("1|r:1") == 1
