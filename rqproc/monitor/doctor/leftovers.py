"""Keys that belong to nobody: of nodes that are gone, of another protocol, of another namespace.

Knows how keys are named. Removes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rqproc.monitor.doctor.findings import Findings, listed, ok, warning
from rqproc.monitor.doctor.server_view import ServerView
from rqproc.protocol.keys import RQ_PREFIX

SCAN_S = 2.0
"""For so long the names of keys are read: a server may have very many."""
BATCH = "1000"
MOST_HOLDERS = 10_000


@dataclass(slots=True)
class _Found:
    of_nodes: dict[str, str] = field(default_factory=dict)
    """Keys of one node, and its name or incarnation."""
    of_protocols: list[str] = field(default_factory=list)
    namespaces: set[str] = field(default_factory=set)


def keys(view: ServerView) -> Findings:
    """Keys that nobody will use or remove any more."""
    found, is_whole = _look(view)
    bad = False
    if left := sorted(_without_node(view, found.of_nodes)):
        bad = True
        yield warning(
            f"keys of nodes that are gone: {listed(left)}",
            "the server has lost some of its data, or someone has removed keys: look into them, "
            "then DEL; what lies in a queue is taken by a node of that name, once it is started",
        )
    if held := _held_by_nobody(view):
        bad = True
        yield warning(
            f"ids that are held by nodes which are gone: {listed(held)}",
            f"HDEL {view.keys.state}holders, once you are sure that no such process runs",
        )
    if found.of_protocols:
        bad = True
        yield warning(
            f"keys of another protocol: {listed(sorted(found.of_protocols))}",
            "of an older or newer rqproc: DEL them if none is used here any more",
        )
    others = found.namespaces - {view.keys.namespace}
    if others and not view.nodes:
        bad = True
        yield warning(
            f"other namespaces are on this server: {listed(sorted(others))}",
            "is it one of these that you mean (--namespace)?",
        )
    if not bad:
        far = "" if is_whole else f", as far as could be looked in {SCAN_S:g} s"
        yield ok(f"every key belongs to a node that lives{far}")


def _look(view: ServerView) -> tuple[_Found, bool]:
    """Return what was found, and whether all keys were looked at."""
    found = _Found()
    keys = view.keys
    own = re.escape(keys.state)
    queues = re.escape(f"{RQ_PREFIX}:queue:{keys.node_queues}")
    of_node = re.compile(rf"(?:{own}node:|{queues})(?P<name>[\w.-]+)$", re.ASCII)
    of_incarnation = re.compile(rf"{own}(?:open|claims):(?P<name>[\w.-]+#\d+)$", re.ASCII)
    other = re.compile(rf"rqproc:{re.escape(keys.namespace)}:(?!protocols$)")
    namespace = re.compile(r"rqproc:([\w-]+):", re.ASCII)
    began = view.clock()
    for name in _names(view):
        if match := of_node.match(name) or of_incarnation.match(name):
            found.of_nodes[name] = match["name"]
        elif other.match(name) and not name.startswith(keys.state):
            found.of_protocols.append(name)
        if match := namespace.match(name):
            found.namespaces.add(match[1])
        if view.clock() - began > SCAN_S:
            return found, False
    return found, True


def _names(view: ServerView) -> Iterator[str]:
    cursor = "0"
    while True:
        after, names = view.ask("SCAN", cursor, "MATCH", "*rqproc[:.]*", "COUNT", BATCH)
        yield from (name.decode(errors="replace") for name in names)
        cursor = after.decode()
        if cursor == "0":
            return
        yield ""  # nothing matched in a batch: time passes all the same


def _without_node(view: ServerView, of_nodes: dict[str, str]) -> Iterator[str]:
    """Those whose node does not live now: it may have come or gone while the others were read."""
    found = view.look_at_members()
    there = {n.name for n in found.nodes} | {n.incarnation for n in found.nodes} if found else set()
    for key, owner in of_nodes.items():
        if owner not in there and view.ask("EXISTS", key):
            yield key


def _held_by_nobody(view: ServerView) -> list[str]:
    holders = f"{view.keys.state}holders"
    if view.ask("HLEN", holders) > MOST_HOLDERS:
        return []
    flat = view.ask("HGETALL", holders)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    held = {address.decode(): told.decode().split(" ")[0] for address, told in pairs}
    found = view.look_at_members()
    live = {node.incarnation for node in found.nodes} if found else set()
    return sorted(address for address, incarnation in held.items() if incarnation not in live)
