"""The whole story, told by a real cluster: three nodes, six ids, a ttl that passes, a kill -9.

Knows the client, and nodes as processes. Yields what happens; the command line shows it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass

from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.ids import Id
from rqproc.lab.processes import Activity, own_cluster
from rqproc.lab.servers import private_server
from rqproc.model import Reply
from rqproc.sample import TTL_S
from rqproc.settings import server_url

IDS = (1, 2, 3, 4, 5, 6)
NODES = ("n1", "n2", "n3")
VICTIM = "n2"
LEASE_S = 2.0
BRISK = ("--lease", str(LEASE_S), "--heartbeat", "0.5", "--log-level", "warning")
"""A shorter lease than the default, so that nobody waits long for the end of the story."""

FIRST_OF_OTHERS = 100
OTHERS_S = 0.01
"""Others ask for other ids than the story tells of, so often."""

Outcomes = Mapping[Id, Reply | RqprocError]


@dataclass(frozen=True, slots=True)
class Round:
    """All ids were asked once."""

    title: str
    members: tuple[str, ...]
    outcomes: Outcomes
    took_s: float


@dataclass(frozen=True, slots=True)
class Stays:
    """The story is over, and its cluster stays until the iteration is closed."""


Show = Callable[[Client], AbstractContextManager[object]]


def run_demo(url: str | None, *, show: Show | None = None) -> Generator[Activity | Round | Stays]:
    """Run the story, on a private embedded server or, in a namespace of its own, on ``url``.

    Args:
        show: shows the cluster, from its nodes' start on. Then others ask too, and in the end the
            node that was killed is started again, and all of it stays.

    Everything is cleaned up when the iteration ends, however it ends.

    Raises:
        EmbeddedUnavailable, RedisUnavailable, NodeDidNotStart; ConfigError: ``url`` is no server.
    """
    given = server_url(url) if url else ""
    with ExitStack() as stack:
        yield Activity("starting a server and three nodes, each a process")
        where = given or stack.enter_context(private_server())
        cluster = stack.enter_context(own_cluster(where, "demo"))
        client = cluster.client
        cluster.start(NODES, *BRISK)
        if show:
            stack.enter_context(show(client))
            stack.enter_context(_others(client))
        yield _ask(client, "first")
        yield _ask(client, "again")
        yield Activity(f"waiting {TTL_S:g} s: the values expire")
        time.sleep(TTL_S + 0.2)
        yield _ask(client, f"after {TTL_S:g} s")
        cluster.nodes[NODES.index(VICTIM)].kill()
        yield Activity(f"{VICTIM} was killed with -9; its lease of {LEASE_S:g} s has to run out")
        yield _ask(client, f"{VICTIM} killed")
        yield _ask(client, "once more")
        if show:
            yield Activity(f"{VICTIM} is started again")
            cluster.start((VICTIM,), *BRISK)
            yield Stays()


@contextmanager
def _others(client: Client) -> Iterator[None]:
    """Have others ask all the time, for some ids more often than for others."""
    over = threading.Event()

    def ask() -> None:
        number = 0
        while not over.wait(OTHERS_S):
            number += 1
            with suppress(RqprocError):
                client.request(FIRST_OF_OTHERS + number * number % 61)

    thread = threading.Thread(target=ask, name="rqproc-demo-others")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _ask(client: Client, title: str) -> Round:
    began = time.monotonic()
    outcomes = client.reply_many(IDS)
    return Round(title, client.members(), outcomes, time.monotonic() - began)
