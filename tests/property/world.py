"""A namespace on a real server whose clock stands still: the scripts run there, step by step.

Knows the scripts' calls and the keys. Must not know what ought to be in them: see ``ledger``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rqproc import scripts, wire
from rqproc.cluster import Cluster
from rqproc.keys import RQ_PREFIX, Keys, job_key, results_key
from rqproc.link import Command, Dial, Refused
from rqproc.placement import owner
from rqproc.scripts import NAMES as SCRIPT_NAMES
from rqproc.scripts import VIRTUAL_CLOCK, Scripts

NODE_NAMES = ("B", "a", "n10", "n9", "z")
"""In the order of their bytes, as Redis sorts them."""

START_MS = 4_000_000_000_000
"""In a far future, so that nothing that RQ sees has expired."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """Breaks one script (or ``lib``, which stands before all): a piece of its text is replaced."""

    script: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class View:
    """All that the cluster's keys say at one instant.

    Attributes:
        taken: for each incarnation ever, the address of each id that it has taken, oldest first.
        about: for each id asked for, its job's status and the nodes that died on it.
        answers: what has come into reply streams since the last view.
        parts: for each job asked for that carries many calls, where each of these is, by its id:
            a node's name, '' for none, '*' for taken; and its address.
    """

    members: tuple[str, ...]
    leases: dict[str, int]
    nodes: dict[str, str]
    holders: dict[str, str]
    epoch: int
    token: int
    waiting: list[str]
    ingress: list[str]
    intermediate: list[str]
    queues: dict[str, list[str]]
    taken: dict[str, dict[str, str]]
    about: dict[str, tuple[str, int]]
    answers: list[wire.Answer]
    parts: dict[str, dict[str, tuple[str, str]]]

    def places(self) -> Counter[str]:
        """Return in how many places each call is."""
        lists = [self.waiting_calls(), self.ingress, self.intermediate, *self.taken.values()]
        lists += [self.queued_calls(name) for name in self.queues]
        places = Counter(id for ids in lists for id in ids)
        return Counter({id: count for id, count in places.items() if not id.startswith("~")})

    def queued_calls(self, name: str) -> list[str]:
        """Return the calls in a node's queue: a job that carries many stands for those there."""
        return self._calls(self.queues[name], name)

    def waiting_calls(self) -> list[str]:
        return self._calls(self.waiting, "")

    def _calls(self, queue: Sequence[str], name: str) -> list[str]:
        plain = [id for id in queue if id not in self.parts]
        jobs = dict.fromkeys(id for id in queue if id in self.parts)  # twice there is as once
        return plain + [id for job in jobs for id, (at, _) in self.parts[job].items() if at == name]

    @property
    def idle(self) -> bool:
        """Nothing lies in any queue, whether it stands for something or not."""
        return not self.waiting and not any(self.queues.values())

    def target(self, address: str) -> str | None:
        """Return the node that requests of an address go to, by the rule in the design."""
        if held := self.holders.get(address):
            return held.partition("@")[0]
        return owner(int(address.partition("|")[0]), self.members)


class World:
    """One namespace, with the scripts as they are, or broken by a mutation."""

    def __init__(self, url: str, mutation: Mutation | None = None) -> None:
        self.keys = Keys("w")
        self.cluster = Cluster(self.keys, _scripts(self.keys, mutation))
        self.now = START_MS
        self.server = "server-1"
        self._dial = Dial(url)
        self._link = self._dial.connect()
        self._read_up_to: dict[str, str] = {}
        # Small hashes keep their order, so that DUMP tells nothing but changes.
        keep_order: Command = ("CONFIG", "SET", "hash-max-listpack-value", 4096)
        load = self.cluster.load(*SCRIPT_NAMES)
        self._link.exchange((keep_order, self._set_clock(), *load), timeout_s=10.0)

    def tell(self, *commands: Command) -> list[Any]:
        try:
            return self._link.exchange(commands, timeout_s=10.0)
        except Refused as error:
            raise AssertionError(f"the server refuses {commands[0][0]}: {error}") from error

    def run(self, command: Command) -> Any:
        return self.tell(command)[0]

    def advance(self, ms: int) -> None:
        self.now += ms
        self.run(self._set_clock())

    def _set_clock(self) -> Command:
        return ("SET", f"{self.keys.state}node:clock", self.now)

    def look(
        self, *first: Command, incs: Sequence[str], ids: Sequence[str], groups: Sequence[str],
        streams: Iterable[str],
    ) -> tuple[list[Any], View]:  # fmt: skip
        """Run commands, and return their replies and what is there then.

        Of jobs, taken requests and reply streams only those are looked at that are named;
        ``groups`` are the jobs that carry many calls.
        """
        for stream in streams:
            self._read_up_to.setdefault(stream, "0-0")
        found = iter(self.tell(*first, *self._reads(incs, ids, groups)))
        replies = [next(found) for _ in first]
        members, leases, nodes, holders, numbers, *lists = (next(found) for _ in range(8))
        epoch, token = (int(number or 0) for number in numbers)
        waiting, ingress, intermediate = map(_texts, lists)
        return replies, View(
            members=tuple(_texts(members)),
            leases={inc: int(ms) for inc, ms in _pairs(leases).items()},
            nodes=_pairs(nodes),
            holders=_pairs(holders),
            epoch=epoch,
            token=token,
            waiting=waiting,
            ingress=ingress,
            intermediate=intermediate,
            queues={name: _texts(next(found)) for name in NODE_NAMES},
            taken={inc: _addresses(next(found)) for inc in incs},
            about={id: _about(next(found)) for id in ids},
            parts={job: _parts(job, next(found)) for job in groups},
            answers=self._answers(next(found, None)),
        )

    def _reads(
        self, incs: Sequence[str], ids: Sequence[str], groups: Sequence[str]
    ) -> list[Command]:
        keys, state = self.keys, self.keys.state
        reads: list[Command] = [
            ("ZRANGE", f"{state}members", 0, -1),
            ("ZRANGE", f"{state}leases", 0, -1, "WITHSCORES"),
            ("HGETALL", f"{state}nodes"),
            ("HGETALL", f"{state}holders"),
            ("MGET", f"{state}epoch", f"{state}token"),
            ("LRANGE", f"{state}waiting", 0, -1),
            ("LRANGE", keys.ingress_queue, 0, -1),
            ("LRANGE", keys.ingress_intermediate, 0, -1),
            *(("LRANGE", keys.queue(name), 0, -1) for name in NODE_NAMES),
            *(("HGETALL", f"{state}taken:{inc}") for inc in incs),
            *(("HMGET", job_key(id), "status", "rqproc_lost") for id in ids),
            *(("HGETALL", job_key(job)) for job in groups),
        ]
        if self._read_up_to:
            streams = map(results_key, self._read_up_to)
            reads.append(("XREAD", "STREAMS", *streams, *self._read_up_to.values()))
        return reads

    def _answers(self, found: Sequence[Any] | None) -> list[wire.Answer]:
        names = {results_key(name): name for name in self._read_up_to}
        answers = []
        for key, entries in found or ():
            self._read_up_to[names[key.decode()]] = entries[-1][0].decode()
            answers += [answer for _, flat in entries for answer in wire.answers(flat)]
        return answers

    def dump(self) -> dict[bytes, bytes]:
        """Return every key of the server with its value, to tell whether anything has changed."""
        names = self.run(("KEYS", "*"))
        return dict(zip(names, self.tell(*(("DUMP", name) for name in names)), strict=True))

    def snapshot(self) -> list[Command]:
        """Return what makes the server's keys again as they are."""
        names = self.run(("KEYS", "*"))
        values = self.tell(*(("DUMP", name) for name in names))
        left_ms = self.tell(*(("PTTL", name) for name in names))
        return [
            ("RESTORE", name, max(ms, 0), value)
            for name, ms, value in zip(names, left_ms, values, strict=True)
        ]

    def restore(self, snapshot: Sequence[Command]) -> None:
        """Let the server forget what has happened since; its clock goes on."""
        self.tell(("DEL", *self.run(("KEYS", "*"))), *snapshot, self._set_clock())

    def key_names(self) -> set[str]:
        return set(_texts(self.run(("KEYS", "*"))))

    def lasting_names(self) -> set[str]:
        """Return the keys that stay when every node has left and nothing is wanted any more."""
        names = ("epoch", "token", "node:clock", "pulse", "server", "settling", "suspects")
        own = {f"{self.keys.state}{name}" for name in names}
        kept = ("finished:", "failed:")
        return own | {f"{RQ_PREFIX}:queues"} | {f"{RQ_PREFIX}:{k}{self.keys.ingress}" for k in kept}

    def close(self) -> None:
        self._link.close()
        last = self._dial.connect()
        last.exchange((("FLUSHALL",),), timeout_s=10.0)
        last.close()


@lru_cache(maxsize=2)
def _scripts(keys: Keys, mutation: Mutation | None) -> Scripts:
    made = Scripts(keys, clock=VIRTUAL_CLOCK)
    if mutation is None:
        return made
    # The text of a script has its constants written in already: so must what is looked for.
    constants = scripts._constants(keys, scripts.DEFAULT_MAX_ATTEMPTS)
    old, new = (
        re.sub(r"\b[A-Z][A-Z_]+\b", lambda word: constants.get(word[0], word[0]), text)
        for text in (mutation.old, mutation.new)
    )
    broken = SCRIPT_NAMES if mutation.script == "lib" else (mutation.script,)
    texts = {name: made[name].text.replace(old, new) for name in broken}
    if all(texts[name] == made[name].text for name in broken):
        # No AssertionError: that would look like a mutant that is found out.
        raise LookupError(f"not there: {old}")
    made._scripts |= {name: scripts._script(name, text) for name, text in texts.items()}
    return made


def _texts(raw: Iterable[bytes]) -> list[str]:
    return [item.decode(errors="surrogateescape") for item in raw]


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    texts = _texts(flat)
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _addresses(flat: Sequence[bytes]) -> dict[str, str]:
    """Of a ``taken`` hash: id -> address, in the order of the tokens that stand before them."""
    claims = sorted(_pairs(flat).items(), key=lambda pair: int(pair[1].partition(" ")[0]))
    return {id: claim.partition(" ")[2] for id, claim in claims}


def _parts(job: str, flat: Sequence[bytes]) -> dict[str, tuple[str, str]]:
    """Of a job's hash: the id of each of its calls -> where it is, and its address."""
    calls = {number: text for number, text in _pairs(flat).items() if number.isdecimal()}
    split = {number: text.partition(" ") for number, text in calls.items()}
    return {f"{job}:{number}": (at, address) for number, (at, _, address) in split.items()}


def _about(fields: Sequence[bytes | None]) -> tuple[str, int]:
    status, lost = fields
    return (status or b"").decode(), int(lost or 0)
