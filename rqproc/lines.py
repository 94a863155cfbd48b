"""Single functions, run by any thread: a stack of idle links.

Knows how to carry out one command. Requests, which wait for answers, share one connection instead:
see ``calls.threads``.

Each thread takes a link off the stack for one packet and puts it back: there are as many links as
there are packets under way at once. A forked child starts with an empty stack.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from rqproc.calls.retry import OUTAGE_S, Patience
from rqproc.protocol.commands import Commands
from rqproc.settings import EMBEDDED, server_url
from rqproc.transport.connection import CONNECT_TIMEOUT_S, Command, Dial, Link, LinkLost, Refused

if TYPE_CHECKING:
    import redis

    from rqproc.embedded import Embedded

MAX_IDLE_LINKS = 64


def dial(url: str | redis.Redis | None) -> Dial:
    """Return the way to a server, starting the embedded one where no other is named.

    Raises:
        ConfigError: an unreadable URL, or ``local://``.
        EmbeddedUnavailable: no URL is set and the embedded server cannot run here.
    """
    if url is not None and not isinstance(url, str):
        return Dial.like(url)
    found = server_url(url)
    if found == EMBEDDED:
        embedded = _embedded()
        return Dial(embedded.ensure(), revive=embedded.ensure)
    return Dial(found)


@cache
def _embedded() -> Embedded:
    """One for the process: each counts as a user of the server until it is released."""
    from rqproc.embedded import Embedded

    return Embedded()


class Lines:
    """Links to one server, for any number of threads."""

    def __init__(self, dial: Dial) -> None:
        self.dial = dial
        self._ground = dial.ground
        self._idle: deque[Link] = deque()
        _ALL.add(self)

    @property
    def server(self) -> str:
        return self.dial.server

    @cached_property
    def redis(self) -> redis.Redis:
        """An ordinary redis-py client of the same server, made at its first use."""
        return self.dial.client()

    def close(self) -> None:
        """Close all idle links."""
        while self._idle:
            self._idle.pop().close()

    def run(self, commands: Commands, command: Command) -> Any:
        """Run one idempotent function, through a short outage if need be; return its reply.

        Raises:
            RedisUnavailable: not reachable, or it refuses the command.
        """
        patience = Patience(self.server, self._ground.monotonic, chance=self._ground.chance)
        packet: tuple[Command, ...] = (command,)
        while True:
            try:
                return self.exchange(packet, within_s=OUTAGE_S)[-1]
            except (LinkLost, Refused) as error:
                pause = patience.after(error)
                unknown = isinstance(error, Refused) and error.code == "NOFUNCTION"
                packet = (commands.load, command) if unknown else (command,)
                self._ground.sleep(pause.seconds)

    def exchange(self, commands: Sequence[Command], *, within_s: float) -> list[Any]:
        """Send commands in one packet; return their replies. Raises: LinkLost, Refused."""
        link = self._take(within_s)
        try:
            replies: list[Any] = link.exchange(commands, timeout_s=within_s)
        except BaseException as error:
            link.close()  # a reply may still be on its way
            if isinstance(error, LinkLost) or (isinstance(error, Refused) and error.moved):
                self.close()  # the server has gone, and the idle links with it
            raise
        self._keep(link)
        return replies

    def _take(self, within_s: float) -> Link:
        try:
            return self._idle.pop()
        except IndexError:
            return self.dial.connect(timeout_s=min(CONNECT_TIMEOUT_S, within_s))

    def _keep(self, link: Link) -> None:
        if len(self._idle) < MAX_IDLE_LINKS:
            self._idle.append(link)
        else:
            link.close()

    def forget_parent(self) -> None:
        """In a forked child: the sockets are the parent's."""
        self._idle = deque()


_ALL: weakref.WeakSet[Lines] = weakref.WeakSet()


def _after_fork() -> None:
    for lines in _ALL:
        lines.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
