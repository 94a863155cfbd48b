"""The rounds: every probe once in each, one after the other, so that a slow minute hits all.

Knows the order of things. Must not know what is measured, nor how it is shown.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from rqproc import __version__
from rqproc.errors import ConfigError, RedisUnavailable
from rqproc.lab.bench.environment import Bench, BenchPlan
from rqproc.lab.bench.rows import Row, Verdict, judge, probes_of
from rqproc.lab.bench.timing import Reading, Readings
from rqproc.lab.servers import private_server
from rqproc.settings import server_url, without_password
from rqproc.transport.sentinel import is_url as is_sentinel

WARM_S = 0.3
PACKAGES = ("redis", "hiredis", "rq")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that takes a while has begun; ``done`` of ``steps`` lie behind it."""

    text: str
    done: int
    steps: int


@dataclass(frozen=True, slots=True)
class Result:
    """All that was found."""

    plan: BenchPlan
    machine: Mapping[str, Any]
    rows: Sequence[Row]
    readings: Readings

    @property
    def busy(self) -> bool:
        """Whether others wanted the cores before anything was measured.

        What needs three processes to be woken suffers more from that than what needs two.
        """
        return bool(self.machine["load"] > 0.5)

    def figure(self, row: Row) -> float | None:
        return row.formula.figure(self.readings)

    def verdict(self, row: Row) -> Verdict:
        return judge(self.figure(row), row.target)


def run_rounds(
    url: str | None, plan: BenchPlan, rows: Sequence[Row]
) -> Generator[Step | Result, None, None]:
    """Measure on a private embedded server or, in namespaces of its own, on ``url``.

    Yields steps, and in the end the result. What was started is ended, however it ends.

    Raises:
        ConfigError: the URL names sentinels (a stock RQ worker, for one, cannot ask them), or no
            server.
        RedisUnavailable, NodeDidNotStart, RivalDidNotAnswer.
    """
    if url and is_sentinel(url):
        raise ConfigError("bench needs the primary's own address: --url redis://HOST:PORT")
    if url:
        yield from _play_on(server_url(url), plan, rows)
        return
    yield Step("starting a server", 0, 0)
    with private_server() as private:
        yield from _play_on(private, plan, rows)


def _play_on(url: str, plan: BenchPlan, rows: Sequence[Row]) -> Iterator[Step | Result]:
    try:
        with Bench(url, plan) as bench:
            facts = _machine(bench.redis)
            readings: dict[str, list[Reading]] = {}
            yield from _measure(bench, rows, readings)
    except redis.RedisError as error:
        raise RedisUnavailable(without_password(url), str(error)) from error
    yield Result(plan, facts, rows, readings)


def _measure(
    bench: Bench, rows: Sequence[Row], readings: dict[str, list[Reading]]
) -> Iterator[Step]:
    """First what others would disturb; then a round to warm up, which does not count."""
    plan, probes = bench.plan, probes_of(rows)
    alone = [probe for probe in probes if probe.alone]
    others = [probe for probe in probes if not probe.alone]
    steps, done = len(alone) + len(others) * (plan.rounds + 1), 0
    for probe in alone:
        yield Step(probe.progress, done, steps)
        readings[probe.name] = [probe.run(bench, plan.seconds)]
        done += 1
    for number in range(plan.rounds + 1):
        for probe in others:
            when = f"round {number} of {plan.rounds}" if number else "warming up"
            yield Step(f"{when}: {probe.progress}", done, steps)
            reading = probe.run(bench, plan.seconds if number else min(WARM_S, plan.seconds))
            if number:
                readings.setdefault(probe.name, []).append(reading)
            done += 1


def _machine(client: redis.Redis) -> dict[str, Any]:
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
