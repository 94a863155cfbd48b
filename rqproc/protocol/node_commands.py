"""The half of the protocol's commands that nodes say: every function's call and the reading of its
answer.

Knows the functions' contracts. Must not know how a command reaches the server: what is here makes
commands and reads replies, so that threads, event loops, nodes and tests share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

from rqproc.errors import NameTaken, PlacementMismatch, ProtocolMismatch, StateSuperseded
from rqproc.placement import Placement
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.keys import RQ_PREFIX, Keys
from rqproc.protocol.library import Library, library
from rqproc.protocol.messages import (
    Arrival,
    Beaten,
    Claim,
    Claimed,
    Joined,
    Known,
    LeaseLost,
    Limits,
    OtherBuild,
    Packet,
    SessionSuperseded,
    Settling,
    Tally,
)
from rqproc.transport.connection import Arg, Command

OTHER_EPOCH = -3
"""What ``hand_over`` returns where the members have changed since."""

Ending = tuple[str | bytes, ...]
"""What ends a call or a job, as ``answer`` takes it: how, its id, and what follows."""

Outcome = Literal[
    "", ":dropped", ":flushed", ":flushed-all", ":expired", ":stuck", ":ended", ":stopped"
]
"""How a call or a job ends that has not been answered from an entry; see answering.lua."""

# What is made for every call is a named tuple: a frozen dataclass takes three times as long.


class NodeCommands:
    """The functions of one namespace that nodes call, as commands."""

    def __init__(self, keys: Keys, build: Library | None = None) -> None:
        self.keys = keys
        self.library = build or library()
        self._state = keys.state
        self._route = self.library.function("route")

    def _call(self, name: str, *args: Arg) -> Command:
        return ("FCALL", self.library.function(name), "1", self._state, RQ_PREFIX, *args)

    @property
    def load(self) -> Command:
        """What makes the functions known to the server."""
        return self.library.load

    def join(
        self, name: str, *, lease_s: float, nonce: str, limits: Limits, pid: int, host: str,
        versions: tuple[str, str], placement: Placement = "modulo", code: str = "",
    ) -> Command:  # fmt: skip
        """``code``: a digest of the app's; "" where nobody knows it."""
        most = (str(limits.queue), str(limits.waiters), str(limits.lanes))
        about = (str(pid), host, codec.utc(), *versions, self.library.digest, placement, code)
        return self._call("join", name, milliseconds(lease_s), nonce, *most, *about)

    def read_join(self, name: str, reply: Sequence[Any]) -> Joined:
        """Raises: NameTaken: a node of this name is alive. ProtocolMismatch. PlacementMismatch.
        OtherBuild.
        """
        if reply[0] == 0:
            raise NameTaken(name, reply[1] / 1000)
        if reply[0] == -1:
            others, mine = reply[1].decode(), str(self.library.protocol)
            raise ProtocolMismatch(mine, others, self.keys.namespace)
        if reply[0] == -2:
            raise OtherBuild
        if reply[0] == -3:
            others = reply[1].decode()
            mine = "modulo" if others == "slots" else "slots"
            raise PlacementMismatch(mine, others, self.keys.namespace)
        return Joined(reply[1].decode(), reply[2])

    def beat(self, inc: str, *, lease_s: float, tally: Tally, stats: str = "{}") -> Command:
        """``stats``: what is published of the node, as ``stats_codec`` has it."""
        counts = (tally.entries, tally.hits, tally.joined, tally.misses)
        ends = (tally.succeeded, tally.failed, tally.stuck)
        numbers = map(str, (*counts, *ends))
        return self._call("beat", inc, milliseconds(lease_s), *numbers, codec.utc(), stats)

    def read_beat(self, reply: Sequence[Any]) -> Beaten:
        """Raises: LeaseLost."""
        if reply[0] == 0:
            raise LeaseLost
        return Beaten(reply[1], reply[2].decode(), reply[3])

    def pop(self, node: str, *, most: int, block_s: float) -> Command:
        """Take up to so many ids from a node's queue: the server's own command."""
        return ("BLMPOP", str(block_s), "1", self.keys.queue(node), "LEFT", "COUNT", str(most))

    def group(self, group: str | bytes, inc: str) -> Command:
        """Read which calls of a group are at a node: ``PLACE ADDRESS PLACE ADDRESS ...``"""
        key = f"{RQ_PREFIX}:job:".encode() + (group.encode() if isinstance(group, str) else group)
        return ("HGET", key, inc)

    def claim(
        self, inc: str, ids: Iterable[str | bytes], *, session: int, epoch: int, at: str,
        turns: int = 0, room: int = 0,
    ) -> Command:  # fmt: skip
        """Without ids it tells the epoch.

        Args:
            at: when the node began to wait, as RQ writes times.
            turns: how many of the ids, the first of them, are of jobs whose turn has come.
            room: how many other jobs may be started.
        """
        about = (inc, str(session), str(epoch), at, str(turns), str(room))
        return self._call("claim", *about, *ids)

    def settle(
        self, inc: str, group: str, length: int, answers: str, runs: Iterable[tuple[str, bytes]], *,
        session: int, epoch: int, at: str,
    ) -> Command:  # fmt: skip
        """Answer those calls of a group that have an entry, and claim the others.

        Args:
            length: of the text that named them, see ``group``.
            answers: what ``answer_codec.encode_group`` returns; empty where none has an entry.
            runs: id and data of each of the others.
        """
        about = (inc, str(session), str(epoch), at, group, str(length), answers)
        flat: Iterable[Any] = chain.from_iterable(runs)
        return self._call("settle", *about, *flat)

    def read_claim(self, reply: Sequence[Any]) -> Claimed:
        """Raises: LeaseLost, SessionSuperseded, Settling."""
        if reply[0] == 0:
            raise LeaseLost
        if reply[0] == -2:
            raise Settling(reply[1] / 1000)
        if reply[0] == -1:
            raise SessionSuperseded
        _, now_ms, epoch, members, claims, *more = reply
        names = tuple(member.decode() for member in members) if members else None
        slots, flat = more or (b"", ())
        flushed = {
            name: int(float(token)) for name, token in zip(flat[::2], flat[1::2], strict=True)
        }
        return Claimed(now_ms, epoch, names, tuple(map(_claim, claims)), slots, flushed)

    def reconcile(
        self, inc: str, *, session: int, server: str = "", rejoined: bool = False,
        bare: bool = False, known: Iterable[Known] = (),
    ) -> Command:  # fmt: skip
        """Its reply is read by ``read_claim``.

        Args:
            server: the server's run id, empty if it does not tell.
            rejoined: this process was a member before, under another incarnation.
            bare: the server was found without functions.
            known: what the node has taken and not ended, and its runs for which nobody is answered.
        """
        args: list[Arg] = [inc, str(session), server, str(int(rejoined)), str(int(bare))]
        for known_one in known:
            args += (_raw(known_one.id), str(known_one.token), _raw(known_one.address))
        return self._call("reconcile", *args)

    @staticmethod
    def hit(id: str | bytes, payload: str | bytes) -> Ending:
        """A call that has not been claimed is answered from an entry."""
        return ("hit", id, payload)

    @staticmethod
    def many(group: str, payload: str, length: int) -> Ending:
        """All calls of a group are answered; ``length`` as for ``settle``."""
        return ("many", group, payload, str(length))

    @staticmethod
    def call(outcome: Outcome, id: str, address: str, payload: str, keep_s: float) -> Ending:
        """A call ends; ``payload`` is its answer, which is kept for ``keep_s`` seconds."""
        how = f"call{outcome}"
        return (how, _raw(id), _raw(address), _raw(payload), milliseconds(keep_s))

    @staticmethod
    def job(outcome: Outcome, id: str, address: str, body: str, report: str) -> Ending:
        """A job ends, with a value or an error in RQ's encoding; an error has a report."""
        return (f"job{outcome}", _raw(id), _raw(address), body, report)

    def answer(self, inc: str, endings: Iterable[Ending], *, draining: bool = False) -> Command:
        """Its reply has the ids of those jobs whose dependents are to be enqueued."""
        flat: Iterable[Any] = chain.from_iterable(endings)
        return self._call("answer", inc, codec.utc(), str(int(draining)), *flat)

    def take_state(self, inc: str, address: str, *, token: int, made: int) -> Command:
        """Take what a stateful id has left, and hold the id for an object.

        Args:
            token: of the run that takes it.
            made: of the run that made the object; the hold is known by it, see ``object_hold``.
        """
        return self._call("take_state", inc, address, str(token), str(made))

    def read_state(self, reply: Sequence[Any]) -> str:
        """Return the state as JSON, "" for none. Raises: StateSuperseded."""
        if reply[0] == 0:
            raise StateSuperseded
        text: str = reply[1].decode()
        return text

    def keep_state(self, inc: str, address: str, state: str, *, token: int) -> Command:
        """Keep a state, as JSON, or none: "". The reply is 1; 0 where a later run has taken it."""
        return self._call("keep_state", inc, address, str(token), state)

    def hand_over(
        self, inc: str, entries: Iterable[tuple[bytes, bytes]], *, session: int, epoch: int
    ) -> Command:
        """Give what is kept of ids that have moved in an epoch to their owners.

        Args:
            entries: addresses, and what ``node.handoff`` writes of each.
        """
        flat: Iterable[Any] = chain.from_iterable(entries)
        return self._call("hand_over", inc, str(session), str(epoch), *flat)

    def read_hand_over(self, reply: Sequence[Any]) -> Sequence[int] | None:
        """Return the places of those to be given again later; None where all are too late.

        Raises: LeaseLost, SessionSuperseded, Settling.
        """
        if reply[0] == 1:
            later: Sequence[int] = reply[1]
            return later
        if reply[0] != OTHER_EPOCH:
            self.read_claim(reply)
        return None

    def take_over(self, inc: str) -> Command:
        """Take a packet of what others have given. Its reply is read by ``read_take_over``."""
        return self._call("take_over", inc)

    def read_take_over(self, reply: Sequence[Any]) -> Packet | None:
        if len(reply) == 1:
            return None
        now_ms, packet, left = reply
        epoch, _, text = packet.partition(b"\n")
        return Packet(now_ms, int(epoch), text.split(b"\n"), left)

    def drain(self, name: str, inc: str = "") -> Command:
        """``inc``: drain this incarnation alone, not a successor of its name."""
        return self._call("drain", name, inc)

    def leave(self, name: str, inc: str) -> Command:
        return self._call("leave", name, inc, "", "")

    def report_death(self, name: str, *, pid: int, host: str) -> Command:
        """The word of a parent that has seen its child die."""
        return self._call("leave", name, "", str(pid), host)

    def await_jobs(self, block_s: float) -> Command:
        """Wait until something lies in RQ's list: its first job is put where it was."""
        queue = self.keys.ingress_queue
        return ("BLMOVE", queue, queue, "LEFT", "LEFT", str(block_s))

    def arrivals(self, inc: str, *, most: int) -> Command:
        """Enqueue what is due, and read jobs that lie in RQ's list and that no node has."""
        return self._call("arrivals", inc, str(most), codec.utc())

    def read_arrivals(self, reply: Sequence[Any] | None) -> list[Arrival]:
        """In the order in which they are to be adopted."""
        if not reply:
            return []
        is_front = reply[0] == b"front"
        rows = zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
        found = [Arrival(id, data, is_front, wants.decode()) for id, data, wants in rows]
        return found[::-1] if is_front else found

    def adopt(self, job_id: bytes, address: str, *, is_front: bool = False) -> Command:
        where = "front" if is_front else "back"
        return self._call("adopt", job_id, address, "", "", codec.utc(), where)

    def refuse(self, job_id: bytes, reason: str) -> Command:
        report = answer_codec.failure_report("Unreadable", reason)
        text = codec.exc_string(reason + "\n")
        return self._call("adopt", job_id, "", report, text, codec.utc(), "back")


def object_hold(made: int, address: str) -> str:
    """Return the id by which an object holds its address."""
    return f"~{made}-{address}"


def _claim(row: Sequence[Any]) -> Claim:
    id, what, address, token, number, data, waited_ms = row
    lost = what == b"lost"
    deadline_ms, deaths = (0, number) if lost else (number, 0)
    name, waited_s = text_of(id), waited_ms / 1000
    return Claim(name, what.decode(), text_of(address), token, deadline_ms, data, deaths, waited_s)


def text_of(raw: bytes) -> str:
    """What anyone may have written: bytes that are no text come back as they were, by ``_raw``."""
    return raw.decode(errors="surrogateescape")


def _raw(text: str) -> str | bytes:
    return text if text.isascii() else text.encode(errors="surrogateescape")


@lru_cache(maxsize=256)
def milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)) if seconds > 0 else 0)
