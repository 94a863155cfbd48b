"""The run: build the setup, let callers ask, strike until time is over, and judge.

Yields what happens; the command line shows it. Everything is cleaned up when the iteration ends,
however it ends.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from rqproc.lab.processes import Activity
from rqproc.lab.torture import soak
from rqproc.lab.torture.app import LIMIT_S, STALE_S, TTL_S
from rqproc.lab.torture.choices import IN_LANE, LANE, RENEWED
from rqproc.lab.torture.figures import Figures, figures
from rqproc.lab.torture.history import Violation, check
from rqproc.lab.torture.load import Load
from rqproc.lab.torture.nemesis import Nemesis
from rqproc.lab.torture.records import Fault, Kind, Limit, TortureHistory
from rqproc.lab.torture.schedule import KINDS, schedule
from rqproc.lab.torture.setup import Setup, setup
from rqproc.placement import Placement
from rqproc.protocol.keys import RQ_PREFIX

APP = "rqproc.lab.torture.app:app"
WARM_S = 5.0
"""Until a soak looks for the first time, at the least: threads and buffers are there by then."""
WARM_PART = 0.2
TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class TorturePlan:
    """What to do. The lease is short so that much happens.

    Attributes:
        rounds: how often each kind has its turn at least, however long that takes.
    """

    seconds: float = 60.0
    rounds: int = 0
    nodes: int = 4
    seed: int = 0
    kinds: tuple[Kind, ...] = KINDS
    app: str = APP
    lease_s: float = 1.2
    heartbeat_s: float = 0.25
    placement: Placement = "modulo"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it; ``growths`` only of a run without faults."""

    plan: TorturePlan
    history: TortureHistory
    violations: tuple[Violation, ...]
    figures: Figures
    growths: tuple[soak.Growth, ...]


def run_campaign(plan: TorturePlan) -> Generator[Activity | Verdict, None, None]:
    """Torture a cluster; yields what is being done, and the verdict at last.

    Raises:
        EmbeddedUnavailable, NodeDidNotStart.
    """
    with ExitStack() as stack:
        yield Activity(f"seed {plan.seed}: starting a server, a proxy and {plan.nodes} nodes")
        place = stack.enter_context(
            setup(
                size=plan.nodes,
                seed=plan.seed,
                lease_s=plan.lease_s,
                heartbeat_s=plan.heartbeat_s,
                app=plan.app,
                placement=plan.placement,
            )
        )
        place.nodes.start_all()
        load = stack.enter_context(
            Load(
                place.client,
                place.url("async"),
                place.ledger,
                seed=plan.seed,
                longest_s=2 * plan.lease_s,
            )
        )
        faults: list[Fault] = []
        growths: list[soak.Growth] = []
        yield from _strike(plan, place, faults) if plan.kinds else _soak(plan, place, growths)
        yield Activity("no more requests; the last answers")
        load.finish()
        place.await_runs()
        yield Activity("draining every node")
        place.nodes.drain_all()
        history = _history(plan, place, faults)
        yield Activity(f"judging {len(history.asks)} requests and {len(history.runs)} runs")
        violations = tuple(check(history) + [_grows(g) for g in growths if not g.flat])
        yield Verdict(plan, history, violations, figures(history), tuple(growths))


def _strike(plan: TorturePlan, place: Setup, faults: list[Fault]) -> Iterator[Activity]:
    chance = random.Random(plan.seed)  # noqa: S311
    nemesis = Nemesis(place, chance)
    planned = schedule(plan.kinds, random.Random(f"{plan.seed}/planned"))  # noqa: S311
    place.recover()
    began, left = time.monotonic(), plan.rounds * len(plan.kinds)
    while (passed_s := time.monotonic() - began) < plan.seconds or left > 0:
        left -= 1
        for activity in nemesis.strike(next(planned)):
            yield Activity(
                f"{passed_s:.0f} of {plan.seconds:g} s, {_counted(place)}: {activity.text}"
            )
    faults += nemesis.faults


def _soak(plan: TorturePlan, place: Setup, growths: list[soak.Growth]) -> Iterator[Activity]:
    pids = {node.name: node.pid for node in place.nodes.nodes} | {"server": place.server.pid}
    place.recover()
    warm_s = min(max(WARM_S, WARM_PART * plan.seconds), plan.seconds / 2)
    began = time.monotonic()
    yield from _wait(plan, place, until=began + warm_s)
    start = soak.sample(pids)
    yield from _wait(plan, place, until=began + plan.seconds)
    growths += soak.growths(start, soak.sample(pids))


def _wait(plan: TorturePlan, place: Setup, *, until: float) -> Iterator[Activity]:
    while (left_s := until - time.monotonic()) > 0:
        yield Activity(f"no faults, {_counted(place)}; {left_s:.0f} s to the next look")
        time.sleep(min(TICK_S, left_s))


def _counted(place: Setup) -> str:
    return f"{place.ledger.counts().total()} requests"


def _history(plan: TorturePlan, place: Setup, faults: list[Fault]) -> TortureHistory:
    told = place.run_log.told()
    return TortureHistory(
        lease_s=plan.lease_s,
        ttl_s=TTL_S,
        strict=True,
        stale_s={RENEWED: STALE_S},
        lanes=dict.fromkeys(IN_LANE, LANE),
        limits={"limited": Limit(LIMIT_S), "alimited": Limit(LIMIT_S, cancels=True)},
        runs=told.runs,
        asks=(*place.ledger.all(), *told.asks),
        stops=place.nodes.stops(),
        deaths=place.nodes.deaths(),
        faults=tuple(faults),
        left_keys=tuple(_left_keys(place)),
        left_pids=tuple(place.left_processes()),
    )


def _left_keys(place: Setup) -> list[str]:
    """Return the keys that neither expire nor are meant to outlast the nodes."""
    keys = place.client.keys
    lasting = {
        f"{keys.state}{name}" for name in ("epoch", "token", "pulse", "server", "leases", "flushed")
    }
    lasting |= {f"{RQ_PREFIX}:{name}" for name in ("queues", f"finished:{keys.ingress}")}
    lasting.add(f"{RQ_PREFIX}:failed:{keys.ingress}")
    states = keys.kept_state("")
    return sorted(
        name
        for name, expires in place.server.names()
        if not (expires or name in lasting or name.startswith(states))
    )


def _grows(growth: soak.Growth) -> Violation:
    return Violation("flat", f"{growth.name} grows: {growth.start} to {growth.end}", ())
