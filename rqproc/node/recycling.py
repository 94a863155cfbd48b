"""When a node has served for long enough: by its age, its memory, or the requests that it answered.

Knows limits, a clock, and what this process takes of memory. Must not know how a node ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from rqproc.errors import ConfigError
from rqproc.protocol.messages import Tally
from rqproc.runtime import Clock
from rqproc.settings import NodeSettings

MIB = 2**20
JITTER = 0.1
"""Share of a limit by which a node that nobody coordinates may be early, so that several that began
together do not end together."""


class Recycling:
    """Tells when the first limit is reached, once.

    Args:
        resident: gives the bytes of memory that this process takes.
        early: from 0 to 1, how much of the jitter this node is early by, in age and requests. The
            bound on memory is exact: how it grows differs anyway.

    Raises:
        ConfigError: ``max_rss_mib`` is less than this process takes as it is.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        clock: Clock,
        early: float,
        resident: Callable[[], int] | None = None,
    ) -> None:
        share = 1 - JITTER * early
        self._max_rss_mib = settings.max_rss_mib
        self._max_age_s = settings.max_age_s and settings.max_age_s * share
        self._max_requests = settings.max_requests and settings.max_requests * share
        self._clock = clock
        self._resident = resident or resident_bytes
        self._began = clock()
        self._is_told = False
        at_first = self._resident() / MIB if self._max_rss_mib else 0
        if self._max_rss_mib and at_first >= self._max_rss_mib:
            raise ConfigError(
                f"--max-rss {self._max_rss_mib} is less than the {at_first:.0f} MiB that this node "
                "takes before it has served anything"
            )

    def reason(self, tally: Tally) -> str | None:
        """Return which limit this node has reached, in words; None while it may go on, and again
        once it was told.
        """
        if self._is_told:
            return None
        found = self._found(tally)
        self._is_told = found is not None
        return found

    def _found(self, tally: Tally) -> str | None:
        age_s = self._clock() - self._began
        if self._max_age_s and age_s >= self._max_age_s:
            return f"--max-age: it is {age_s:.0f} s old"
        answered = tally.succeeded + tally.failed
        if self._max_requests and answered >= self._max_requests:
            return f"--max-requests: it has answered {answered}"
        if self._max_rss_mib and (taken := self._resident() / MIB) >= self._max_rss_mib:
            return f"--max-rss: it takes {taken:.0f} MiB"
        return None


def resident_bytes() -> int:
    """Return the memory that this process takes; where there is no /proc, the most that it ever
    has.
    """
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
