"""The near-cache of one client: what it keeps, and the subscription that tells what is dropped.

Knows which resources are kept, and begins to listen when the first of them is asked for. Must not
know how a request is answered.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rqproc.calls.call import Call
from rqproc.calls.near_entries import Expected, Near
from rqproc.calls.subscription import Subscription
from rqproc.errors import ConfigError
from rqproc.ids import Id
from rqproc.locks import TryLock
from rqproc.model import Reply
from rqproc.protocol import codec
from rqproc.resource import ResourceSpec
from rqproc.runtime import renew_after_fork
from rqproc.transport.connector import Connector

DEFAULT_MOST = 1000
"""Replies that are kept where single resources ask for it, and their client does not say."""


class NearCache:
    """Belongs to one client.

    Args:
        most: replies to keep for whichever resource; 0 for those alone that say so themselves.
        resources: those that are declared, by name; more may be added later.
        channel: where drops are published.

    Attributes:
        kept: the replies; others one after ``close`` and in a forked child.
    """

    def __init__(
        self,
        most: int,
        resources: Mapping[str, ResourceSpec],
        *,
        connector: Connector,
        channel: str,
    ) -> None:
        self._most = check_near(most)
        self._resources = resources
        self._connector = connector
        self._clock = connector.runtime.suspend_proof
        self._channel = channel
        self._begin()
        renew_after_fork(self)

    def _begin(self) -> None:
        self._starting = TryLock()
        self._end: weakref.finalize[[], NearCache] | None = None
        self.kept = Near(self._most or DEFAULT_MOST, clock=self._clock)
        self._subscription = Subscription(
            self._connector, self._channel, self.kept, clock=self._clock
        )

    def close(self) -> None:
        """Forget everything and listen no longer, until something is expected again."""
        self._subscription.end()
        if self._end:
            self._end.detach()
        self._begin()

    def replies(self, ids: Iterable[Id], resource: str) -> dict[Id, Reply]:
        """Return those that need not be asked for."""
        if not len(self.kept):
            return {}
        found = {id: self.kept.reply(id, resource) for id in ids}
        return {id: reply for id, reply in found.items() if reply}

    def expect(self, call: Call) -> Expected | None:
        """Make ready for the replies to a call that is sent next.

        Returns None where nothing of it is kept here.
        """
        is_plain = call.function == codec.REQUEST and not call.args and not call.kwargs
        if not is_plain or not call.ids or not self._keeps(call.resource):
            return None
        if not self._subscription.is_started or self._subscription.has_ended:
            self._listen()
        return self.kept.expect(call.resource, call.ids)

    @contextmanager
    def dropping(self, resource: str, ids: Sequence[Id]) -> Iterator[None]:
        """Around an invalidation: its caller need not wait for what will be published.

        Once before, and once after: others of this process may have asked for it meanwhile.
        """
        self._drop(resource, ids)
        try:
            yield
        finally:
            self._drop(resource, ids)

    def _drop(self, resource: str, ids: Iterable[Id]) -> None:
        for id in ids:
            self.kept.drop(resource, id)

    def forget_parent(self) -> None:
        """In a forked child: what the parent is told is not told here."""
        if self._end:
            self._end.detach()
        self._subscription.forget_parent()
        self._begin()

    def _keeps(self, resource: str) -> bool:
        declared = self._resources.get(resource)
        if declared is None or declared.near is None:
            return self._most > 0 and (declared is None or declared.ttl_s > 0)
        return declared.near

    def _listen(self) -> None:
        """Have the subscription started, if no other does at this moment."""
        if self._subscription.has_ended:  # whoever closed this cache was interrupted
            self._begin()
        if self._starting.acquire():
            subscription = self._subscription
            if not subscription.is_started:
                self._end = weakref.finalize(self, subscription.end)
                subscription.start()
            self._starting.release()


def check_near(most: int) -> int:
    """Return how many replies a client keeps, unchanged.

    Raises:
        ConfigError: not a whole number, 0 or more.
    """
    if isinstance(most, int) and not isinstance(most, bool) and most >= 0:
        return most
    raise ConfigError(f"invalid near={most!r}: how many replies to keep, 0 for none")
