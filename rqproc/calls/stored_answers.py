"""Answers that lie at the server: which are fetched when, and which are to be removed.

Pure. Knows ids of calls, keys and sizes. Must not know connections, nor what an answer says.

A server closes a connection like ours, which is subscribed, if too much lies ready for it
(``client-output-buffer-limit``), and some (Valkey 9) count what they have sent until nothing lies
ready at all. So answers are fetched up to ``AT_ONCE`` bytes together, and the next when all of
these have come; where the server has closed the connection meanwhile, one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from rqproc.locks import snapshot

AT_ONCE = 1024 * 1024

CLOSINGS = 3
"""So often a connection was closed while one answer alone was fetched: it is that one."""

REMOVED_TOGETHER = 64
REMOVED_BYTES = 256 * 1024
"""So many answers that are read, or so much of them, are removed at once."""


class StoredAnswer(NamedTuple):
    """An answer, or those of a group, that its caller has been told of."""

    id: bytes
    key: bytes
    size: int


class StoredAnswers:
    """What one client has been told of. One thread says what is to be sent while another reads."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        self._waiting: deque[StoredAnswer] = deque()
        self._asked: dict[bytes, StoredAnswer] = {}
        self._read: list[bytes] = []
        self._read_bytes = 0
        self._at_once = AT_ONCE
        self._closings: dict[bytes, int] = {}

    def __contains__(self, key: bytes) -> bool:
        """Whether what lies at a key is fetched, or will be."""
        return key in self._keys

    def __len__(self) -> int:
        """How much is fetched, or will be."""
        return len(self._keys)

    @property
    def is_fetching(self) -> bool:
        return bool(self._asked)

    @property
    def is_urgent(self) -> bool:
        """Whether something is to be fetched, or much to be removed, with or without a request."""
        return bool(self._waiting and not self._asked) or self._read_bytes >= REMOVED_BYTES

    @property
    def is_due(self) -> bool:
        """Whether something is to be fetched, or removed, with the next request."""
        return self.is_urgent or len(self._read) >= REMOVED_TOGETHER

    def add(self, one: StoredAnswer) -> None:
        """An answer lies there."""
        if one.key not in self._keys:
            self._keys.add(one.key)
            self._waiting.append(one)

    def fetch(self, is_wanted: Callable[[bytes], bool]) -> list[StoredAnswer]:
        """Return what is to be fetched now, if anything is; what nobody waits for never is."""
        found: list[StoredAnswer] = []
        if self._asked:
            return found
        size = 0
        while self._waiting and (not found or size + self._waiting[0].size <= self._at_once):
            one = self._waiting.popleft()
            if is_wanted(one.id):
                found.append(one)
                size += one.size
            else:
                self._keys.discard(one.key)
        self._asked = {one.key: one for one in found}
        return found

    def fetched(self, one: StoredAnswer) -> None:
        """It has come, or is not there any more."""
        self._asked.pop(one.key, None)
        self._keys.discard(one.key)
        self._closings.clear()

    def has_read(self, key: bytes, size: int) -> None:
        """An answer may be removed."""
        self._read.append(key)
        self._read_bytes += size

    def take_read(self, *, few: bool = False) -> list[bytes]:
        """Return the keys that are to be removed now, once; ``few``: though they be but few."""
        if not (few or len(self._read) >= REMOVED_TOGETHER or self._read_bytes >= REMOVED_BYTES):
            return []
        keys, self._read, self._read_bytes = self._read, [], 0
        return keys

    def forget(self, *, closed: bool) -> StoredAnswer | None:
        """The connection is lost: whoever waits asks again, and is told again.

        Args:
            closed: by the server, or whoever is between.

        Returns:
            what is not to be fetched again: it is closed whenever this is.
        """
        asked = snapshot(self._asked.values())
        self._waiting.clear()
        self._keys.clear()
        self._asked = {}
        self.take_read(few=True)
        if not (asked and closed):
            return None
        self._at_once = 0
        if len(asked) > 1:
            return None
        (one,) = asked
        self._closings[one.key] = self._closings.get(one.key, 0) + 1
        return one if self._closings[one.key] >= CLOSINGS else None
