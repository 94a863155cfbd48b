"""What probes share: the server, clusters in namespaces of their own, and the machine.

Knows the plan, and that whatever was started is ended. Must not know what is measured.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, Self, TypeVar, get_args

import redis

from rqproc import __version__
from rqproc.client import Client
from rqproc.lab.processes import NodeProcess, swept
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Limits
from rqproc.transport.connection import Command

T = TypeVar("T")

Rival = Literal["raw", "rq", "redis-get"]
RIVALS: tuple[Rival, ...] = get_args(Rival)


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

    def have(self, make: Callable[[Bench], AbstractContextManager[T]]) -> T:
        """Return what ``make`` makes: once, and for as long as this bench is there."""
        if make not in self._made:
            self._made[make] = self._stack.enter_context(make(self))
        found: T = self._made[make]
        return found


ENOUGH_S = 3600.0
LIMITS = Limits(queue=1_000_000, waiters=1_000_000, lanes=1)


@dataclass(frozen=True, slots=True)
class BenchNodes:
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
def nodes(url: str, count: int = 1, *options: str) -> Iterator[BenchNodes]:
    """So many nodes that serve what is measured."""
    arguments = ("--log-level", "warning", *options, "rqproc.lab.bench.work:app")
    with _namespace(url) as (client, pids), ExitStack() as stack:
        started = []
        for number in range(1, count + 1):
            node = NodeProcess(f"bench-{number}", url, client.namespace, arguments)
            pids[node.name] = node.pid
            started.append(stack.enter_context(node))
        for node in started:
            node.wait_ready()
        yield BenchNodes(url, client, tuple(started))
        for node in started:
            node.stop()


@contextmanager
def main_nodes(bench: Bench) -> Iterator[BenchNodes]:
    """The nodes that are asked where a row does not say otherwise."""
    with nodes(bench.url, bench.plan.nodes, "--concurrency", "64") as found:
        yield found


@contextmanager
def members(bench: Bench, count: int) -> Iterator[Client]:
    """So many members without processes, which hold leases and answer nobody."""
    with _namespace(bench.url) as (client, pids):
        commands = Commands(client.keys)
        bench.say(commands.load)
        for number in range(count):
            name = f"m{number}"
            join = commands.join(
                name, lease_s=ENOUGH_S, nonce=name, limits=LIMITS, pid=os.getpid(),
                host=socket.gethostname(), versions=("", ""),
            )  # fmt: skip
            pids[name] = os.getpid()
            commands.read_join(name, bench.say(join))
        yield client


@contextmanager
def _namespace(url: str) -> Iterator[tuple[Client, dict[str, int]]]:
    """A namespace, and the nodes' process ids, to be filled in, for those who sweep it."""
    with Client(url, namespace=f"bench-{token_hex(4)}") as client, swept(client, url) as pids:
        yield client, pids


def rss_bytes(pid: int) -> int | None:
    """Return the memory that a process has at this moment."""
    fields = _read(pid, "statm")
    return int(fields.split()[1]) * os.sysconf("SC_PAGE_SIZE") if fields else None


def cpu_s(pid: int) -> float | None:
    """Return the processor time that a process has used so far, in all its threads: to the
    nanosecond where the kernel counts so, of those that still run, else in its ticks.
    """
    running_ns = [_read(pid, f"task/{task}/schedstat") for task in _tasks(pid)]
    if running_ns and all(running_ns):
        return sum(int(found.split()[0]) for found in running_ns if found) / 1e9
    fields = _read(pid, "stat")
    if fields is None:
        return None
    user, system = fields.rpartition(")")[2].split()[11:13]  # the name before may have spaces
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _tasks(pid: int) -> list[str]:
    try:
        return [task.name for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def _read(pid: int, name: str) -> str | None:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return None


PACKAGES = ("redis", "hiredis", "rq")


def machine(client: redis.Redis) -> dict[str, Any]:
    """Return what a reader needs to know of this machine and of the server.

    ``load`` is how many programs wanted a core in the last minute, on average.
    """
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "server": _server(client),
        "python": platform.python_version(),
        "rqproc": __version__,
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _server(client: redis.Redis) -> str:
    """Its name and version, and the way there: a unix socket is faster than TCP."""
    found = client.info("server")
    name = str(found.get("server_name", "redis"))
    way = "unix socket" if "path" in client.connection_pool.connection_kwargs else "TCP"
    return f"{name} {found.get(f'{name}_version', found['redis_version'])} over {way}"
