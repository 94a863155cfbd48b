"""Does the harm, undoes it, and waits until the cluster has recovered; all of it is written down.

Knows the arena: nodes, server and proxy. Must not know who asks for what, nor judge.

Each kind is a context: it harms on entry and heals on exit. What lies between is its length,
counted in leases: a short one must go unnoticed by the lease, a long one must not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from rqproc.stage import Doing
from rqproc.torture.arena import Arena
from rqproc.torture.herd import Beast
from rqproc.torture.hunt import Hunt
from rqproc.torture.proxy import CLEAR, Door, Way, Weather
from rqproc.torture.records import Fault, Kind
from rqproc.torture.schedule import Blow

SHORT, LONG = 0.35, 1.3
"""Lengths of a blow, in leases."""
LATE_S = (0.05, 0.2)
"""How late chunks are: briefly, and for longer than heartbeats."""
CUTS = 0.3
REST_S = (0.0, 0.3)
"""Between two blows, so that callers who pause before they try again find the server once."""


@dataclass(slots=True)
class Wound:
    """A fault under way."""

    kind: Kind
    target: str
    began: float
    detail: str = ""
    pids: tuple[int, ...] = ()
    owned: tuple[str, ...] = ()
    told: bool = False
    healed: float = 0.0
    total: bool = False


class Nemesis:
    """Strikes an arena, by the dice of a seed."""

    def __init__(self, arena: Arena, chance: random.Random) -> None:
        self._arena = arena
        self._chance = chance
        self._touched: set[int] = set()
        self._drained: list[Beast] = []
        self._hunting = Hunt(arena)
        self._alone = True
        self.faults: list[Fault] = []
        self._kinds: dict[Kind, Callable[[bool], AbstractContextManager[Wound]]] = {
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

    def strike(self, blow: Blow) -> Iterator[Doing]:
        """Strike once, heal, and wait for the recovery; yields what is being done."""
        self._touched.clear()
        self._alone = blow.second is None
        wounds: list[Wound] = []
        with ExitStack() as stack:
            wounds.append(stack.enter_context(self._wound(blow.kind, blow.long)))
            yield Doing(f"{blow.kind} {wounds[0].target} {wounds[0].detail}".rstrip())
            if blow.second:
                wounds.append(stack.enter_context(self._wound(blow.second, blow.long)))
                yield Doing(f"... and {blow.second} {wounds[1].target}")
            if blow.kind not in ("kill", "drain", "join", "half-close", "wipe"):
                time.sleep(self._arena.lease_s * (LONG if blow.long else SHORT))
        while self._drained:
            self._drained.pop().wait()
        recovered = self._arena.recover()
        time.sleep(self._chance.uniform(*REST_S))
        self.faults += [
            Fault(
                w.kind, w.target, w.began, w.healed, recovered, w.detail, w.pids, w.owned, w.told,
                self._alone, w.total,
            )
            for w in wounds
        ]  # fmt: skip

    @contextmanager
    def _wound(self, kind: Kind, long: bool) -> Iterator[Wound]:
        before = self._arena.herd.alive
        with self._kinds[kind](long) as wound:
            wound.total = not any(b.alive and b.pid not in self._touched for b in before)
            yield wound
        wound.healed = time.monotonic()

    # --- nodes ---

    def _kill(self, long: bool) -> AbstractContextManager[Wound]:
        """Kill one with -9; now and then all, or all who run a certain request."""
        many = long and self._alone
        (how,) = self._chance.choices((self._kill_one, self._kill_all, self._hunt), (3, 2, 2))
        return how() if many else self._kill_one()

    @contextmanager
    def _kill_one(self) -> Iterator[Wound]:
        """A successor of its name may come at once, and the cluster may be told."""
        victim = self._victim()
        owned = self._arena.owned_by(victim.name) if self._alone else ()
        told, follows = self._alone and self._chance.random() < 0.4, self._chance.random() < 0.5
        began = time.monotonic()
        victim.kill()
        if told:
            self._arena.tell_of(victim)
        if follows:
            self._arena.herd.start(victim.name)
        notes = ("the cluster is told" if told else "", "an heir at once" if follows else "")
        detail = ", ".join(filter(None, notes))
        yield Wound("kill", victim.name, began, detail, (victim.pid,), owned, told)

    @contextmanager
    def _kill_all(self) -> Iterator[Wound]:
        victims, tells = self._arena.herd.alive, self._chance.random() < 0.4
        began = time.monotonic()
        for victim in victims:  # all before any is told: else one request would lose them all
            victim.kill()
        for victim in victims if tells else ():
            self._arena.tell_of(victim)
        yield Wound("kill", _names(victims), began, "all of them", _pids(victims))

    @contextmanager
    def _hunt(self) -> Iterator[Wound]:
        began = time.monotonic()
        victims = self._hunting.run()
        yield Wound("kill", _names(victims), began, "whoever ran one request", _pids(victims))

    @contextmanager
    def _pause(self, long: bool) -> Iterator[Wound]:
        victim = self._victim()
        began = time.monotonic()
        victim.stop()
        try:
            yield Wound("pause", victim.name, began, _length(long), (victim.pid,))
        finally:
            victim.go_on()

    @contextmanager
    def _drain(self, long: bool) -> Iterator[Wound]:
        """By a signal, or from afar as ``rqproc node drain`` does; never the last one."""
        victim, afar = self._victim(), self._chance.random() < 0.5 and self._alone
        if len(self._arena.herd.alive) < 2:
            self._arena.herd.start()
            if self._alone:
                self._arena.recover()
        began = time.monotonic()
        if afar and self._arena.drain_from_afar(victim):
            how = "from afar"
        else:
            victim.drain()
            how = "by SIGTERM"
        self._drained.append(victim)
        yield Wound("drain", victim.name, began, how, (victim.pid,))

    @contextmanager
    def _join(self, long: bool) -> Iterator[Wound]:
        began = time.monotonic()
        beast = self._arena.herd.start()
        yield Wound("join", beast.name, began, "", (beast.pid,))

    def _victim(self) -> Beast:
        """Choose a node that this blow has not touched."""
        free = [b for b in self._arena.herd.alive if b.pid not in self._touched]
        victim = self._chance.choice(free or [self._arena.herd.start()])
        self._touched.add(victim.pid)
        return victim

    # --- server ---

    @contextmanager
    def _restart(self, long: bool) -> Iterator[Wound]:
        began = time.monotonic()
        self._arena.server.kill()
        try:
            yield Wound("restart", "server", began, "with its data, " + _length(long))
        finally:
            self._arena.server.start()

    @contextmanager
    def _wipe(self, long: bool) -> Iterator[Wound]:
        began = time.monotonic()
        self._arena.server.kill()
        self._arena.server.forget()
        try:
            yield Wound("wipe", "server", began, "restarted without its data")
        finally:
            self._arena.server.start()

    @contextmanager
    def _stall(self, long: bool) -> Iterator[Wound]:
        began = time.monotonic()
        self._arena.server.pause()
        try:
            yield Wound("stall", "server", began, _length(long))
        finally:
            self._arena.server.go_on()

    # --- network ---

    def _delay(self, long: bool) -> AbstractContextManager[Wound]:
        late_s = LATE_S[long]
        return self._weather("delay", Weather(delay_s=late_s), f"up to {late_s:g} s")

    def _drop(self, long: bool) -> AbstractContextManager[Wound]:
        swallows: frozenset[Way] = frozenset({"requests"})
        return self._weather("drop", Weather(swallows=swallows), f"requests, {_length(long)}")

    def _mute(self, long: bool) -> AbstractContextManager[Wound]:
        """Replies of requests that were carried out are lost: some, or all."""
        if long:
            swallows: frozenset[Way] = frozenset({"replies"})
            return self._weather("mute", Weather(swallows=swallows), "all replies, long")
        return self._weather("mute", Weather(cuts=CUTS), "some replies, with their connections")

    @contextmanager
    def _half_close(self, long: bool) -> Iterator[Wound]:
        doors, target = self._doors()
        began = time.monotonic()
        ways: tuple[Way, ...] = ("requests", "replies")
        way = self._chance.choice(ways)
        yield Wound("half-close", target, began, f"no more {way}")
        for _ in range(3):
            for door in doors:
                door.half_close(way)
            time.sleep(0.1 * self._arena.lease_s)

    @contextmanager
    def _weather(self, kind: Kind, weather: Weather, detail: str) -> Iterator[Wound]:
        doors, target = self._doors()
        began = time.monotonic()
        for door in doors:
            door.set_weather(weather)
        try:
            yield Wound(kind, target, began, detail)
        finally:
            for door in doors:
                door.set_weather(CLEAR)

    def _doors(self) -> tuple[list[Door], str]:
        """Choose whose connections suffer: a node's, the callers', or everyone's."""
        nodes = [beast.name for beast in self._arena.herd.alive]
        chosen = self._chance.choice([*nodes, *self._arena.callers, "everyone"])
        everyone = chosen == "everyone"
        self._touched |= {b.pid for b in self._arena.herd.alive if everyone or b.name == chosen}
        names = [*nodes, *self._arena.callers] if everyone else [chosen]
        return [self._arena.proxy.door(name) for name in names], chosen


def _length(long: bool) -> str:
    return "long" if long else "short"


def _pids(beasts: Sequence[Beast]) -> tuple[int, ...]:
    return tuple(beast.pid for beast in beasts)


def _names(beasts: Sequence[Beast]) -> str:
    return " ".join(beast.name for beast in beasts)
