"""What probes share: the server, and clusters in namespaces of their own.

Knows the plan, and that whatever was started is ended. Must not know what is measured.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeVar, get_args

import redis

from rqproc.client import Client
from rqproc.lab.processes import OwnCluster, own_cluster
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Limits
from rqproc.transport.connection import Command

T = TypeVar("T")

Rival = Literal["raw", "rq", "redis-get"]
RIVALS: tuple[Rival, ...] = get_args(Rival)

REPLY_WITHIN_S = 60.0
"""Longer than a rival's answer is waited for; redis-py's own 5 s, with retries, end such a wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
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

    def with_millions(self) -> BenchPlan:
        """Return this plan with the quantities that the targets name; they take minutes."""
        return replace(self, entries=1_000_000, requests=1_000_000, settle_s=60.0)


class Bench:
    """A server, and everything that was started on it; a context that ends it all.

    Raises:
        RedisUnavailable: on entering it, where there is no server.
    """

    def __init__(self, url: str, plan: BenchPlan) -> None:
        self.url = url
        self.plan = plan
        self._stack = ExitStack()
        self._made: dict[object, Any] = {}
        self.redis = redis.Redis.from_url(url, socket_timeout=REPLY_WITHIN_S)

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

    def have(self, make: Callable[[Bench], AbstractContextManager[T]]) -> T:
        """Return what ``make`` makes: once, and for as long as this bench is there."""
        if make not in self._made:
            self._made[make] = self._stack.enter_context(make(self))
        found: T = self._made[make]
        return found


ENOUGH_S = 3600.0
LIMITS = Limits(queue=1_000_000, waiters=1_000_000, lanes=1)


@contextmanager
def nodes(url: str, count: int = 1, *options: str) -> Iterator[OwnCluster]:
    """So many nodes that serve what is measured."""
    with own_cluster(url, "bench") as cluster:
        names = [f"bench-{number}" for number in range(1, count + 1)]
        cluster.start(names, "--log-level", "warning", *options, "rqproc.lab.bench.work:app")
        yield cluster
        for node in cluster.nodes:
            node.stop()


@contextmanager
def main_nodes(bench: Bench) -> Iterator[OwnCluster]:
    """The nodes that are asked where a row does not say otherwise."""
    with nodes(bench.url, bench.plan.nodes, "--concurrency", "64") as found:
        yield found


@contextmanager
def members(bench: Bench, count: int) -> Iterator[Client]:
    """So many members without processes, which hold leases and answer nobody."""
    with own_cluster(bench.url, "bench") as cluster:
        commands = Commands(cluster.client.keys)
        bench.say(commands.load)
        for number in range(count):
            name = f"m{number}"
            join = commands.join(
                name, lease_s=ENOUGH_S, nonce=name, limits=LIMITS, pid=os.getpid(),
                host=socket.gethostname(), versions=("", ""),
            )  # fmt: skip
            cluster.pids[name] = os.getpid()
            commands.read_join(name, bench.say(join))
        yield cluster.client
