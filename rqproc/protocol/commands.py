"""The protocol as commands: what callers say, and by ``node_commands`` what nodes do.

Knows the functions' contracts. Must not know how a command reaches the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from rqproc.ids import Id, address, parse_address, slot
from rqproc.model import Location, Membership, NodeInfo
from rqproc.placement import Placement, hash_slot
from rqproc.protocol import codec, stats_codec
from rqproc.protocol.keys import RQ_PREFIX
from rqproc.protocol.messages import (
    Sent,
)
from rqproc.protocol.node_commands import NodeCommands, milliseconds
from rqproc.stats import ClusterStats
from rqproc.transport.connection import Arg, Command

MOST_TOGETHER = 256
"""Calls that one group may have."""


class Commands(NodeCommands):
    """The functions of one namespace, as commands."""

    def route_one(
        self, id: str, address: str, data: bytes | str, *, timeout_s: float, parent: str
    ) -> Command:
        """``route`` for one call that was not sent before: the usual case, made at once."""
        return (
            "FCALL", self._route, "1", self._state, RQ_PREFIX, milliseconds(timeout_s),
            codec.utc(), parent, "new", id, address, data, "",
        )  # fmt: skip

    def route(
        self, calls: Iterable[Sent], *, timeout_s: float, parent: str = "", again: bool = False
    ) -> Command:
        """Queue calls, each at its owner.

        Args:
            timeout_s: seconds after which nobody waits for them any more.
            parent: address of the handler run that asks and waits; empty where none does.
            again: they may have been sent before.
        """
        how = "again" if again else "new"
        return self._call("route", milliseconds(timeout_s), codec.utc(), parent, how, *_flat(calls))

    def scatter(
        self, group: str, data: bytes | str, addresses: Sequence[str], *, timeout_s: float
    ) -> Command:
        """Queue calls that are asked together; the place of each is its id in the group."""
        return self._call("scatter", milliseconds(timeout_s), codec.utc(), group, data, *addresses)

    def enqueue(
        self, jobs: Iterable[Sent], *, timeout_s: float = 0.0, result_ttl_s: int | None = None
    ) -> Command:
        """Queue jobs. ``result_ttl_s``: seconds that a result is kept; None for RQ's default."""
        ttl = "" if result_ttl_s is None else str(result_ttl_s)
        flat = chain.from_iterable((job.id, job.address, job.data) for job in jobs)
        return self._call("enqueue", milliseconds(timeout_s), codec.utc(), ttl, *flat)

    def withdraw(self, calls: Iterable[Sent], *, timeout_s: float) -> Command:
        """Take back those calls that are lost; the reply has for each its answer, or nothing."""
        flat = chain.from_iterable((call.id, call.group) for call in calls)
        return self._call("withdraw", milliseconds(timeout_s), *flat)

    def fence(self, caller: str, for_s: float) -> Command:
        """Have dropped what comes late under this caller's name and says that it is new."""
        return self._call("fence", caller, milliseconds(for_s))

    def survey(self) -> Command:
        return self._call("survey")

    def read_survey(self, reply: Sequence[Any]) -> Membership:
        epoch, _, rows, *more = reply
        counts = iter(more[0] if more else ())
        slots = dict(zip(counts, counts, strict=True))
        nodes = tuple(self._node(row, slots.get(row[1], 0)) for row in rows)
        return Membership(self.keys.namespace, epoch, nodes, "slots" if more else "modulo")

    def _node(self, row: Sequence[Any], slots: int) -> NodeInfo:
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
            slots=slots,
        )

    def stats(self) -> Command:
        return self._call("stats")

    def read_stats(self, reply: Sequence[Any]) -> ClusterStats:
        now_ms, flat = reply
        rows = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        nodes = [stats_codec.decode(inc.decode(), at_ms / 1000, text) for inc, at_ms, text in rows]
        return ClusterStats(now_ms / 1000, tuple(sorted(nodes, key=lambda one: one.node)))

    def locate(self, resource: str, ids: Iterable[Id]) -> Command:
        return self._call("locate", *(address(resource, id) for id in ids))

    def read_locate(self, command: Command, reply: Sequence[Any]) -> list[Location]:
        epoch, raw_members, found, *more = reply
        placement: Placement = "slots" if more else "modulo"
        members = tuple(member.decode() for member in raw_members)
        ids = [parse_address(str(text))[2] for text in command[5:]]
        return [
            Location(
                id, slot(id), epoch, members, owner.decode() or None, holder.decode() or None,
                placement, hash_slot(slot(id)) if more else None,
            )
            for id, (owner, holder) in zip(ids, found, strict=True)
        ]  # fmt: skip


def _flat(calls: Iterable[Sent]) -> Iterable[Arg]:
    found: Iterable[Any] = chain.from_iterable(calls)
    return found
