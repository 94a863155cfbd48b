"""The cluster as the scripts see it: every script's call and the reading of its answer.

Knows the scripts' contracts. Must not know how a command reaches the server: these functions make
commands and read replies, so that threads, event loops, nodes and tests share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, Literal, NamedTuple

from rqproc import wire
from rqproc.errors import NameTaken
from rqproc.keys import Keys
from rqproc.link import Arg, Command
from rqproc.model import Location, Membership, NodeInfo, State
from rqproc.placement import address, parse_address, slot
from rqproc.scripts import Scripts, scripts_of

Kind = Literal["call", "job"]

MOST_TOGETHER = 256
"""Calls that one job may carry."""

# What is made for every request is a named tuple: a frozen dataclass takes three times as long.


class Job(NamedTuple):
    """A request on its way into the cluster."""

    id: str
    address: str
    data: bytes


class Order(NamedTuple):
    """Jobs that enter together, and the stream in which their answers are awaited.

    Attributes:
        timeout_s: seconds after which nobody waits any more; 0 for a job without a deadline.
        reply: name of the shared stream; empty where each job is answered in its own, or where
            it is not known yet.
        result_ttl_s: seconds that a job's result is kept; None for RQ's default.
        parent: address of the handler run that asks and waits; empty where none does.
        together: data of an RQ job that may carry these calls together, and others with them; empty
            where each must be a job of its own.
    """

    kind: Kind
    jobs: tuple[Job, ...]
    timeout_s: float = 0.0
    reply: str = ""
    result_ttl_s: int | None = None
    parent: str = ""
    together: bytes = b""


@dataclass(frozen=True, slots=True)
class Joined:
    """A membership just begun."""

    incarnation: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Beaten:
    """What a heartbeat was told."""

    epoch: int
    state: State


class Claim(NamedTuple):
    """A request that this node has taken and must answer.

    Attributes:
        token: fencing token; higher than that of any earlier claim in the cluster.
        deadline_ms: on the server's clock, 0 for none.
        lost: nodes that died on this request before.
    """

    id: str
    token: int
    address: str
    kind: Kind | Literal["part"]
    reply: str
    deadline_ms: int
    data: bytes
    lost: int


class ManyClaims(NamedTuple):
    """Calls of one job that this node has taken together: ``calls`` are numbers and addresses, in
    turn; ``token`` is the first one's, the others' follow.
    """

    id: str
    token: int
    calls: Sequence[bytes]
    reply: str
    deadline_ms: int

    def claim(self, place: int, address: str) -> Claim:
        """Return the claim of one of them."""
        id = f"{self.id}:{self.calls[2 * place].decode()}"
        token = self.token + place
        return Claim(id, token, address, "part", self.reply, self.deadline_ms, b"", 0)


@dataclass(frozen=True, slots=True)
class Taken:
    """What one take gave: ``members`` is None where the epoch has not changed."""

    now_ms: int
    epoch: int
    members: tuple[str, ...] | None
    claims: tuple[Claim, ...]
    together: tuple[ManyClaims, ...] = ()

    def in_turn(self) -> Sequence[Claim | ManyClaims]:
        """All claims in the order of their tokens: what is run later has a higher one."""
        if not self.together:
            return self.claims
        return sorted((*self.claims, *self.together), key=lambda claim: claim.token)


class Finish(NamedTuple):
    """One claim's answer, ready for the stream.

    Attributes:
        outcome: see finish.lua.
        keep_s: how long the answer to a call is kept, if its caller does not fetch it.
    """

    claim: Claim
    outcome: Literal["ok", "dropped", "error", "expired", "stuck", "released"]
    body: str = ""
    note: str = ""
    report: str = ""
    keep_s: float = 60.0


class FinishMany(NamedTuple):
    """Answers to calls of one job: of each its claim, its number and its answer in JSON."""

    job: str
    reply: str
    keep_s: float
    calls: list[tuple[Claim, bytes, str]]


@dataclass(frozen=True, slots=True)
class Tally:
    """What a node counts, as its heartbeat reports it."""

    entries: int = 0
    hits: int = 0
    joined: int = 0
    misses: int = 0
    succeeded: int = 0
    failed: int = 0
    stuck: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a node lets wait: requests in its queue, requests of one id, and runs side by side."""

    queue: int
    waiters: int
    lanes: int


class LeaseLost(Exception):
    """This incarnation holds no lease any more."""


class Settling(Exception):
    """The server has lost what it knew: nothing is given out for ``left_s`` seconds."""

    def __init__(self, left_s: float) -> None:
        super().__init__(f"the server settles for {left_s:.1f} s")
        self.left_s = left_s


class SessionSuperseded(Exception):
    """A newer session of the same node has begun; this packet came late."""


class Cluster:
    """The scripts of one namespace, as functions that make commands."""

    def __init__(self, keys: Keys, scripts: Scripts | None = None) -> None:
        self.keys = keys
        self._scripts = scripts or scripts_of(keys)

    def _run(self, name: str, *args: Arg) -> Command:
        return ("EVALSHA", self._scripts[name].sha, 0, *args)

    def load(self, *names: str) -> tuple[Command, ...]:
        """Commands that make scripts known to the server, for after a NOSCRIPT."""
        return tuple(("SCRIPT", "LOAD", self._scripts[name].text) for name in names)

    # --- callers ---

    def route(self, order: Order, *, timeout_s: float | None = None) -> Command:
        """``timeout_s``: what is left of the order's own, where it is sent again."""
        left_s = order.timeout_s if timeout_s is None else timeout_s
        return self._route(
            order.jobs, kind=order.kind, timeout_s=left_s, reply=order.reply, parent=order.parent,
            result_ttl_s=order.result_ttl_s,
        )  # fmt: skip

    def route_calls(
        self, jobs: Sequence[Job], *, timeout_s: float, reply: str, parent: str, fence: str,
        quiet: bool,
    ) -> Command:  # fmt: skip
        """Calls of any number of orders whose answers are awaited in one stream.

        Args:
            fence: none of them has been sent before, unless something of this name is fenced;
                empty where they may have been.
            quiet: that nobody lives is no answer; it is only said in the reply.
        """
        return self._route(
            jobs, kind="call", timeout_s=timeout_s, reply=reply, parent=parent, fence=fence,
            quiet=quiet,
        )  # fmt: skip

    def _route(
        self, jobs: Sequence[Job], *, kind: Kind, timeout_s: float, reply: str, parent: str,
        result_ttl_s: int | None = None, fence: str = "", quiet: bool = False,
    ) -> Command:  # fmt: skip
        ttl = "" if result_ttl_s is None else result_ttl_s
        head = (kind, _ms(timeout_s), reply, wire.utc(), ttl, parent, fence, int(quiet))
        return self._run("route", *head, *_flat(jobs))

    def scatter(
        self, jobs: Sequence[Job], *, data: bytes, timeout_s: float, reply: str, fence: str,
        quiet: bool,
    ) -> Command:  # fmt: skip
        """Calls that go into the cluster together: one RQ job carries many; see scatter.lua."""
        args: list[Arg] = []
        for id, calls in groupby(jobs, _job_of):
            numbered = [(job.id.rpartition(":")[2], job.address) for job in calls]
            args += (id, data, len(numbered), *chain.from_iterable(numbered))
        head = (_ms(timeout_s), reply, wire.utc(), fence, int(quiet))
        return self._run("scatter", *head, *args)

    def withdraw(self, order: Order, *, timeout_s: float, reply: str = "") -> Command:
        """Take back those of an order's calls that are lost; their answers then say why."""
        ids = (job.id for job in order.jobs)
        return self._run("withdraw", reply or order.reply, _ms(timeout_s), *ids)

    def survey(self) -> Command:
        return self._run("survey")

    def read_survey(self, reply: Sequence[Any]) -> Membership:
        epoch, _, rows = reply
        return Membership(self.keys.namespace, epoch, tuple(self._node(row) for row in rows))

    def _node(self, row: Sequence[Any]) -> NodeInfo:
        name, inc, state, left_ms, queued, held, *counts, pid, host = row
        stuck, entries, hits, joined, misses = (int(count or 0) for count in counts)
        return NodeInfo(
            name=name.decode(),
            incarnation=inc.decode(),
            state=state.decode(),
            lease_left_s=left_ms / 1000,
            queue=self.keys.queue_name(name.decode()),
            queued=queued,
            held=held,
            stuck=stuck,
            entries=entries,
            hits=hits,
            joined=joined,
            misses=misses,
            pid=int(pid or 0),
            host=(host or b"").decode(),
        )

    def locate(self, resource: str, ids: Iterable[int | str]) -> Command:
        return self._run("locate", *(address(resource, id) for id in ids))

    def read_locate(self, command: Command, reply: Sequence[Any]) -> list[Location]:
        epoch, raw_members, found = reply
        members = tuple(member.decode() for member in raw_members)
        ids = [parse_address(str(text))[2] for text in command[3:]]
        return [
            Location(id, slot(id), epoch, members, owner.decode() or None, holder.decode() or None)
            for id, (owner, holder) in zip(ids, found, strict=True)
        ]

    # --- nodes ---

    def join(
        self, name: str, *, lease_s: float, nonce: str, limits: Limits, pid: int, host: str,
        versions: tuple[str, str],
    ) -> Command:  # fmt: skip
        most = (limits.queue, limits.waiters, limits.lanes)
        return self._run("join", name, _ms(lease_s), nonce, *most, pid, host, wire.utc(), *versions)

    def read_join(self, name: str, reply: Sequence[Any]) -> Joined:
        """Raises: NameTaken: a node of this name is alive."""
        if reply[0] == 0:
            raise NameTaken(name, reply[1] / 1000)
        return Joined(reply[1].decode(), reply[2])

    def beat(self, inc: str, *, lease_s: float, tally: Tally) -> Command:
        counts = (tally.entries, tally.hits, tally.joined, tally.misses)
        ends = (tally.succeeded, tally.failed, tally.stuck)
        return self._run("beat", inc, _ms(lease_s), *counts, *ends, wire.utc())

    def read_beat(self, reply: Sequence[Any]) -> Beaten:
        """Raises: LeaseLost."""
        if reply[0] == 0:
            raise LeaseLost
        return Beaten(reply[1], reply[2].decode())

    def take(self, inc: str, *, session: int, epoch: int, most: int, at: str) -> Command:
        return self._run("take", inc, session, epoch, most, at)

    def read_take(self, reply: Sequence[Any]) -> Taken:
        """Raises: LeaseLost, SessionSuperseded, Settling."""
        if reply[0] == 0:
            raise LeaseLost
        if reply[0] == -2:
            raise Settling(reply[1] / 1000)
        if reply[0] == -1:
            raise SessionSuperseded
        _, now_ms, epoch, members, jobs = reply
        names = tuple(member.decode() for member in members) if members else None
        claims = tuple(_claim(job) for job in jobs if job[3] != b"many")
        together = tuple(_claims(job) for job in jobs if job[3] == b"many")
        return Taken(now_ms, epoch, names, claims, together)

    def reconcile(
        self, inc: str, *, session: int, server: str = "", rejoined: bool = False,
        held: Iterable[Claim] = (),
    ) -> Command:  # fmt: skip
        """Its reply is read by ``read_take``: all that this node has taken.

        Args:
            server: the server's run id, empty if it does not tell.
            rejoined: this process was a member before, under another incarnation.
            held: what the node knows to hold, and its runs for which nobody is answered.
        """
        args: list[Arg] = [inc, session, server, int(rejoined)]
        for claim in held:
            args += (_raw(claim.id), claim.token, _raw(claim.address))
        return self._run("reconcile", *args)

    def finish(
        self, inc: str, finishes: Iterable[Finish | FinishMany], *, draining: bool = False
    ) -> Command:
        args: list[Arg] = [inc, wire.utc(), int(draining)]
        for finish in finishes:
            if isinstance(finish, FinishMany):
                args += (finish.job, len(finish.calls), "many", finish.reply, "ok", "", "", "")
                args.append(_ms(finish.keep_s))
                for claim, number, text in finish.calls:
                    args += (number, _raw(claim.address), text)
                continue
            claim = finish.claim
            args += (_raw(claim.id), _raw(claim.address), claim.kind, _raw(claim.reply))
            args += (finish.outcome, finish.body, _raw(finish.note), finish.report)
            args.append(_ms(finish.keep_s))
        return self._run("finish", *args)

    def drain(self, name: str, inc: str = "") -> Command:
        """``inc``: drain this incarnation alone, not a successor of its name."""
        return self._run("drain", name, inc)

    def leave(self, name: str, inc: str) -> Command:
        return self._run("leave", name, inc)

    def report_death(self, name: str, *, pid: int, host: str) -> Command:
        """The word of a parent that has seen its child die."""
        return self._run("leave", name, "", pid, host)

    def inspect(self, job_ids: Iterable[bytes]) -> Command:
        """Its reply has each job's data, empty where there is none."""
        return self._run("inspect", *job_ids)

    def adopt(self, job_id: bytes, address: str) -> Command:
        return self._run("adopt", job_id, address, "", "", wire.utc())

    def refuse(self, job_id: bytes, reason: str) -> Command:
        report = wire.failure_report("Unreadable", reason)
        return self._run("adopt", job_id, "", report, wire.exc_string(reason + "\n"), wire.utc())


def _claims(job: Sequence[Any]) -> ManyClaims:
    id, token, calls, _, reply, deadline_ms, _, _ = job
    return ManyClaims(_text(id), token, calls, _text(reply), int(deadline_ms))


def _job_of(job: Job) -> str:
    return job.id.rpartition(":")[0]


def _flat(jobs: Iterable[Job]) -> Iterable[Arg]:
    found: Iterable[Any] = chain.from_iterable(jobs)
    return found


def _claim(job: Sequence[Any]) -> Claim:
    id, token, address, kind, reply, deadline_ms, data, lost = job
    return Claim(
        _text(id),
        token,
        _text(address),
        kind.decode(),
        _text(reply),
        int(deadline_ms),
        data,
        lost,
    )


def _text(raw: bytes) -> str:
    """What anyone may have written: bytes that are no text come back as they were, by ``_raw``."""
    return raw.decode(errors="surrogateescape")


def _raw(text: str) -> Arg:
    return text if text.isascii() else text.encode(errors="surrogateescape")


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000)) if seconds > 0 else 0
