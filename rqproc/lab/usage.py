"""What a process uses: memory, files, threads, processor time. Linux alone can say: see proc(5)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """One process at one moment."""

    rss_bytes: int
    files: int
    threads: int


def usage(pid: int) -> Usage | None:
    """Return what a process has now; None of one that has ended, and where nobody can say."""
    lines = (_read(pid, "status") or "").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    files = _names(pid, "fd")
    if "VmRSS" not in fields or files is None:  # it may have ended, and nobody has waited for it
        return None
    return Usage(int(fields["VmRSS"].split()[0]) * 1024, len(files), int(fields["Threads"]))


def cpu_s(pid: int) -> float | None:
    """Return the processor time that a process has used so far, in all its threads: to the
    nanosecond where the kernel counts so, of those that still run, else in its ticks.
    """
    running_ns = [_read(pid, f"task/{task}/schedstat") for task in _names(pid, "task") or ()]
    if running_ns and all(running_ns):
        return sum(int(found.split()[0]) for found in running_ns if found) / 1e9
    fields = _read(pid, "stat")
    if fields is None:
        return None
    user, system = fields.rpartition(")")[2].split()[11:13]  # the name before may have spaces
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def with_environment(mark: str) -> list[int]:
    """Return the processes, but for this one, that were started with ``NAME=VALUE``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid != os.getpid() and mark in (_read(pid, "environ") or "").split("\0"):
            found.append(pid)
    return found


def _names(pid: int, folder: str) -> list[str] | None:
    try:
        return [found.name for found in Path(f"/proc/{pid}/{folder}").iterdir()]
    except OSError:  # gone, or not ours to read
        return None


def _read(pid: int, name: str) -> str | None:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
