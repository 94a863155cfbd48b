"""What a process has used, as Linux tells it in /proc; None where nobody tells."""

from __future__ import annotations

import os
from pathlib import Path


def rss_bytes(pid: int) -> int | None:
    """Return the memory that a process has at this moment."""
    fields = _read(pid, "statm")
    return int(fields.split()[1]) * os.sysconf("SC_PAGE_SIZE") if fields else None


def cpu_s(pid: int) -> float | None:
    """Return the processor time that a process has used so far, in all its threads: to the
    nanosecond where the kernel counts so, of those that still run, else in its ticks.
    """
    running_ns = [_read(pid, f"task/{task}/schedstat") for task in _tasks(pid)]
    if running_ns and all(running_ns):
        return sum(int(found.split()[0]) for found in running_ns if found) / 1e9
    fields = _read(pid, "stat")
    if fields is None:
        return None
    user, system = fields.rpartition(")")[2].split()[11:13]  # the name before may have spaces
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _tasks(pid: int) -> list[str]:
    try:
        return [task.name for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def _read(pid: int, name: str) -> str | None:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return None
