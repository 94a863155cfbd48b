"""A call under way, started by a test that goes on meanwhile.

Pure. Must not know how its end is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rqproc.ids import Id
from rqproc.model import Reply


class Pending:
    """One call. Attributes: ended_s: when, on the cluster's clock; None while it is under way.

    Args:
        due_s: its deadline, on the same clock.
        wait: returns when it has ended.
    """

    def __init__(
        self, resource: str, id: Id, *, due_s: float, wait: Callable[[Pending], None]
    ) -> None:
        self.resource = resource
        self.id = id
        self.due_s = due_s
        self.ended_s: float | None = None
        self._wait = wait
        self._outcome: Reply | BaseException | None = None

    def __repr__(self) -> str:
        return f"<Pending {self.resource} {self.id} {'done' if self.done else 'under way'}>"

    @property
    def done(self) -> bool:
        return self._outcome is not None

    @property
    def error(self) -> BaseException | None:
        """What it has failed of; None if it has not, or not yet."""
        return self._outcome if isinstance(self._outcome, BaseException) else None

    def reply(self) -> Reply:
        """Wait, and return the reply. Raises: what the request has raised."""
        if self._outcome is None:
            self._wait(self)
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def result(self) -> Any:
        """Wait, and return the value. Raises: what the request has raised."""
        return self.reply().value

    def end(self, outcome: Reply | BaseException, at_s: float) -> None:
        self.ended_s = at_s
        self._outcome = outcome
