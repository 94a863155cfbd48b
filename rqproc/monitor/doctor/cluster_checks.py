"""Checks of the cluster: its functions, its nodes, and what lies in their queues.

Knows keys and what the functions tell. Changes nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict

from rqproc.ids import parse_address
from rqproc.monitor.doctor.findings import Findings, fault, listed, ok, warning
from rqproc.monitor.doctor.server_view import ServerView
from rqproc.protocol.keys import RQ_PREFIX
from rqproc.protocol.library import library

SETTINGS = {
    "lease": "lease in ms",
    "max_queue": "--max-queue",
    "max_waiters": "--max-waiters",
    "lanes": "--concurrency",
}
VERSIONS = {"rq": "RQ", "python": "Python", "code": "the app's code"}
FULL = 0.8
QUIET = 0.5
"""Share of its lease that a node which beats has left at least."""
LOOKED_AT = 1000
"""So much of a queue."""
EPOCH_MARK = "epoch"
IDS_OF_CALLS = re.compile(r"r[0-9a-f]+-([cai][0-9a-f_]+-\d+-.+|g[0-9a-f]+)")
DEADLY = 3


def functions(view: ServerView) -> Findings:
    """Nodes load the functions when they join; nodes of two builds replace each other's."""
    found = view.ask("FUNCTION", "LIST", "LIBRARYNAME", f"rqproc_{library().protocol}", "WITHCODE")
    digest = re.search(rb"local DIGEST = '(\w+)'", b"".join(_texts(found)))
    if not digest:
        yield warning("no node has brought the functions here yet", "rqproc node start")
    elif digest[1].decode() != library().digest:
        yield warning(
            f"the functions are another build ({digest[1].decode()}) than this program's "
            f"({library().digest})",
            "nodes of another version of rqproc run here: have all of one",
        )
    else:
        yield ok(f"the functions are this program's ({library().digest})")


def _texts(reply: object) -> list[bytes]:
    if isinstance(reply, bytes):
        return [reply]
    return [text for part in reply for text in _texts(part)] if isinstance(reply, list) else []


def nodes(view: ServerView) -> Findings:
    """Requests need a member; one that is late with its heartbeat may be about to lose its ids."""
    members = view.membership.members if view.membership else ()
    if not members:
        draining = f"; {listed(view.nodes)} drain" if view.nodes else ""
        yield warning(
            f"no node serves the namespace {view.keys.namespace}{draining}",
            "rqproc node start; or is it another namespace (--namespace)?",
        )
        return
    assert view.membership
    late = []
    for node in view.membership.nodes:
        lease_ms = int(view.ask("HGET", f"{view.keys.state}node:{node.name}", "lease") or 0)
        if lease_ms and node.lease_left_s * 1000 < lease_ms * QUIET:
            late.append(
                f"{node.name} (has {node.lease_left_s:.1f} s of {lease_ms / 1000:g} s left)"
            )
    if late:
        yield warning(
            f"no heartbeat for a while: {listed(late)}",
            "is the process stopped, its machine busy, or the server out of its reach?",
        )
    some = "member" if len(members) == 1 else "members"
    yield ok(f"{len(members)} {some}: {listed(members, most=10)}")


def alike(view: ServerView) -> Findings:
    """Any node may be the owner of an id tomorrow: they should be the same."""
    differ = False
    for fields, advice in (
        (SETTINGS, "start all nodes of a namespace with the same options"),
        (VERSIONS, "a deploy under way? Else start all nodes from the same build of the app"),
    ):
        for field, name in fields.items():
            by_value = defaultdict(list)
            for node in view.nodes:
                value = view.ask("HGET", f"{view.keys.state}node:{node}", field)
                if value:
                    by_value[value.decode(errors="replace").split(" ")[0]].append(node)
            if len(by_value) > 1:
                differ = True
                told = "; ".join(f"{value} at {listed(at)}" for value, at in by_value.items())
                yield warning(f"nodes differ in {name}: {told}", advice)
    if not differ and view.nodes:
        yield ok("all nodes have the same settings and versions")


def stuck(view: ServerView) -> Findings:
    """Lanes that nobody can enter, and ids that nodes die on."""
    bad = False
    for node in view.membership.nodes if view.membership else ():
        if node.stuck:
            bad = True
            yield fault(
                f"{node.name} has {node.stuck} handlers that run past their timeout: their ids are "
                "refused until they end",
                f"restart {node.name} (pid {node.pid} on {node.host})",
            )
    suspects = view.ask("HGETALL", f"{view.keys.state}suspects")
    deadly = [
        _readable(address)
        for address, told in zip(suspects[::2], suspects[1::2], strict=True)
        if int(told.split()[0]) >= DEADLY
    ]
    if deadly:
        bad = True
        yield fault(
            f"ids that {DEADLY} nodes or more have died on: {listed(deadly)}",
            "what do their handlers do that ends a process: memory, a native library?",
        )
    if view.ask("GET", f"{view.keys.state}settling"):
        bad = True
        yield warning(
            "the server has restarted, and waits until all nodes have told what they run",
            "it takes a lease at most; ask again then",
        )
    if not bad:
        yield ok("no handler is stuck")


def queues(view: ServerView) -> Findings:
    """What waits for nodes, and what is not for them."""
    bad = False
    for node in view.membership.nodes if view.membership else ():
        most = int(view.ask("HGET", f"{view.keys.state}node:{node.name}", "max_queue") or 0)
        if most and node.queued >= most * FULL:
            bad = True
            yield warning(
                f"{node.queued:,} of {most:,} requests wait for {node.name}: callers are about to "
                "get Overloaded",
                "start more nodes, or look for slow handlers (`rqproc node list`)",
            )
        if strangers := _strangers(view, node.name, node.incarnation):
            bad = True
            yield warning(
                f"jobs in the queue of {node.name} that rqproc has not put there: "
                f"{listed(strangers)}",
                f"enqueue on {view.keys.ingress!r}, which sends jobs to their owners; `rq info` "
                "shows who uses which queue",
            )
    if view.ask("EXISTS", f"{RQ_PREFIX}:suspended"):
        bad = True
        yield warning("RQ is suspended: nodes start no jobs", "rq resume")
    if not bad:
        yield ok("no queue is long, and none has others' jobs")


def _strangers(view: ServerView, name: str, incarnation: str) -> list[str]:
    """Ids of jobs that lie in a node's queue and that no function has placed there."""

    def waiting() -> list[str]:
        queue = view.ask("LRANGE", view.keys.queue(name), "0", str(LOOKED_AT - 1))
        ids = (id.decode(errors="replace") for id in queue)
        return [id for id in ids if id != EPOCH_MARK and not IDS_OF_CALLS.fullmatch(id)]

    opened = f"{view.keys.state}open:{incarnation}"
    found = [id for id in waiting() if view.ask("ZSCORE", opened, id) is None]
    # What was answered between the two questions lies there no more.
    return sorted(set(found) & set(waiting())) if found else []


def workers(view: ServerView) -> Findings:
    """A stock worker of RQ's on a node's queue takes calls, and does not know what they are."""
    bad = False
    for node in view.nodes:
        queue = view.keys.queue_name(node)
        own = f"{RQ_PREFIX}:worker:{queue}"
        there = {key.decode() for key in view.ask("SMEMBERS", f"{RQ_PREFIX}:workers:{queue}")}
        if others := there - {own}:
            bad = True
            names = listed(sorted(key.removeprefix(f"{RQ_PREFIX}:worker:") for key in others))
            yield fault(
                f"other workers take from the queue of {node}: {names}",
                f"end them; a stock worker may serve {view.keys.ingress!r}, no node's own queue",
            )
    if not bad:
        yield ok("only nodes take from their queues")


def _readable(address: bytes) -> str:
    try:
        _, resource, id = parse_address(address.decode())
    except ValueError:
        return address.decode(errors="replace")
    return f"{resource}:{id}"
