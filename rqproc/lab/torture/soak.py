"""Does anything grow? Memory, files and threads of processes, read from /proc. Linux alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MORE_FILES = 8
MORE_THREADS = 4
MORE_RSS = 1.15
MORE_RSS_BYTES = 8 * 1024 * 1024
"""What a process may have more at the end: beyond it, it grows."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    rss_bytes: int
    files: int
    threads: int


@dataclass(frozen=True, slots=True)
class Growth:
    """One process at the start, once warm, and at the end."""

    name: str
    start: Sample
    end: Sample

    @property
    def flat(self) -> bool:
        return (
            self.end.files <= self.start.files + MORE_FILES
            and self.end.threads <= self.start.threads + MORE_THREADS
            and self.end.rss_bytes <= self.start.rss_bytes * MORE_RSS + MORE_RSS_BYTES
        )


def sample(pids: Mapping[str, int]) -> dict[str, Sample]:
    """Return what processes have now, by name; not of those that have ended."""
    found = {name: _sample(Path(f"/proc/{pid}")) for name, pid in pids.items()}
    return {name: seen for name, seen in found.items() if seen}


def growths(start: Mapping[str, Sample], end: Mapping[str, Sample]) -> tuple[Growth, ...]:
    return tuple(Growth(name, start[name], end[name]) for name in start if name in end)


def _sample(folder: Path) -> Sample | None:
    try:
        lines = (folder / "status").read_text().splitlines()
        files = len([*(folder / "fd").iterdir()])
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    if "VmRSS" not in fields:  # it has ended, and nobody has waited for it yet
        return None
    return Sample(int(fields["VmRSS"].split()[0]) * 1024, files, int(fields["Threads"]))
