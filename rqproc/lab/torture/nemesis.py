"""Does the harm, undoes it, and waits until the cluster has recovered; all of it is written down.

Knows the setup: nodes, server and proxy. Must not know who asks for what, nor judge.

Each kind is a context: it harms on entry and heals on exit. What lies between is its length,
counted in leases: a short one must go unnoticed by the lease, a long one must not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

from rqproc.lab.processes import Activity
from rqproc.lab.proxy import CLEAR, ConnectionState, Way
from rqproc.lab.torture.nodes import TorturedNode
from rqproc.lab.torture.records import Fault, Kind
from rqproc.lab.torture.repeated_kills import RepeatedKills
from rqproc.lab.torture.schedule import PlannedFault
from rqproc.lab.torture.setup import Setup

SHORT, LONG = 0.35, 1.3
"""Lengths of a planned fault, in leases."""
LATE_S = (0.05, 0.2)
"""How late chunks are: briefly, and for longer than heartbeats."""
CUTS = 0.3
REST_S = (0.0, 0.3)
"""Between two planned faults, so that callers who pause before they try again find the server
once."""


class Nemesis:
    """Strikes a setup, by the dice of a seed."""

    def __init__(self, setup: Setup, chance: random.Random) -> None:
        self._setup = setup
        self._chance = chance
        self._touched: set[int] = set()
        self._drained: list[TorturedNode] = []
        self._hunting = RepeatedKills(setup)
        self._alone = True
        self._healed: list[Fault] = []
        self.faults: list[Fault] = []
        self._kinds: dict[Kind, Callable[[bool], AbstractContextManager[Fault]]] = {
            "kill": self._kill,
            "pause": self._pause,
            "drain": self._drain,
            "join": self._join,
            "restart": self._restart,
            "wipe": self._wipe,
            "stall": self._stall,
            "delay": self._delay,
            "drop": self._drop,
            "half-close": self._half_close,
            "mute": self._mute,
        }

    def strike(self, planned: PlannedFault) -> Iterator[Activity]:
        """Strike once, heal, and wait for the recovery; yields what is being done."""
        self._touched.clear()
        self._alone = planned.second is None
        with ExitStack() as stack:
            first = stack.enter_context(self._wound(planned.kind, planned.long))
            yield Activity(f"{planned.kind} {first.target} {first.detail}".rstrip())
            if planned.second:
                second = stack.enter_context(self._wound(planned.second, planned.long))
                yield Activity(f"... and {planned.second} {second.target}")
            if planned.kind not in ("kill", "drain", "join", "half-close", "wipe"):
                time.sleep(self._setup.lease_s * (LONG if planned.long else SHORT))
        while self._drained:
            self._drained.pop().ends()
        recovered = self._setup.recover()
        time.sleep(self._chance.uniform(*REST_S))
        while self._healed:
            self.faults.append(replace(self._healed.pop(), recovered=recovered))

    @contextmanager
    def _wound(self, kind: Kind, long: bool) -> Iterator[Fault]:
        before = self._setup.nodes.alive
        with self._kinds[kind](long) as fault:
            total = not any(b.alive and b.pid not in self._touched for b in before)
            yield fault
        healed = replace(fault, healed=time.monotonic(), alone=self._alone, total=total)
        self._healed.append(healed)

    # --- nodes ---

    def _kill(self, long: bool) -> AbstractContextManager[Fault]:
        """Kill one with -9; now and then all, or all who run a certain request."""
        many = long and self._alone
        (how,) = self._chance.choices((self._kill_one, self._kill_all, self._hunt), (3, 2, 2))
        return how() if many else self._kill_one()

    @contextmanager
    def _kill_one(self) -> Iterator[Fault]:
        """A successor of its name may come at once, and the cluster may be told."""
        victim = self._victim()
        owned = self._setup.owned_by(victim.name) if self._alone else ()
        told, follows = self._alone and self._chance.random() < 0.4, self._chance.random() < 0.5
        began = time.monotonic()
        victim.kill()
        if told:
            self._setup.tell_of(victim)
        if follows:
            self._setup.nodes.start(victim.name)
        notes = ("the cluster is told" if told else "", "an heir at once" if follows else "")
        detail = ", ".join(filter(None, notes))
        yield Fault(
            "kill", victim.name, began, detail=detail, pids=(victim.pid,), owned=owned, told=told
        )

    @contextmanager
    def _kill_all(self) -> Iterator[Fault]:
        victims, tells = self._setup.nodes.alive, self._chance.random() < 0.4
        began = time.monotonic()
        for victim in victims:  # all before any is told: else one request would lose them all
            victim.kill()
        for victim in victims if tells else ():
            self._setup.tell_of(victim)
        yield Fault("kill", _names(victims), began, detail="all of them", pids=_pids(victims))

    @contextmanager
    def _hunt(self) -> Iterator[Fault]:
        began = time.monotonic()
        victims = self._hunting.run()
        yield Fault(
            "kill", _names(victims), began, detail="whoever ran one request", pids=_pids(victims)
        )

    @contextmanager
    def _pause(self, long: bool) -> Iterator[Fault]:
        victim = self._victim()
        began = time.monotonic()
        victim.pause()
        try:
            yield Fault("pause", victim.name, began, detail=_length(long), pids=(victim.pid,))
        finally:
            victim.go_on()

    @contextmanager
    def _drain(self, long: bool) -> Iterator[Fault]:
        """By a signal, or from afar as ``rqproc node drain`` does; never the last one."""
        victim, afar = self._victim(), self._chance.random() < 0.5 and self._alone
        if len(self._setup.nodes.alive) < 2:
            self._setup.nodes.start()
            if self._alone:
                self._setup.recover()
        began = time.monotonic()
        if afar and self._setup.drain_from_afar(victim):
            how = "from afar"
        else:
            victim.drain()
            how = "by SIGTERM"
        self._drained.append(victim)
        yield Fault("drain", victim.name, began, detail=how, pids=(victim.pid,))

    @contextmanager
    def _join(self, long: bool) -> Iterator[Fault]:
        began = time.monotonic()
        node = self._setup.nodes.start()
        yield Fault("join", node.name, began, pids=(node.pid,))

    def _victim(self) -> TorturedNode:
        """Choose a node that this planned fault has not touched."""
        free = [b for b in self._setup.nodes.alive if b.pid not in self._touched]
        victim = self._chance.choice(free or [self._setup.nodes.start()])
        self._touched.add(victim.pid)
        return victim

    # --- server ---

    @contextmanager
    def _restart(self, long: bool) -> Iterator[Fault]:
        began = time.monotonic()
        self._setup.server.kill()
        try:
            yield Fault("restart", "server", began, detail="with its data, " + _length(long))
        finally:
            self._setup.server.start()

    @contextmanager
    def _wipe(self, long: bool) -> Iterator[Fault]:
        began = time.monotonic()
        self._setup.server.kill()
        self._setup.server.forget()
        try:
            yield Fault("wipe", "server", began, detail="restarted without its data")
        finally:
            self._setup.server.start()

    @contextmanager
    def _stall(self, long: bool) -> Iterator[Fault]:
        began = time.monotonic()
        self._setup.server.pause()
        try:
            yield Fault("stall", "server", began, detail=_length(long))
        finally:
            self._setup.server.go_on()

    # --- network ---

    def _delay(self, long: bool) -> AbstractContextManager[Fault]:
        late_s = LATE_S[long]
        return self._connection_fault(
            "delay", ConnectionState(delay_s=late_s), f"up to {late_s:g} s"
        )

    def _drop(self, long: bool) -> AbstractContextManager[Fault]:
        swallows: frozenset[Way] = frozenset({"requests"})
        return self._connection_fault(
            "drop", ConnectionState(swallows=swallows), f"requests, {_length(long)}"
        )

    def _mute(self, long: bool) -> AbstractContextManager[Fault]:
        """Replies of requests that were carried out are lost: some, or all."""
        if long:
            swallows: frozenset[Way] = frozenset({"replies"})
            return self._connection_fault(
                "mute", ConnectionState(swallows=swallows), "all replies, long"
            )
        return self._connection_fault(
            "mute", ConnectionState(cuts=CUTS), "some replies, with their connections"
        )

    @contextmanager
    def _half_close(self, long: bool) -> Iterator[Fault]:
        ports, target = self._ports()
        began = time.monotonic()
        ways: tuple[Way, ...] = ("requests", "replies")
        way = self._chance.choice(ways)
        yield Fault("half-close", target, began, detail=f"no more {way}")
        for _ in range(3):
            for port in ports:
                self._setup.proxy.half_close(port, way)
            time.sleep(0.1 * self._setup.lease_s)

    @contextmanager
    def _connection_fault(self, kind: Kind, state: ConnectionState, detail: str) -> Iterator[Fault]:
        ports, target = self._ports()
        began = time.monotonic()
        for port in ports:
            self._setup.proxy.set_state(port, state)
        try:
            yield Fault(kind, target, began, detail=detail)
        finally:
            for port in ports:
                self._setup.proxy.set_state(port, CLEAR)

    def _ports(self) -> tuple[Sequence[str], str]:
        """Choose whose connections suffer: a node's, the callers', or everyone's."""
        nodes = [node.name for node in self._setup.nodes.alive]
        chosen = self._chance.choice([*nodes, *self._setup.callers, "everyone"])
        everyone = chosen == "everyone"
        self._touched |= {b.pid for b in self._setup.nodes.alive if everyone or b.name == chosen}
        return [*nodes, *self._setup.callers] if everyone else [chosen], chosen


def _length(long: bool) -> str:
    return "long" if long else "short"


def _pids(nodes: Sequence[TorturedNode]) -> tuple[int, ...]:
    return tuple(node.pid for node in nodes)


def _names(nodes: Sequence[TorturedNode]) -> str:
    return " ".join(node.name for node in nodes)
