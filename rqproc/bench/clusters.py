"""Clusters in namespaces of their own, of which nothing stays on the server.

Knows nodes as processes, and members that are names alone. Must not know what is asked of them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from secrets import token_hex

from rqproc.bench.ground import Ground
from rqproc.client import Client
from rqproc.protocol.commands import Commands, Limits
from rqproc.stage import NodeProcess, swept

ENOUGH_S = 3600.0
LIMITS = Limits(queue=1_000_000, waiters=1_000_000, lanes=1)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Running nodes, and a client of their namespace."""

    url: str
    client: Client
    nodes: tuple[NodeProcess, ...]

    @property
    def namespace(self) -> str:
        return self.client.namespace

    @property
    def pid(self) -> int:
        """The first node's."""
        return self.nodes[0].pid


@contextmanager
def nodes(url: str, count: int = 1, *options: str) -> Iterator[Nodes]:
    """So many nodes that serve what is measured."""
    arguments = ("--log-level", "warning", *options, "rqproc.bench.work:app")
    with _namespace(url) as (client, pids), ExitStack() as stack:
        started = []
        for number in range(1, count + 1):
            node = NodeProcess(f"bench-{number}", url, client.namespace, arguments)
            pids[node.name] = node.pid
            started.append(stack.enter_context(node))
        for node in started:
            node.wait_ready()
        yield Nodes(url, client, tuple(started))
        for node in started:
            node.stop()


@contextmanager
def main_nodes(ground: Ground) -> Iterator[Nodes]:
    """The nodes that are asked where a row does not say otherwise."""
    with nodes(ground.url, ground.plan.nodes, "--concurrency", "64") as found:
        yield found


@contextmanager
def members(ground: Ground, count: int) -> Iterator[Client]:
    """So many members without processes, which hold leases and answer nobody."""
    with _namespace(ground.url) as (client, pids):
        commands = Commands(client.keys)
        ground.say(commands.load)
        for number in range(count):
            name = f"m{number}"
            join = commands.join(
                name, lease_s=ENOUGH_S, nonce=name, limits=LIMITS, pid=os.getpid(),
                host=socket.gethostname(), versions=("", ""),
            )  # fmt: skip
            pids[name] = os.getpid()
            commands.read_join(name, ground.say(join))
        yield client


@contextmanager
def _namespace(url: str) -> Iterator[tuple[Client, dict[str, int]]]:
    """A namespace, and the nodes' process ids, to be filled in, for those who sweep it."""
    with Client(url, namespace=f"bench-{token_hex(4)}") as client, swept(client, url) as pids:
        yield client, pids
