"""Whose handler waits for whom: what it asks for must not lead back to it.

Pure bookkeeping. It is to a node without a cluster what ``wait_for`` in nested.lua notes for all
nodes of one.
"""

from __future__ import annotations


class Waits:
    """By the address of a run, the addresses that it waits for, each by the job that asks."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, str]] = {}

    def __len__(self) -> int:
        """How many runs wait."""
        return len(self._of)

    def add(self, parent: str, job: str, address: str) -> list[str]:
        """Note that a run waits; where that would close a circle, note nothing.

        Returns:
            the way from the address back to the parent, over those who wait; empty without one.
        """
        way = self._way(address, parent)
        if not way:
            self._of.setdefault(parent, {})[job] = address
        return way

    def end(self, parent: str, job: str) -> None:
        """A job was answered, or given up; one that nobody noted is left alone."""
        waits = self._of.get(parent, {})
        if waits.pop(job, None) and not waits:
            del self._of[parent]

    def _way(self, start: str, goal: str) -> list[str]:
        came = {start: ""}
        todo = [start]
        while todo and goal not in came:
            at = todo.pop()
            for address in self._of.get(at, {}).values():
                if address not in came:
                    came[address] = at
                    todo.append(address)
        way = []
        at = goal if goal in came else ""
        while at:
            way.append(at)
            at = came[at]
        return way[::-1]
