"""A subscription to one channel, with a word on how far it can be trusted: one thread, one
connection.

Knows connections, SUBSCRIBE and PING. Must not know what the messages mean.

A server sends what was published and its answers in one order. So whoever has the answer to a PING
has had everything that was published before that PING was sent: for a while from that moment the
subscription is trusted. A cut connection ends that at once; a server that stands still, or a
connection whose other end has gone without a word, as soon as the while is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rqproc.errors import RqprocError
from rqproc.log_events import tell
from rqproc.transport.backoff import Backoff
from rqproc.transport.connection import Command, Connection, ConnectionLost, Refused, pack
from rqproc.transport.connector import Connector

log = logging.getLogger("rqproc.near")

BEAT_S = 1.0
"""Between a PING and the next."""

TRUST_S = 2.0
"""How long an answer is good for, from when its PING was sent; and how long it may take."""


class Listener(Protocol):
    """Who is told, by the subscription's thread."""

    def begin(self) -> None:
        """The server knows of the subscription: what is published from now on will be told."""

    def trust(self, until: float) -> None:
        """All that was published up to ``TRUST_S`` seconds before ``until`` has been told."""

    def hear(self, message: bytes) -> None: ...

    def distrust(self) -> None:
        """Messages may have been missed."""


@dataclass(slots=True)
class Pulse:
    """When the last PING was sent, and whether its answer is awaited."""

    sent_at: float
    awaited: bool = True

    @property
    def due(self) -> float:
        """When something is to be done: the next PING, or giving up."""
        return self.sent_at + (TRUST_S if self.awaited else BEAT_S)

    def answered(self) -> float:
        """Return until when this answer is good."""
        self.awaited = False
        return self.sent_at + TRUST_S


class Subscription:
    """Listens from ``start`` to ``end``, through outages."""

    def __init__(
        self, connector: Connector, channel: str, listener: Listener, *, clock: Callable[[], float]
    ) -> None:
        runtime = self._runtime = connector.runtime
        self._connector = connector.without_revival()
        self._channel = channel
        self._listener = listener
        self._clock = clock
        self._connection: Connection | None = None
        self._begun: dict[str, object] = {}
        self._ended = runtime.event()
        self._reason = ""
        self._backoff = Backoff(shortest_s=0.05, longest_s=2.0, chance=runtime.chance)

    @property
    def is_started(self) -> bool:
        return bool(self._begun)

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    def start(self) -> None:
        """Have a thread listen; to be called again where it was interrupted."""
        self._runtime.thread(self._run, name="rqproc-near").start()

    def end(self) -> None:
        """Have the thread end, soon."""
        self._ended.set()
        if connection := self._connection:
            connection.interrupt()

    def forget_parent(self) -> None:
        """In a forked child: there is no thread, and the connection is the parent's."""
        if connection := self._connection:
            connection.close()

    # --- the thread ---

    def _run(self) -> None:
        me = object()
        if self._begun.setdefault("by", me) is not me:
            return  # whoever started this one was interrupted before
        while not self._ended.is_set():
            try:
                self._listen()
            except (ConnectionLost, Refused, RqprocError) as error:
                if not self._ended.is_set():
                    self._tell(str(error))
                    self._ended.wait(self._backoff.next_s())

    def _listen(self) -> None:
        connection = self._connector.connect(timeout_s=TRUST_S)
        self._connection = connection  # whoever ends us from here on interrupts it
        try:
            self._follow(connection)
        finally:
            self._listener.distrust()
            self._connection = None
            connection.close()

    def _follow(self, connection: Connection) -> None:
        poll = self._runtime.poller(connection)
        pulse = self._ping(connection, ("SUBSCRIBE", self._channel))
        while not self._ended.is_set():
            # What has come is looked at first: this thread may have stood still, not the server.
            if poll.wait(max(0.0, pulse.due - self._clock()))[1]:
                connection.receive()
                self._take_in(connection, pulse)
            if self._clock() >= pulse.due:
                if pulse.awaited:
                    raise ConnectionLost(f"no answer to a PING for {TRUST_S:g} s")
                pulse = self._ping(connection)

    def _ping(self, connection: Connection, *first: Command) -> Pulse:
        pulse = Pulse(self._clock())
        connection.send(pack((*first, ("PING",))), timeout_s=TRUST_S)
        return pulse

    def _take_in(self, connection: Connection, pulse: Pulse) -> None:
        while (found := connection.next_reply())[0]:
            kind, *rest = found[1]
            if kind == b"message":
                self._listener.hear(rest[1])
            elif kind == b"pong":
                self._listener.trust(pulse.answered())
            elif kind == b"subscribe":
                self._listener.begin()
                self._is_up()

    # --- what people are told ---

    def _tell(self, reason: str) -> None:
        """Once per reason: attempts follow one another quickly."""
        server, level = self._connector.server, "debug" if reason == self._reason else ""
        text = "%s: nothing is served from the near-cache until the subscription works again: %s"
        tell(
            log, "near_cache_down", text, server, reason, level=level, server=server, error=reason
        )  # fmt: skip
        self._reason = reason

    def _is_up(self) -> None:
        if self._reason:
            server = self._connector.server
            tell(log, "near_cache_back", "%s: the near-cache works again", server, server=server)
        self._reason = ""
        self._backoff.reset()
