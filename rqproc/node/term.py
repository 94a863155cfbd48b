"""A node's term: one incarnation, and how long it may rely on its lease.

``trusted_until = beat_sent_at + trust``: counted from the sending, so a slow answer cannot stretch
a lease, and a failed renewal never extends it (the rule of River's and etcd's leader election).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Term:
    """Renewed by the heartbeat, read by others; each field is written whole, by one thread.

    Attributes:
        epoch: the cluster's, as the last heartbeat was told it. A node that has not seen the member
            list of this epoch does not know what it owns by now.
    """

    incarnation: str
    trusted_until: float
    clock: Callable[[], float]
    epoch: int = 0
    over: bool = False
    draining: bool = False

    @property
    def trusted_s(self) -> float:
        """For how many seconds it may still be relied on; 0 or less when it may not."""
        return 0.0 if self.over else self.trusted_until - self.clock()

    @property
    def trusted(self) -> bool:
        return not self.over and self.clock() < self.trusted_until
