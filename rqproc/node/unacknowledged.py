"""What this node has taken and whose end is not acknowledged, by id and by address."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from rqproc.node.runs import Taken


class Unacknowledged:
    """Calls and jobs, and runs that keep their address for nobody."""

    def __init__(self) -> None:
        self._taken: dict[bytes, Taken] = {}
        self._busy: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def __iter__(self) -> Iterator[Taken]:
        return iter(self._taken.values())

    @property
    def ids(self) -> Collection[bytes]:
        return self._taken

    @property
    def addresses(self) -> Collection[bytes]:
        return self._busy.keys()

    def get(self, id: bytes) -> Taken | None:
        return self._taken.get(id)

    def add(self, taken: Taken) -> None:
        """Raises: ValueError: this id is known."""
        if taken.id in self._taken:
            raise ValueError(f"{taken.name} is held")
        self._taken[taken.id] = taken
        self._busy[taken.key] = self._busy.get(taken.key, 0) + 1

    def remove(self, id: bytes) -> None:
        """One that is not known is left alone."""
        taken = self._taken.pop(id, None)
        if taken is None:
            return
        left = self._busy[taken.key] - 1
        if left:
            self._busy[taken.key] = left
        else:
            del self._busy[taken.key]

    def count(self, key: bytes) -> int:
        """How many of an address there are."""
        return self._busy.get(key, 0)

    def clear(self) -> None:
        self._taken.clear()
        self._busy.clear()
