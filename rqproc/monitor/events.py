"""What has changed between two looks at the members of a cluster.

Pure. What began and ended between two looks is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from rqproc.model import Membership, NodeInfo
from rqproc.monitor.overview import ClusterEvent

SPARE_S = 0.5
"""A lease that was to run out so soon counts as run out: clocks and looks are not that exact."""


def changes(
    before: Membership | None, now: Membership, *, at_s: float, passed_s: float
) -> Iterator[ClusterEvent]:
    """Yield what has changed.

    Args:
        before: None at the first look, at which nothing has.
        passed_s: seconds between the two looks.
    """
    if before is None:
        return
    were = {info.incarnation: info for info in before.nodes}
    are = {info.incarnation: info for info in now.nodes}
    for incarnation, info in were.items():
        if incarnation not in are:
            yield _gone(info, at_s, passed_s)
        elif info.state != are[incarnation].state:
            text = f"{info.name} drains: it owns nothing any more"
            yield ClusterEvent(at_s, "drains", text, info.name)
    for incarnation, info in are.items():
        if incarnation not in were:
            yield ClusterEvent(
                at_s, "joined", f"{info.name} joined, pid {info.pid} on {info.host}", info.name
            )
    if before.members != now.members:
        names = ", ".join(now.members) or "none"
        text = f"ids moved: members are {names} (epoch {now.epoch})"
        yield ClusterEvent(at_s, "moved", text)


def _gone(info: NodeInfo, at_s: float, passed_s: float) -> ClusterEvent:
    """A node that was not draining, and whose lease has run out, has died."""
    if info.state == "member" and info.lease_left_s - passed_s <= SPARE_S:
        return ClusterEvent(at_s, "died", f"{info.name} died: its lease ran out", info.name)
    return ClusterEvent(at_s, "left", f"{info.name} left", info.name)
