"""The kernel's file locks, and this process's share in one.

Knows flock: it is held by an open file, so it survives a fork, and ends with the last process that
has the file open, however that process ends. Must not know what the locks are for.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import RLock

from rqproc.errors import EmbeddedUnavailable
from rqproc.runtime import after_fork

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def require() -> None:
    """Raise EmbeddedUnavailable where the system has no such locks."""
    if fcntl is None:
        raise EmbeddedUnavailable("this system has neither file locks nor unix sockets for it")


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Return the descriptor that holds a lock on ``path``, or None if someone is in the way."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def unlock(descriptor: int) -> None:
    """End a lock, also for a child that was forked meanwhile and has the file open too."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def held(path: Path) -> bool:
    """Tell whether someone holds ``path`` exclusively."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return True
    unlock(descriptor)
    return False


def sharers(path: Path) -> tuple[int, ...] | None:
    """Return the processes that share a lock, or None where the system does not tell.

    A process that only inherited its share by a fork is not listed.
    """
    try:
        lines = Path("/proc/locks").read_text().splitlines()
        inode = path.stat().st_ino
    except OSError:
        return None
    fields = [line.split() for line in lines]
    shares = [f for f in fields if len(f) > 5 and f[1] == "FLOCK" and f[3] == "READ"]
    return tuple(sorted({int(f[4]) for f in shares if f[5].rpartition(":")[2] == str(inode)}))


def has_open(pid: int, path: Path) -> bool | None:
    """Tell whether a process has a file open, or None where the system does not tell."""
    if not Path("/proc/self/fd").exists():
        return None
    try:
        there = path.stat()
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    found = filter(None, map(_stat, entries))
    return any(os.path.samestat(one, there) for one in found)


class Hold:
    """This process's share in one lock: one descriptor, for all in the process who want it.

    Whoever calls a method has the mutex. ``owners`` are those who want it.
    """

    __slots__ = ("_descriptor", "mutex", "owners", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mutex = RLock()
        self.owners: set[object] = set()
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Get or keep the share; False while someone holds the lock exclusively."""
        if self._descriptor is not None and _is_at(self._descriptor, self.path):
            return True
        fresh = try_lock(self.path, shared=True)
        if fresh is None:
            return False
        self.drop()
        self._descriptor = fresh
        return True

    def drop(self) -> None:
        """Give the share up. Children that inherited it keep theirs, so the lock is not undone."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    @property
    def taken(self) -> bool:
        """Whether this process has the share."""
        return self._descriptor is not None


_holds: dict[Path, Hold] = {}


def hold_on(path: Path) -> Hold:
    """Return the process's one hold on ``path``."""
    return _holds.setdefault(path, Hold(path))


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is still the one that the path names."""
    there = _stat(path)
    return there is not None and os.path.samestat(os.fstat(descriptor), there)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _fresh_mutexes() -> None:
    for hold in _holds.values():
        hold.mutex = RLock()


# A thread that had the mutex while another one forked does not exist in the child.
after_fork(_fresh_mutexes)
