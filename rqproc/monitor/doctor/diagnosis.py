"""All checks, one after the other, whatever becomes of each.

Knows the checks by name, and how one ends that cannot go on. Must not know what they look at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial

from rqproc.errors import RedisUnavailable
from rqproc.monitor.doctor import cluster_checks, leftovers, server_checks
from rqproc.monitor.doctor.findings import Finding, Findings, fault, skipped
from rqproc.monitor.doctor.rights import rights
from rqproc.monitor.doctor.server_view import NotAllowed, ServerView
from rqproc.protocol.keys import Keys
from rqproc.protocol.rights import Role
from rqproc.transport.connection import ConnectionLost, Refused
from rqproc.transport.connector import CONNECT_TIMEOUT_S, Connector

Check = Callable[[ServerView], Findings]

CHECKS: dict[str, Check] = {
    "version": server_checks.version,
    "role": server_checks.role,
    "eviction": server_checks.eviction,
    "memory": server_checks.memory,
    "persistence": server_checks.persistence,
    "latency": server_checks.latency,
    "slow commands": server_checks.slow_commands,
    "buffers": server_checks.buffers,
    "connections": server_checks.connections,
    "rights": rights,
    "functions": cluster_checks.functions,
    "nodes": cluster_checks.nodes,
    "settings": cluster_checks.alike,
    "stuck": cluster_checks.stuck,
    "queues": cluster_checks.queues,
    "workers": cluster_checks.workers,
    "keys": leftovers.keys,
    # The last one: a clock that jumps does so meanwhile.
    "clock": server_checks.clock,
}


def diagnose(
    connector: Connector,
    keys: Keys,
    *,
    timeout_s: float,
    begun: Callable[[str], None],
    user: str | None = None,
    role: Role | None = None,
    only: Collection[str] = tuple(CHECKS),
) -> Iterator[Finding]:
    """Yield what the checks find, one by one; a server that cannot be reached is a finding too.

    Args:
        timeout_s: seconds for all of it.
        begun: called with the name of each check before it begins.
        user, role: see ``rights``.
        only: the names of the checks to make.

    Raises:
        ConfigError: the URL cannot be followed.
    """
    clock = connector.runtime.monotonic
    end = clock() + timeout_s
    begun("connection")
    try:
        connection = connector.connect(timeout_s=min(timeout_s, CONNECT_TIMEOUT_S))
    except (ConnectionLost, Refused) as error:
        advice = error.advice
        yield replace(fault(f"{connector.server}: {error}", advice), check="connection")
        return
    except RedisUnavailable as error:
        yield replace(fault(str(error), ""), check="connection")
        return
    try:
        view = ServerView(connector, connection, keys, left_s=lambda: end - clock())
        checks: dict[str, Check] = {**CHECKS, "rights": partial(rights, user=user, role=role)}
        for name, check in checks.items():
            if name not in only:
                continue
            begun(name)
            for finding in _findings(check, view):
                yield replace(finding, check=name)
    except ConnectionLost as error:
        yield replace(fault(f"no answer any more: {error}", error.advice), check="connection")
    finally:
        connection.close()


def _findings(check: Check, view: ServerView) -> Findings:
    """Raises: ConnectionLost: there is no asking on."""
    try:
        yield from check(view)
    except NotAllowed as error:
        if error.is_unknown:
            yield skipped(f"the server has no {error.command}, or has it under another name")
        else:
            yield skipped(
                f"this user may not run {error.command}", f"ACL SETUSER ... +{error.command}"
            )
    except Refused as error:
        yield fault(str(error), error.advice)
