"""How long one caller waits, one request at a time: for a node, for its own process, for a
command.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from secrets import token_hex

from rqproc.calls.call import plain
from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.lab.bench import rivals, timing
from rqproc.lab.bench.environment import Bench, main_nodes, members
from rqproc.lab.bench.rivals import forget_jobs
from rqproc.lab.bench.timing import Probe, Reading
from rqproc.lab.bench.work import FRESH, KEPT, TOLD, declare
from rqproc.lab.processes import OwnCluster, swept
from rqproc.lab.usage import cpu_s
from rqproc.protocol.commands import Commands
from rqproc.protocol.messages import Sent

IDS = 64


@dataclass(frozen=True, slots=True)
class WarmNodes:
    """Nodes that keep the values of some ids, and calls that ask for these in turn."""

    cluster: OwnCluster
    hit: rivals.Ask
    miss: rivals.Ask
    told: rivals.Ask


@contextmanager
def warm_nodes(bench: Bench) -> Iterator[WarmNodes]:
    cluster = bench.have(main_nodes)
    client, ids = cluster.client, count()
    client.request_many(range(IDS), KEPT)
    yield WarmNodes(
        cluster,
        lambda: client.request(next(ids) % IDS, KEPT),
        lambda: client.request(next(ids) % IDS, FRESH),
        lambda: client.request(next(ids) % IDS, TOLD, args=(5,)),
    )


def _with_cost(bench: Bench, ask: rivals.Ask, pid: int, seconds: float) -> Reading:
    """Return the latency of calls and, for each, the processor time of caller, server and
    answerer.
    """
    before, began, calls = _spent(bench, pid), time.process_time(), count()

    def counted() -> None:
        next(calls)
        ask()

    reading = dict(timing.latency(counted, seconds=seconds))
    times, caller_s = next(calls), time.process_time() - began
    after = _spent(bench, pid)
    reading["caller_s"] = caller_s / times
    for name in before.keys() & after.keys():
        reading[name] = (after[name] - before[name]) / times
    return reading


def _spent(bench: Bench, pid: int) -> dict[str, float]:
    """The processor time of the server and of a process so far."""
    found = bench.redis.info("cpu")
    spent = {"server_s": float(found["used_cpu_user"]) + float(found["used_cpu_sys"])}
    answerer_s = cpu_s(pid)
    return spent if answerer_s is None else {**spent, "answerer_s": answerer_s}


def _pair(bench: Bench, seconds: float) -> Reading:
    pair = bench.have(rivals.raw_pair)
    return _with_cost(bench, pair.ask, pair.pid, seconds)


def _hit(bench: Bench, seconds: float) -> Reading:
    asking = bench.have(warm_nodes)
    return _with_cost(bench, asking.hit, asking.cluster.nodes[0].pid, seconds)


def _waiting(ask: Callable[[Bench], rivals.Ask]) -> Callable[[Bench, float], Reading]:
    """What measures the latency of calls alone."""
    return lambda bench, seconds: timing.latency(ask(bench), seconds=seconds)


PAIR = Probe("pair", "a raw LPUSH/BLPOP pair there and back", _pair, rival="raw")
HIT = Probe("hit", "hits, one caller", _hit)
MISS = Probe("miss", "misses, one caller", _waiting(lambda bench: bench.have(warm_nodes).miss))
CALL = Probe(
    "call",
    "calls with an argument, one caller",
    _waiting(lambda bench: bench.have(warm_nodes).told),
)
STOCK = Probe(
    "stock-rq",
    "stock RQ SimpleWorker, one caller",
    _waiting(lambda bench: bench.have(rivals.stock_rq)),
    rival="rq",
)


def _near(bench: Bench, seconds: float) -> Reading:
    cluster = bench.have(warm_nodes).cluster
    with Client(cluster.url, namespace=cluster.client.namespace, near=1000) as client:
        return {"call_s": timing.per_call(partial(client.request, 1, KEPT), seconds=seconds)}


def _get(bench: Bench, seconds: float) -> Reading:
    return {"call_s": timing.per_call(bench.have(rivals.redis_get), seconds=seconds)}


def _embedded(bench: Bench, seconds: float) -> Reading:
    app = declare(bench.url, namespace=f"bench-{token_hex(4)}")
    with app.client, swept(app.client, bench.url), app.node(name="bench"):
        app.client.request(1, KEPT)
        call = partial(app.client.request, 1, KEPT)
        return {"call_s": timing.per_call(call, seconds=seconds)}


NEAR = Probe("near", "near-cache hits", _near)
GET = Probe("redis-get", "GETs of redis-py", _get, rival="redis-get")
EMBEDDED = Probe("embedded", "hits of a node in this process", _embedded)


CROWD = 500
BATCH = 200


class Router:
    """Routes requests, one a call, to members that answer nobody."""

    def __init__(self, bench: Bench, client: Client, size: int) -> None:
        self._bench = bench
        self._commands = Commands(client.keys)
        self._queues = [client.keys.queue(f"m{number}") for number in range(size)]
        self._ids = count()

    def measure(self, seconds: float) -> Reading:
        """Return the server's own time for a call: the way there would hide the difference."""
        end = time.perf_counter() + seconds
        times: list[float] = []
        while time.perf_counter() < end or not times:
            times.append(self._batch())
        return {"function_s": statistics.median(times)}

    def _batch(self) -> float:
        calls = [_call(number) for number in islice(self._ids, BATCH)]
        us, count = self._spent()
        for call in calls:
            self._bench.say(self._commands.route((call,), timeout_s=10.0))
        now_us, now_count = self._spent()
        forget_jobs(self._bench, [call.id for call in calls], *self._queues)
        return (now_us - us) / (now_count - count) / 1e6

    def _spent(self) -> tuple[int, int]:
        """The server's microseconds in functions, and their calls, so far."""
        found = self._bench.redis.info("commandstats")["cmdstat_fcall"]
        return found["usec"], found["calls"]


def _call(number: int) -> Sent:
    _, address, data = plain(KEPT, number)
    return Sent(f"r0-c{number:x}-{address}", address, data)


@contextmanager
def _alone(bench: Bench) -> Iterator[Router]:
    with members(bench, 1) as client:
        yield Router(bench, client, 1)


@contextmanager
def _crowd(bench: Bench) -> Iterator[Router]:
    with members(bench, CROWD) as client:
        yield Router(bench, client, CROWD)


ALONE = Probe("route-1", "route with one member", lambda bench, s: bench.have(_alone).measure(s))
MANY = Probe(
    "route-500", f"route with {CROWD} members", lambda bench, s: bench.have(_crowd).measure(s)
)


COMMAND = (sys.executable, "-m", "rqproc", "request", "1")
IMPORTS = (sys.executable, "-c", "import redis, rq, click")
FEWEST = 3


class CommandFailed(RqprocError):
    """A command that was to be timed ended with an error; the message has what it said."""


def _command(bench: Bench, seconds: float) -> Reading:
    """``rqproc request 1``, and the imports that anyone needs with a request of this process."""
    cluster = bench.have(warm_nodes).cluster
    environ = {
        **os.environ,
        "RQPROC_REDIS_URL": cluster.url,
        "RQPROC_NAMESPACE": cluster.client.namespace,
    }
    commands: list[float] = []
    floors: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(commands) < FEWEST:
        commands.append(_run(COMMAND, environ))
        imports_s = _run(IMPORTS, environ)
        began = time.perf_counter()
        cluster.client.request(1)
        floors.append(imports_s + time.perf_counter() - began)
    return {"command_s": statistics.median(commands), "floor_s": statistics.median(floors)}


def _run(command: Sequence[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own command lines
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    took_s = time.perf_counter() - began
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)} failed: {done.stderr.decode().strip()}")
    return took_s


COMMANDS = Probe("command", "rqproc request 1 as a whole process", _command)
