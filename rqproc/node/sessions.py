"""The sessions of a node's worker, one after another: when a new one is due, how it begins.

Knows connections, and what the one before was lost by. Must not know what is said in a session, nor
when a term ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rqproc.errors import RedisUnavailable
from rqproc.locks import Lock
from rqproc.node.connections import Connections
from rqproc.node.dispatcher import Dispatcher
from rqproc.node.lease import Term
from rqproc.node.outage import Outage
from rqproc.node.session import Session
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import SessionSuperseded
from rqproc.runtime import Waker
from rqproc.transport.connection import ConnectionLost, Refused
from rqproc.transport.connector import Connector

log = logging.getLogger("rqproc.node")

DISTRUST_S = 10.0
"""For so long after a lost connection a pop of it may still come late, and take a mark with it."""

FAILURES = (ConnectionLost, Refused, RedisUnavailable, SessionSuperseded)
"""After these a new session begins."""


class Sessions:
    """But for ``renew``, used by whoever holds the worker's lock.

    Args:
        ended: see ``Session``.
        waker, lock: see ``Leaders``.

    Attributes:
        current: the one that is open, None where there is none.
        is_due: a new one is to be begun in its place, for ``reason``.
    """

    def __init__(
        self, connector: Connector, commands: Commands, dispatcher: Dispatcher, *, node: str,
        ended: Callable[[Sequence[str]], None], waker: Waker, lock: Lock,
    ) -> None:  # fmt: skip
        self._connector = connector
        self._commands = commands
        self._dispatcher = dispatcher
        self._node = node
        self._ended = ended
        self._waker = waker
        self._lock = lock
        self._clock = connector.runtime.monotonic
        self._outage = Outage(log, "connection to Redis", clock=self._clock)
        self._count = 0
        self._bare = False
        self.current: Session | None = None
        self.is_due = False
        self._error: Exception | None = None

    @property
    def reason(self) -> Exception:
        """One of ``FAILURES``, for which a new one is due."""
        return self._error or ConnectionLost("a new one is made, as for the heartbeat")

    def renew(self, *, bare: bool = False) -> None:
        """Have a new one begun. From any thread.

        ``bare``: the server was found without functions.
        """
        self._bare = self._bare or bare
        self.is_due = True

    def broken(self, error: Exception) -> None:
        """One of ``FAILURES`` was met in the one that is open."""
        self._error = error
        self.renew(bare=_lacks_functions(error))

    def lost(self, error: Exception) -> None:
        """Close the one that is open, after one of ``FAILURES``; the next is opened when it is
        asked for.
        """
        self.broken(error)
        self._outage.goes_on(error)
        self.close()
        self.is_due = False

    def open(self, term: Term, *, rejoined: bool) -> Session:
        """Return a new one, which is reconciled.

        Raises:
            ConnectionLost, Refused, LeaseLost, SessionSuperseded, ConfigError.
        """
        self.is_due, self._error = False, None
        self._count += 1
        connections = Connections(
            self._connector, self._commands, node=self._node, incarnation=term.incarnation,
            number=self._count, waker=self._waker, lock=self._lock,
        )  # fmt: skip
        session = self.current = Session(
            connections, self._commands, self._dispatcher, term, clock=self._clock,
            ended=self._ended,
        )  # fmt: skip
        if self._count > 1:
            self._dispatcher.intake.distrust_entries(DISTRUST_S)
        bare, self._bare = self._bare, False
        try:
            session.open(rejoined=rejoined, bare=bare)
        except BaseException:
            self._bare = self._bare or bare
            raise
        self._outage.is_over()
        return session

    def close(self) -> None:
        """Close the one that is open, if any is."""
        if self.current:
            self.current.close()
            self.current = None


def _lacks_functions(error: Exception) -> bool:
    return isinstance(error, Refused) and error.code == "NOFUNCTION"
