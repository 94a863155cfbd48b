"""Does anything grow? Memory, files and threads of processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rqproc.lab.usage import Usage, usage

MORE_FILES = 8
MORE_THREADS = 4
MORE_RSS = 1.15
MORE_RSS_BYTES = 8 * 1024 * 1024
"""What a process may have more at the end: beyond it, it grows."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One process at the start, once warm, and at the end."""

    name: str
    start: Usage
    end: Usage

    @property
    def flat(self) -> bool:
        return (
            self.end.files <= self.start.files + MORE_FILES
            and self.end.threads <= self.start.threads + MORE_THREADS
            and self.end.rss_bytes <= self.start.rss_bytes * MORE_RSS + MORE_RSS_BYTES
        )


def sample(pids: Mapping[str, int]) -> dict[str, Usage]:
    """Return what processes have now, by name; not of those that have ended."""
    found = {name: usage(pid) for name, pid in pids.items()}
    return {name: seen for name, seen in found.items() if seen}


def growths(start: Mapping[str, Usage], end: Mapping[str, Usage]) -> tuple[Growth, ...]:
    return tuple(Growth(name, start[name], end[name]) for name in start if name in end)
