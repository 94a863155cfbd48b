"""When a node has served for long enough."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rqproc.errors import ConfigError
from rqproc.node.recycling import MIB, Recycling, resident_bytes
from rqproc.protocol.messages import Tally
from rqproc.settings import NodeSettings

NOTHING = Tally()


class Machine:
    """A clock and a memory that the test turns."""

    now = 1000.0
    taken = 50 * MIB

    def recycling(self, *, early: float = 0.0, **limits: float) -> Callable[[Tally], str | None]:
        settings = NodeSettings(**limits)  # type: ignore[arg-type]
        return Recycling(
            settings, clock=lambda: self.now, early=early, resident=lambda: self.taken
        ).reason


def test_an_age_is_counted_from_the_nodes_start() -> None:
    machine = Machine()
    reason = machine.recycling(max_age_s=60)
    machine.now += 59.9
    assert reason(NOTHING) is None
    machine.now += 0.1
    assert reason(NOTHING) == "--max-age: it is 60 s old"


def test_requests_count_whether_they_had_a_value_or_an_error() -> None:
    reason = Machine().recycling(max_requests=50)
    assert reason(Tally(succeeded=30, failed=19)) is None
    assert reason(Tally(succeeded=30, failed=20)) == "--max-requests: it has answered 50"


def test_memory_is_what_the_process_takes_now() -> None:
    machine = Machine()
    reason = machine.recycling(max_rss_mib=100)
    assert reason(NOTHING) is None
    machine.taken = 100 * MIB
    assert reason(NOTHING) == "--max-rss: it takes 100 MiB"


def test_a_limit_is_told_once() -> None:
    machine = Machine()
    reason = machine.recycling(max_age_s=1)
    machine.now += 2
    assert reason(NOTHING)
    assert reason(NOTHING) is None


def test_a_node_that_nobody_coordinates_is_up_to_a_tenth_early() -> None:
    machine = Machine()
    reason = machine.recycling(early=1.0, max_age_s=100, max_requests=100)
    machine.now += 89.9
    assert reason(Tally(succeeded=89)) is None
    assert reason(Tally(succeeded=90)) == "--max-requests: it has answered 90"
    reason = machine.recycling(early=1.0, max_age_s=100)
    machine.now += 90
    assert reason(NOTHING)


def test_a_bound_on_memory_that_a_node_has_reached_before_it_serves_is_refused() -> None:
    with pytest.raises(ConfigError, match="--max-rss 50 is less than the 50 MiB"):
        Machine().recycling(max_rss_mib=50)


def test_this_process_takes_memory() -> None:
    before = resident_bytes()
    more = bytearray(b"x") * (64 * MIB)
    assert resident_bytes() - before > 32 * MIB
    assert len(more)
