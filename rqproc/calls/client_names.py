"""The names under which one client asks: the present one, and old ones that are to be fenced.

Pure. Must not know connections, nor how a fence is set; see ``multiplexer`` for what it is for.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from secrets import token_hex

from rqproc.calls.call import Call
from rqproc.locks import snapshot

FENCE_S = 120.0
"""Seconds that a fence outlives the longest timeout of those who wait behind it."""


def fresh_name() -> str:
    """Return a name that no other client has."""
    return f"r{token_hex(9)}"


class ClientNames:
    """Attributes: present: stands in the id of each call that goes out."""

    def __init__(self) -> None:
        self.present = fresh_name()
        self._calls_by_old_name: dict[str, list[Call]] = {}
        self._to_fence: dict[str, float] = {}
        self._sent: dict[str, float] = {}

    def to_listen_to(self, pending: Container[Call]) -> list[str]:
        """Return the names under which answers may come to calls that are waited for."""
        self._calls_by_old_name = {
            name: left
            for name, calls in self._calls_by_old_name.items()
            if (left := [call for call in calls if call in pending])
        }
        return [self.present, *self._calls_by_old_name]

    def change(self, pending: Sequence[Call]) -> None:
        """The connection is lost: take a new name, if anything went out under the present one.

        To be called again where it was interrupted.
        """
        self._to_fence |= self._sent  # they may not have arrived
        self._sent = {}
        sent = [call for call in pending if self._has_sent(call)]
        if sent:
            longest_s = max(call.timeout_s for call in sent)
            self._calls_by_old_name[self.present] = sent
            self._to_fence[self.present] = longest_s + FENCE_S
            self.present = fresh_name()

    @property
    def has_fences_to_set(self) -> bool:
        return bool(self._to_fence)

    def take_fences(self) -> list[tuple[str, float]]:
        """Return the fences to be set now: names, and for how many seconds."""
        taken = snapshot(self._to_fence.items())
        for name, for_s in taken:
            self._sent[name] = for_s
            self._to_fence.pop(name, None)
        return taken

    def fenced(self, name: str, for_s: float, *, failed: bool) -> None:
        """The server has replied to a fence."""
        self._sent.pop(name, None)
        if failed:
            self._to_fence[name] = for_s

    def _has_sent(self, call: Call) -> bool:
        """Whether a call went out under the present name."""
        known = call.names or call.groups
        return bool(known) and known[0].startswith(self.present)
