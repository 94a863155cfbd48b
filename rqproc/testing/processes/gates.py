"""Where runs are held, on whichever node they are.

Knows files and the kernel's locks on them. Must not know nodes.

A gate is a file that the test holds exclusively; a run that finds it so waits for a share of it.
The kernel opens the gate when the test lets it go, or is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from hashlib import blake2b
from itertools import count
from pathlib import Path

from rqproc.ids import Id

Tell = Callable[[str], None]


class FileGates:
    """All gates of a cluster, in a folder.

    Args:
        held_at: how many runs have told that they wait at a gate, by its name.
    """

    def __init__(self, folder: Path, held_at: Callable[[str], int]) -> None:
        self._folder = folder
        self._held_at = held_at
        self._numbers = count(1)
        folder.mkdir()

    def shut(self, resource: str, id: Id) -> FileGate:
        """Make a gate, before all runs of an id that are still to begin."""
        number = next(self._numbers)
        making = self._folder / f"{number}.new"
        descriptor = os.open(making, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        path = self._of(resource, id) / str(number)
        path.parent.mkdir(exist_ok=True)
        making.rename(path)  # nobody has seen it open
        return FileGate(path, descriptor, self._held_at)

    def before(self, resource: str, id: Id, *, tell: Tell) -> Callable[[], None] | None:
        """Return what waits at the last gate that was shut; None where there is none.

        Args:
            tell: called with the gate's name by who waits there.
        """
        try:
            last = max(self._of(resource, id).iterdir(), key=lambda path: int(path.name))
            descriptor = os.open(last, os.O_RDONLY)
        except (FileNotFoundError, ValueError):
            return None
        if _shared(descriptor, fcntl.LOCK_NB):
            os.close(descriptor)
            return None

        def wait() -> None:
            tell(str(last))
            _shared(descriptor)
            os.close(descriptor)

        return wait

    def _of(self, resource: str, id: Id) -> Path:
        key = json.dumps([resource, id]).encode()
        return self._folder / blake2b(key, digest_size=16).hexdigest()


class FileGate:
    """One gate, of whoever has shut it. Attributes: name: by which those who wait there know it."""

    def __init__(self, path: Path, descriptor: int, held_at: Callable[[str], int]) -> None:
        self.name = str(path)
        self._path = path
        self._descriptor: int | None = descriptor
        self._held_at = held_at

    def held(self) -> int:
        return self._held_at(self.name)

    def open(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._path.unlink(missing_ok=True)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _shared(descriptor: int, flags: int = 0) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | flags)
    except BlockingIOError:
        return False
    return True
