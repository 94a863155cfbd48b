"""A namespace on a real server whose clock stands still: the functions run there, step by step.

Knows the functions' calls and the keys. Must not know what ought to be in them: see ``ledger``.
"""

from __future__ import annotations

import json
import socket
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import hiredis

from rqproc.ids import owner
from rqproc.placement import SLOTS, Deal, hash_slot
from rqproc.protocol import answer_codec, library
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import RQ_PREFIX, Keys, job_key, results_key
from rqproc.protocol.library import SOURCES, Library
from rqproc.transport.connection import Command

NODE_NAMES = ("B", "a", "n10", "n9", "z")
"""In the order of their bytes, as Redis sorts them."""

START_MS = 4_000_000_000_000
"""In a far future, so that nothing that RQ sees has expired."""

MARK = "epoch"

TIME = """
local function server_time()
  local ms, tick = tonumber(call('GET', K.node .. 'clock')), call('INCRBY', K.node .. 'tick', 1000)
  return ms, ms * 1000 + tick
end
"""
"""Milliseconds stand still; microseconds are distinct, with room for the calls of one packet."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """Breaks one source of the library: a piece of its text is replaced."""

    source: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class About:
    """A job's hash; ``left_ms`` and ``kept_ms``, of its answer: as PTTL has it."""

    status: str
    lost: int
    left_ms: int
    kept_ms: int


@dataclass(frozen=True, slots=True)
class View:
    """All that the cluster's keys say at one instant.

    Attributes:
        slots: which incarnation has each hash slot; empty with placement by modulo.
        open: for each incarnation ever, the ids open there, and when they were routed.
        claims: for each incarnation ever, the ids that it runs, and their tokens and addresses.
        wip: the jobs that RQ's registry of started ones has, with their executions.
        groups: for each group asked for, the ids of its calls at each incarnation ('': none yet).
        heard: what has been published since the last view: ids and payloads.
        results: of each job asked for, what its results say.
        states: of each address asked for, the token and the state that are kept.
    """

    members: tuple[str, ...]
    slots: Deal
    leases: dict[str, int]
    flushed: dict[str, int]
    nodes: dict[str, str]
    holders: dict[str, str]
    epoch: int
    token: int
    waiting: list[str]
    ingress: list[str]
    wip: list[str]
    suspended: bool
    queues: dict[str, list[str]]
    open: dict[str, dict[str, int]]
    claims: dict[str, dict[str, tuple[int, str]]]
    about: dict[str, About]
    groups: dict[str, dict[str, list[str]]]
    heard: list[tuple[str, str]]
    results: dict[str, list[str]]
    states: dict[str, tuple[int, str]]

    def queue_of(self, inc: str) -> list[str]:
        return self.queues[inc.partition("#")[0]]

    def places(self) -> dict[str, list[str]]:
        """Return for each call and job the incarnations where it is; '' where it waits for one."""
        found: dict[str, list[str]] = {}
        for inc, ids in self.open.items():
            for id in ids:
                found.setdefault(id, []).append(inc)
        for id in self.waiting:
            found.setdefault(id, []).append("")
        for group, at in self.groups.items():
            for inc, calls in at.items():
                if group in (self.open.get(inc, ()) if inc else self.waiting):
                    for id in calls:
                        found.setdefault(id, []).append(inc)
        return found

    def owner(self, address: str) -> str | None:
        slot = int(address.partition("-")[0])
        return self.slots[hash_slot(slot)] if self.slots else owner(slot, self.members)

    def holder(self, address: str) -> str | None:
        held = self.holders.get(address)
        return held.partition(" ")[0] if held else None

    def target(self, address: str) -> str | None:
        """Return the incarnation that requests of an address go to, by the rule in the design."""
        return self.holder(address) or self.owner(address)


class World:
    """One namespace, with the library as it is, or broken by a mutation.

    Args:
        real_clock: the library is left as it is, its clock too.

    Attributes:
        now: what the functions' clock shows, in ms; ``ahead``: of the server's own.
    """

    def __init__(
        self, url: str, mutation: Mutation | None = None, *, real_clock: bool = False
    ) -> None:
        self.keys = Keys("w")
        build = library.build() if real_clock else _library(mutation)
        self.commands = Commands(self.keys, build)
        self.now = START_MS
        self.ahead = 0
        self.server = "server-1"
        self._heard: list[tuple[bytes, bytes]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20.0)
        self._socket.connect(url.removeprefix("unix://"))
        self._reader = hiredis.Reader()
        # Small hashes keep their order, so that DUMP tells nothing but changes.
        keep_order: Command = ("CONFIG", "SET", "hash-max-listpack-value", "4096")
        self.tell(("HELLO", "3"), ("FUNCTION", "FLUSH"), keep_order, self.commands.load)
        self.tell(self._set_clock())
        self._send(("PSUBSCRIBE", self.keys.reply("*"), self.keys.dropped))
        self.tell(("PING",))

    def tell(self, *commands: Command) -> list[Any]:
        """Run commands in one packet; what is published by them is heard by its end."""
        self._send(*commands, ("PING",))
        replies = [next(self._replies) for _ in commands]
        assert next(self._replies) == b"PONG"
        for command, reply in zip(commands, replies, strict=True):
            assert not isinstance(reply, Exception), f"the server refuses {command[:2]}: {reply}"
        return replies

    def _send(self, *commands: Command) -> None:
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        self._socket.sendall(b"".join(packed))

    @property
    def _replies(self) -> Iterator[Any]:
        while True:
            reply = self._reader.gets()
            if reply is False:
                data = self._socket.recv(1 << 20)
                assert data, "the server has closed the connection"
                self._reader.feed(data)
            elif isinstance(reply, hiredis.PushNotification):
                if reply[0] == b"pmessage":
                    self._heard.append((reply[2], reply[3]))
            else:
                yield reply

    def run(self, command: Command) -> Any:
        return self.tell(command)[0]

    def advance(self, ms: int) -> None:
        self.now += ms
        self.run(self._set_clock())

    def set_back(self, ms: int) -> None:
        """Set the server's clock back, just after one function and before another looks at it."""
        self.ahead += ms
        self.run(self._set_clock())

    def be_another_process(self) -> None:
        """Forget what is in no key: the functions' clock begins where a node last beat, if the
        server's is not there yet. A function has to follow.
        """
        pulse = int(self.run(("GET", f"{self.keys.state}pulse")) or 0)
        showed = self.now - self.ahead
        self.now = max(showed, pulse)
        self.ahead = self.now - showed
        self.run(self.commands.load)

    def _set_clock(self) -> Command:
        return ("SET", f"{self.keys.state}node:clock", str(self.now - self.ahead))

    def published(self) -> list[tuple[bytes, bytes]]:
        """Return what has been published since it was last looked at: channels and payloads."""
        heard, self._heard = self._heard, []
        return heard

    def look(
        self, *first: Command, incs: Sequence[str], ids: Sequence[str], groups: Sequence[str],
        jobs: Sequence[str], places: Sequence[str],
    ) -> tuple[list[Any], View]:  # fmt: skip
        """Run commands, and return their replies and what is there then.

        Of open and claimed requests, calls, groups, results and states only those are looked at
        that are named.
        """
        found = iter(self.tell(*first, *self._reads(incs, ids, groups, jobs, places)))
        replies = [next(found) for _ in first]
        first_ten = (next(found) for _ in range(10))
        members, slots, leases, flushed, nodes, holders, numbers, *lists = first_ten
        epoch, token = (int(number or 0) for number in numbers)
        waiting, ingress, wip = map(_texts, lists)
        return replies, View(
            members=tuple(_texts(members)),
            slots=_slots(slots),
            leases={inc.decode(): int(ms) for inc, ms in leases if inc != b"!"},
            flushed={name.decode(): int(token) for name, token in flushed},
            nodes=_pairs(nodes),
            holders=_pairs(holders),
            epoch=epoch,
            token=token,
            waiting=waiting,
            ingress=ingress,
            wip=wip,
            suspended=bool(next(found)),
            queues={name: _texts(next(found)) for name in NODE_NAMES},
            open={inc: _moments(next(found)) for inc in incs},
            claims={inc: _claims(next(found)) for inc in incs},
            about={id: _about(*(next(found) for _ in range(4))) for id in ids},
            groups={group: _parts(group, next(found)) for group in groups},
            results={job: [_result(fields) for _, fields in next(found)] for job in jobs},
            states={place: _state(*next(found)) for place in places},
            heard=self._heard_answers(),
        )

    def _reads(
        self, incs: Sequence[str], ids: Sequence[str], groups: Sequence[str], jobs: Sequence[str],
        places: Sequence[str],
    ) -> list[Command]:  # fmt: skip
        keys, state = self.keys, self.keys.state
        reads: list[Command] = [
            ("ZRANGE", f"{state}members", "0", "-1"),
            ("HGETALL", f"{state}slots"),
            ("ZRANGE", f"{state}leases", "0", "-1", "WITHSCORES"),
            ("ZRANGE", f"{state}flushed", "0", "-1", "WITHSCORES"),
            ("HGETALL", f"{state}nodes"),
            ("HGETALL", f"{state}holders"),
            ("MGET", f"{state}epoch", f"{state}token"),
            ("LRANGE", f"{state}waiting", "0", "-1"),
            ("LRANGE", keys.ingress_queue, "0", "-1"),
            ("ZRANGE", f"{RQ_PREFIX}:wip:{keys.ingress}", "0", "-1"),
            ("EXISTS", f"{RQ_PREFIX}:suspended"),
            *(("LRANGE", keys.queue(name), "0", "-1") for name in NODE_NAMES),
            *(("ZRANGE", f"{state}open:{inc}", "0", "-1", "WITHSCORES") for inc in incs),
            *(("HGETALL", f"{state}claims:{inc}") for inc in incs),
        ]
        for id in ids:
            reads.append(("HMGET", job_key(id), "status", "rqproc_lost"))
            kept = (keys.answer(id), f"{state}withdrawn:{id}")
            reads += (("PTTL", key) for key in (job_key(id), *kept))
        reads += (("HGETALL", job_key(group)) for group in groups)
        reads += (("XRANGE", results_key(job), "-", "+") for job in jobs)
        reads += (("HMGET", keys.kept_state(place), "token", "state") for place in places)
        return reads

    def _heard_answers(self) -> list[tuple[str, str]]:
        reply = self.keys.reply("").encode()
        heard = [payload for channel, payload in self.published() if channel.startswith(reply)]
        return [pair for payload in heard for pair in self._answers(payload)]

    def _answers(self, payload: bytes) -> list[tuple[str, str]]:
        """What one payload says: ids, and a word for each."""
        id, _, rest = payload.partition(b" ")
        if rest.startswith(b"kept "):
            return self._answers(self.run(("GET", rest.split(b" ")[2])))
        if rest.startswith(b"many "):
            reply, number = id.decode().rsplit("-g", 1)
            return [
                (f"{reply}-c{number}_{place}", word(answer))
                for place, answer in answer_codec.decode_group(rest)
            ]
        return [(id.decode(), word(answer_codec.decode_answer(rest)))]

    def answer(self, payload: bytes) -> tuple[str, str]:
        """Read an answer that came in a function's reply."""
        (found,) = self._answers(payload)
        return found

    def dump(self) -> dict[bytes, bytes]:
        """Return every key but the clock's with its value, to tell whether anything has changed."""
        names = [name for name in self._names() if not name.endswith(b":node:tick")]
        return dict(zip(names, self.tell(*(("DUMP", name) for name in names)), strict=True))

    def _names(self) -> list[bytes]:
        """Return all keys, but the one that is there for a moment of the real clock."""
        return [name for name in self.run(("KEYS", "*")) if not name.endswith(b":carrier")]

    def snapshot(self) -> list[Command]:
        """Return what makes the server's keys again as they are."""
        names = self._names()
        values = self.tell(*(("DUMP", name) for name in names))
        left_ms = self.tell(*(("PTTL", name) for name in names))
        return [
            ("RESTORE", name, str(max(ms, 0)), value)
            for name, ms, value in zip(names, left_ms, values, strict=True)
        ]

    def restore(self, snapshot: Sequence[Command]) -> None:
        """Let another process take over, which knows nothing of what has happened since.

        Its clock is not behind: tokens would not rise otherwise.
        """
        self.ahead = 0
        tick = f"{self.keys.state}node:tick"
        ticks = self.run(("GET", tick))
        self.tell(("FLUSHALL",), *snapshot, ("SET", tick, ticks), self._set_clock())
        self.be_another_process()

    def key_names(self) -> set[str]:
        return set(_texts(self.run(("KEYS", "*"))))

    def lasting_names(self) -> set[str]:
        """Return the keys that stay when every node has left and nothing is wanted any more."""
        names = ("epoch", "token", "node:clock", "node:tick", "pulse", "server", "settling",
                 "suspects", "fences", "leases", "carrier", "flushed")  # fmt: skip
        own = {f"{self.keys.state}{name}" for name in names}
        kept = ("finished:", "failed:")
        return own | {f"{RQ_PREFIX}:queues"} | {f"{RQ_PREFIX}:{k}{self.keys.ingress}" for k in kept}

    def close(self) -> None:
        """Leave nothing behind, not even the functions: they may be broken ones."""
        self.tell(("FLUSHALL",), ("FUNCTION", "FLUSH"))
        self._socket.close()


@lru_cache(maxsize=2)
def _library(mutation: Mutation | None) -> Library:
    if mutation is None:
        return library.build(time=TIME)
    assert mutation.source in SOURCES
    source = library._source(mutation.source)
    if source.count(mutation.old) != 1:
        # No AssertionError: that would look like a mutant that is found out.
        raise LookupError(f"there {source.count(mutation.old)} times: {mutation.old}")
    broken = source.replace(mutation.old, mutation.new)
    texts: dict[str, Any] = {"time": TIME, mutation.source: broken}
    return library.build(**texts)


def _slots(flat: Any) -> Deal:
    found = _pairs(flat)
    assert found.keys() <= {str(slot) for slot in range(SLOTS)}, "hash slots"
    return [found[str(slot)] for slot in range(SLOTS)] if found else ()


def word(answer: answer_codec.Answer) -> str:
    """Return what an answer says, in a word that a ledger may expect."""
    if answer.report is None:
        return str(answer.value)
    return str(answer.report.get("message", answer.report["type"]))


def part_id(group: str, place: int | str, address: str = "") -> str:
    """Return the id of a call of a group; without its address what such an id begins with."""
    begin = f"{group.replace('-g', '-c')}_{place}"
    return f"{begin}-{address}" if address else begin


def parts(text: str) -> list[tuple[str, str]]:
    """Take apart what a group's hash says of one node: places and addresses."""
    words = text.split()
    return list(zip(words[::2], words[1::2], strict=False))


def _texts(raw: Iterable[bytes]) -> list[str]:
    return [item.decode(errors="surrogateescape") for item in raw]


def _pairs(raw: dict[bytes, bytes]) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in raw.items()}


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


def _moments(raw: Iterable[tuple[bytes, float]]) -> dict[str, int]:
    return {_text(id): int(moment) for id, moment in raw}


def _claims(raw: dict[bytes, bytes]) -> dict[str, tuple[int, str]]:
    """In the order of their tokens."""
    split = [(id, claim.partition(" ")) for id, claim in _pairs(raw).items()]
    found = [(id, (int(token), address)) for id, (token, _, address) in split]
    return dict(sorted(found, key=lambda pair: pair[1][0]))


def _parts(group: str, raw: dict[bytes, bytes]) -> dict[str, list[str]]:
    return {
        inc: [part_id(group, *part) for part in parts(text)]
        for inc, text in _pairs(raw).items()
        if "#" in inc or not inc
    }


def _about(fields: Sequence[bytes | None], left_ms: int, *kept_ms: int) -> About:
    status, lost = fields
    return About((status or b"").decode(), int(lost or 0), left_ms, max(kept_ms))


def _state(token: bytes | None, text: bytes | None) -> tuple[int, str]:
    return int(token or 0), (text or b"").decode()


def _result(flat: Sequence[bytes]) -> str:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if report := fields.get(b"rqproc_error"):
        return word(answer_codec.Answer("error", report=json.loads(report)))
    return str(json.loads(b64decode(fields[b"return_value"])))
