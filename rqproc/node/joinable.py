"""Runs that whoever asks for their id may wait for: their values are kept.

Pure.
"""

from __future__ import annotations

from rqproc.node.runs import HandlerRun


class JoinableRuns:
    """One run of each address, from when it is asked for to its end."""

    def __init__(self) -> None:
        self._runs: dict[bytes, HandlerRun] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._runs

    def get(self, key: bytes) -> HandlerRun | None:
        return self._runs.get(key)

    def add(self, run: HandlerRun) -> None:
        """It may be joined, and no other of its address any more."""
        self._runs[run.key] = run

    def close(self, run: HandlerRun) -> None:
        """It has ended, or is answered already."""
        if self._runs.get(run.key) is run:
            del self._runs[run.key]

    def part(self, key: bytes) -> bool:
        """Let nobody join the run of an address, nor keep its value; return whether
        there is one.
        """
        run = self._runs.pop(key, None)
        if run is None:
            return False
        run.keeps = False
        return True

    def part_all(self, resource: bytes, token: int) -> None:
        """``part`` those that were claimed up to a token, of a resource, or of all with b"".

        A job's has no token before it begins: it is taken for one of these.
        """
        for key, run in list(self._runs.items()):
            if run.token <= token and resource in (b"", key.split(b"-", 2)[1]):
                self.part(key)

    def keep_nothing(self) -> None:
        """What is being computed becomes no entry."""
        for run in self._runs.values():
            run.keeps = False

    def clear(self) -> None:
        self._runs.clear()
