"""Every Redis key that rqproc reads or writes, and who writes it.

============================ ======== ========================= ==================================
key (prefix rqproc:NS:2:)    type     ttl                       written by
============================ ======== ========================= ==================================
members                      zset     none                      join, drain, drop
slots                        hash     none; hash slot ->        as members, with placement by slots
                                      incarnation
leases                       zset     none; score = expiry, ms  join, beat, drop; "!" at 0: fence,
                                                                drop
nodes                        hash     none; name -> incarnation join, drop
node:NAME                    hash     gone with the node        join, beat, drain, reconcile, drop
open:INCARNATION             zset     gone with the node;       route, scatter, enqueue; answer,
                                      score = routed at, us     claim; drop
claims:INCARNATION           hash     gone with the node        claim, settle, take_state; answer,
                                                                drop, reconcile
holders                      hash     none; empty when idle     claim, settle, take_state; answer,
                                                                drop, reconcile
epoch                        integer  none                      join, drain, drop, reconcile
token                        integer  none                      join, claim, settle, reconcile
waiting                      list     none                      whoever places a call while no
                                                                node lives; taken over by join
withdrawn:ID                 string   deadline and a minute     withdraw; drop, where all are dead
carrier                      string   0.1 s                     arrivals
pulse                        integer  none; ms of the last beat join, beat
suspects                     hash     10 min after a death      drop; cleared by answer, adopt
waits:ADDRESS                hash     the asking call's timeout route, for a handler that asks; drop
fence:CALLER, fences         string   longest timeout and 2 min fence, after a lost connection
flushed                      zset     none                      answer, when entries of a resource,
                                                                or all, are invalidated
server                       string   none; the run id          reconcile
settling                     string   a lease and a minute      reconcile, after another server
                                                                process has taken over
============================ ======== ========================= ==================================

``rqproc-answers:NS:2:ID`` (string, until the deadline and a minute) is the answer to a call that
was run, for its caller to ask for again; or one that is too big to be pushed, for a minute if it is
no run's. Written by answer and settle, read and deleted by callers.

``rqproc-states:NS:2:ADDRESS`` (hash) is the state that a stateful id has left, with the token of
the latest run that took or kept it; without ttl, or for a day where there is the token alone.
Written by take_state and keep_state; callers have no right to it.

``rqproc-stats:NS:2:NAME`` (string, for a lease and a minute; gone with the node) is what a node
has last published of its work. Written by beat, deleted by drop; callers may not read it.

``2`` is the protocol's number. ``rqproc:NS:protocols`` (zset, score = end of the last lease in ms)
says which protocols have live nodes in a namespace.

``rqproc-entries:NS:2:INCARNATION`` (list, ten seconds) is what other nodes have
kept of ids that are this one's by now. Written by hand_over, taken by take_over; callers have no
right to it.

Channels with the same prefix: ``reply:CALLER``, where answer publishes the answers to one caller,
and ``dropped``, where it publishes the address of each id that was invalidated, ``*RESOURCE`` where
all of a resource's were, and ``*`` where all were. Nodes listen to
``pubsub:NAME`` of RQ's own prefix, for its commands. A channel is the server's, of all its
databases.

Keys of RQ's own (prefix ``RQ_KEY_PREFIX``, "rq"), in RQ's own shapes: ``job:ID``, ``results:ID``,
``queue:NAME``, ``queues``, ``wip:NAME``, ``finished:NAME``, ``failed:NAME``,
``scheduled:NAME``, ``executions:ID``, ``execution:ID:TOKEN``, ``workers``, ``workers:NAME``,
``worker:NAME``, ``worker:NAME:executions``, and ``suspended``, which is read.

``drop`` is not a function of its own but the part of most that removes a node whose lease has run
out, or, in leave, one that says so itself or whose parent does.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from rqproc.errors import ConfigError
from rqproc.model import DEFAULT_NAMESPACE
from rqproc.protocol.library import PROTOCOL

_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NODE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


RQ_PREFIX = os.environ.get("RQ_KEY_PREFIX", "rq")
"""RQ's key prefix, read when and where RQ reads it, without the cost of importing RQ."""


def check_node_name(name: str) -> str:
    """Return a node's name unchanged.

    Raises:
        ConfigError: not 1 to 64 of letters, digits, ``_``, ``-`` and ``.``.
    """
    if not _NODE.fullmatch(name):
        raise ConfigError(f"invalid node name {name!r}: 1 to 64 of letters, digits, '_', '-', '.'")
    return name


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one namespace."""

    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigError(
                f"invalid namespace {self.namespace!r}: 1 to 64 of letters, digits, '_', '-'"
            )

    @property
    def state(self) -> str:
        """Prefix of the cluster's own keys."""
        return f"rqproc:{self.namespace}:{PROTOCOL}:"

    def reply(self, caller: str) -> str:
        """The channel where a caller hears its answers."""
        return f"{self.state}reply:{caller}"

    def answer(self, call: str) -> str:
        """Where the answer to a call is kept, for its caller to ask for again."""
        return f"rqproc-answers:{self.namespace}:{PROTOCOL}:{call}"

    def kept_state(self, address: str) -> str:
        """Where the state of a stateful id is kept."""
        return f"rqproc-states:{self.namespace}:{PROTOCOL}:{address}"

    def stats(self, node: str) -> str:
        """Where a node publishes what it counts and remembers."""
        return f"rqproc-stats:{self.namespace}:{PROTOCOL}:{node}"

    def entries(self, inc: str) -> str:
        """Where a node finds what others have kept of ids that are its own by now."""
        return f"rqproc-entries:{self.namespace}:{PROTOCOL}:{inc}"

    @property
    def dropped(self) -> str:
        """The channel that near-caches listen to."""
        return f"{self.state}dropped"

    @property
    def ingress(self) -> str:
        """Name of the RQ queue that any application may enqueue on."""
        if self.namespace == DEFAULT_NAMESPACE:
            return "rqproc"
        return f"rqproc.{self.namespace}"

    @property
    def node_queues(self) -> str:
        """Prefix of the nodes' queue names; a namespace has no dot, so none is an ingress."""
        return f"rqproc.{self.namespace}."

    def queue_name(self, node: str) -> str:
        return self.node_queues + node

    def queue(self, node: str) -> str:
        return f"{RQ_PREFIX}:queue:{self.queue_name(node)}"

    def commands(self, node: str) -> str:
        """The channel where RQ publishes commands to a worker."""
        return f"{RQ_PREFIX}:pubsub:{self.queue_name(node)}"

    @property
    def ingress_queue(self) -> str:
        return f"{RQ_PREFIX}:queue:{self.ingress}"


def namespace_of_ingress(queue: str) -> str | None:
    """Return the namespace that a queue's name stands for; None where it is no ingress queue."""
    name, _, namespace = queue.partition(".")
    return (namespace or DEFAULT_NAMESPACE) if name == "rqproc" else None


def job_key(job_id: str) -> str:
    return f"{RQ_PREFIX}:job:{job_id}"


def results_key(job_id: str) -> str:
    return f"{RQ_PREFIX}:results:{job_id}"
