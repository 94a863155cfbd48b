"""What a program need not ask the cluster for: entries of a node that lives in it.

Knows how such a node is asked, and whether there is one. Must not know what a node is.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from typing import Protocol

from rqproc.errors import ConfigError
from rqproc.ids import Id
from rqproc.model import Reply
from rqproc.runtime import renew_after_fork


class Nearby(Protocol):
    """What clients ask before they ask the cluster."""

    def find(self, resource: str, id: Id) -> Reply | None:
        """Return the reply to a request without arguments; None where the cluster is to be asked.

        Raises:
            InvalidId.
        """

    def drop(self, resource: str, id: Id, *, before: int | None = None) -> None:
        """The id was invalidated, or has another value, wherever it lives: find nothing older from
        now on. ``before``: the token of that value; None where there is none.
        """

    def drop_all(self, resource: str | None, *, before: int) -> None:
        """All ids of a resource, or of all with None, were invalidated: find nothing that has this
        token or an earlier one.
        """


class ServingNode(Protocol):
    """A node that lives in this program, as ``App.node`` gives it.

    Attributes:
        name: under which it is a member.
        server: the server's address, without credentials.
    """

    @property
    def name(self) -> str: ...
    @property
    def server(self) -> str: ...


class InProcessNodes:
    """Where the node of an app lives while this program runs one; a forked child has none."""

    def __init__(self) -> None:
        self._taken = Lock()
        self._found: Nearby | None = None
        renew_after_fork(self)

    def find(self, resource: str, id: Id) -> Reply | None:
        found = self._found
        return found.find(resource, id) if found else None

    def drop(self, resource: str, id: Id, *, before: int | None = None) -> None:
        found = self._found
        if found:
            found.drop(resource, id, before=before)

    def drop_all(self, resource: str | None, *, before: int) -> None:
        found = self._found
        if found:
            found.drop_all(resource, before=before)

    def take(self) -> None:
        """Raises: ConfigError: it is taken."""
        if not self._taken.acquire(blocking=False):
            raise ConfigError(
                "this app has a node in this program already: leave that one first, "
                "or start another process with `rqproc node start`"
            )

    def open(self, found: Nearby) -> None:
        """From now on requests are answered here."""
        self._found = found

    def leave(self) -> None:
        self._found = None
        self._taken.release()

    def forget_parent(self) -> None:
        """In a forked child: the node's threads are the parent's."""
        self._taken, self._found = Lock(), None


def find_all(nearby: Nearby | None, resource: str, ids: Iterable[Id]) -> dict[Id, Reply]:
    """Return what is found nearby, by id."""
    if nearby is None:
        return {}
    return {id: found for id in ids if (found := nearby.find(resource, id))}
