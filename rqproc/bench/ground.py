"""What probes stand on: the server, and what several of them need, made at its first use.

Knows the plan, and that whatever was started is ended. Must not know what is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeVar, get_args

import redis

from rqproc.client import Client
from rqproc.transport.connection import Command

T = TypeVar("T")

Rival = Literal["raw", "rq", "redis-get"]
RIVALS: tuple[Rival, ...] = get_args(Rival)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        seconds: that a probe takes in a round.
        callers: threads that ask side by side.
        nodes: that the ids are spread on, where a row does not say otherwise.
        entries: that a node with very many of them has.
        requests: after which the server is to be as large as before.
        settle_s: seconds that it has to forget them.
    """

    seconds: float = 1.0
    rounds: int = 5
    callers: int = 64
    nodes: int = 1
    entries: int = 100_000
    requests: int = 50_000
    settle_s: float = 5.0

    def with_millions(self) -> Plan:
        """Return this plan with the quantities that the targets name; they take minutes."""
        return replace(self, entries=1_000_000, requests=1_000_000, settle_s=60.0)


class Ground:
    """A server, and everything that was started on it; a context that ends it all.

    Raises:
        RedisUnavailable: on entering it, where there is no server.
    """

    def __init__(self, url: str, plan: Plan) -> None:
        self.url = url
        self.plan = plan
        self._stack = ExitStack()
        self._made: dict[object, Any] = {}
        self.redis = redis.Redis.from_url(url)

    def __enter__(self) -> Self:
        with Client(self.url, namespace="bench") as client:
            client.members()  # says it in our words if there is no server
        return self

    def __exit__(self, *exc: Any) -> None:
        try:
            self._stack.__exit__(*exc)
        finally:
            self.redis.close()

    def say(self, command: Command) -> Any:
        """Send a function's call, as ``Commands`` makes it; return the reply."""
        return self.redis.execute_command(*command)  # type: ignore[no-untyped-call]

    def have(self, make: Callable[[Ground], AbstractContextManager[T]]) -> T:
        """Return what ``make`` makes: once, and for as long as this ground is there."""
        if make not in self._made:
            self._made[make] = self._stack.enter_context(make(self))
        found: T = self._made[make]
        return found
