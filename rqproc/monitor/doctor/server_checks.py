"""Checks of the server itself: what it is, how it is set, how it does.

Knows INFO, CONFIG and SLOWLOG. Must not know nodes.
"""

from __future__ import annotations

import statistics
from collections import Counter

from rqproc.monitor.doctor.findings import Findings, fault, listed, ok, warning
from rqproc.monitor.doctor.server_view import ServerView
from rqproc.transport.connector import FIRST_MAJOR, FIRST_SERVERS
from rqproc.transport.replies import TROUBLES

MIB = 2**20
FULL = 0.8
"""Share of a bound from which on there is little left."""
PINGS = 20
SLOW_ANSWER_S = 0.05
SLOW_COMMAND_S = 0.1
SLOW_WITHIN_S = 3600.0
LEAST_BUFFER = 2 * MIB
"""As much may lie ready for one client."""
SHORT_TIMEOUT_S = 10
JUMP_S = 0.5


def version(view: ServerView) -> Findings:
    """Redis 7.0 or Valkey 7.2 are the first with what the functions need."""
    speaks = view.info.get("redis_version", "0")
    name = "Valkey" if "valkey_version" in view.info else "Redis"
    number = view.info.get("valkey_version", speaks)
    if int(speaks.partition(".")[0]) < FIRST_MAJOR:
        yield fault(f"it is {name} {number}", f"rqproc needs {FIRST_SERVERS} or later")
        return
    yield ok(f"{name} {number}, up for {_span(view.number('uptime_in_seconds'))}")


def role(view: ServerView) -> Findings:
    """Nodes and callers write: they need the primary, and one that takes writes."""
    if view.number("cluster_enabled"):
        yield fault("it is part of a Redis Cluster", TROUBLES["CROSSSLOT"].advice)
    elif view.info.get("role") != "master":
        primary = f"{view.info.get('master_host')}:{view.info.get('master_port')}"
        yield fault(f"it is a replica of {primary}", TROUBLES["READONLY"].advice)
    elif (wanted := int(view.config("min-replicas-to-write") or 0)) and (
        (there := view.number("min_slaves_good_slaves")) < wanted
    ):
        yield fault(
            f"it takes no writes: {there} replicas keep up, `min-replicas-to-write` is {wanted}",
            TROUBLES["NOREPLICAS"].advice,
        )
    else:
        yield ok(f"primary with {view.number('connected_slaves')} replicas")


def eviction(view: ServerView) -> Findings:
    """What the server evicts may be the members, a queue or an answer."""
    policy = view.info.get("maxmemory_policy", "noeviction")
    advice = "CONFIG SET maxmemory-policy noeviction"
    if policy == "noeviction":
        yield ok("maxmemory-policy is noeviction")
    elif policy.startswith("allkeys") and view.number("maxmemory"):
        yield fault(f"maxmemory-policy is {policy}: it may evict members and queues", advice)
    else:
        yield warning(f"maxmemory-policy is {policy}: it may evict answers and results", advice)


def memory(view: ServerView) -> Findings:
    """A server that is full refuses what routes requests."""
    used, most = view.number("used_memory"), view.number("maxmemory")
    of = "maxmemory"
    if not most:
        used, most = view.number("used_memory_rss"), view.number("total_system_memory")
        of = "the machine's memory"
    share = used / most if most else 0.0
    text = f"{used / MIB:,.0f} MiB of {most / MIB:,.0f} MiB ({share:.0%} of {of}) are used"
    advice = "free some, or raise maxmemory; `rqproc docs operations` says what keys take"
    if of == "maxmemory" and share >= 1:
        yield fault(text + ": it refuses writes", advice)
    elif share >= FULL:
        yield warning(text, advice)
    else:
        yield ok(text)


def persistence(view: ServerView) -> Findings:
    """What a server that restarts has forgotten: jobs that wait, states of stateful ids."""
    saves, appends = bool(view.config("save")), view.number("aof_enabled")
    if view.info.get("rdb_last_bgsave_status", "ok") != "ok":
        # One that takes no writes for that does not even answer PING: see `connection`.
        yield warning("its last snapshot failed", TROUBLES["MISCONF"].advice)
    elif not (saves or appends):
        yield warning(
            "it keeps nothing: with a restart go jobs that wait, and states of stateful ids",
            "CONFIG SET appendonly yes, and in its configuration file; or leave it so, if all that "
            "is asked here can be asked again",
        )
    else:
        yield ok("it writes " + ("its append-only file" if appends else "snapshots"))


def latency(view: ServerView) -> Findings:
    """Each request takes two trips to the server at least, a miss three."""
    took = []
    for _ in range(PINGS):
        began = view.clock()
        view.ask("PING")
        took.append(view.clock() - began)
    middle, longest = statistics.median(took), max(took)
    text = f"an answer takes {middle * 1000:.1f} ms, the slowest of {PINGS} {longest * 1000:.1f} ms"
    if middle > SLOW_ANSWER_S:
        yield warning(
            text, "look for its load and for the way to it: run nodes and callers near it"
        )
    else:
        yield ok(text)


def slow_commands(view: ServerView) -> Findings:
    """While the server runs one command nobody else gets an answer."""
    now = view.time()[0]
    seen: Counter[str] = Counter()
    longest = 0.0
    for _, at, micros, args, *_ in view.ask("SLOWLOG", "GET", "128"):
        took_s = micros / 1e6
        if now - at <= SLOW_WITHIN_S and took_s >= SLOW_COMMAND_S:
            words = [word.decode(errors="replace") for word in args[:2]]
            seen[" ".join(words) if words[0].upper() == "FCALL" else words[0]] += 1
            longest = max(longest, took_s)
    if not seen:
        yield ok(f"no command took {SLOW_COMMAND_S:g} s in the last hour")
        return
    names = listed(f"{name} ({times})" for name, times in seen.most_common())
    yield warning(
        f"{seen.total()} commands took up to {longest:.2f} s in the last hour: {names}",
        "all requests wait meanwhile: SLOWLOG GET shows them; move what is not rqproc's to another "
        "server",
    )


def clock(view: ServerView) -> Findings:
    """Leases and deadlines go by the server's clock; it may be set, but each time costs something.

    The functions' own clock never runs back: it is ahead of the server's by what that was set back.
    """
    first, *_, began = view.first_time
    now, before, after = view.time()
    pulse = view.ask("GET", f"{view.keys.state}pulse")
    behind_s = int(pulse or 0) / 1000 - now
    # How long the answers took is not known by direction.
    doubt_s = (after - before) + (view.first_time[2] - view.first_time[1])
    jumped_s = (now - first) - (before - began)
    advice = "have its clock slewed rather than set (NTP); see `rqproc docs operations`"
    if abs(jumped_s) > JUMP_S + doubt_s:
        yield warning(f"its clock has jumped by {jumped_s:+.1f} s just now", advice)
    elif behind_s > JUMP_S:
        yield warning(
            f"its clock was set back by {behind_s:,.0f} s: keys that expire live longer by that",
            advice,
        )
    else:
        yield ok("its clock runs evenly")


def buffers(view: ServerView) -> Findings:
    """What may lie ready for a client, and how long one may rest."""
    words = view.config("client-output-buffer-limit").split()
    limits = {words[i]: (int(words[i + 1]), int(words[i + 2])) for i in range(0, len(words) - 3, 4)}
    small = [
        (kind, least)
        for kind in ("normal", "pubsub")
        if (least := min((n for n in limits.get(kind, ()) if n), default=0))
        and least < LEAST_BUFFER
    ]
    for kind, least in small:
        yield warning(
            f"client-output-buffer-limit for {kind} is {least:,} bytes: callers of larger values, "
            "or of many, are cut off",
            f"CONFIG SET client-output-buffer-limit '{kind} 32mb 8mb 60'",
        )
    rests = int(view.config("timeout") or 0)
    if 0 < rests < SHORT_TIMEOUT_S:
        yield warning(
            f"timeout is {rests} s: connections that rest are closed and made anew all the time",
            "CONFIG SET timeout 0, or 300",
        )
    elif not small:
        closes = f"closes connections that rest for {rests} s" if rests else "closes no connection"
        yield ok(f"clients' buffers are large enough, and it {closes}")


def connections(view: ServerView) -> Findings:
    """Who comes after the last one is refused."""
    there, most = view.number("connected_clients"), view.number("maxclients")
    text = f"{there:,} of {most:,} connections are open"
    if most and there / most >= FULL:
        yield warning(text, TROUBLES["MAXCLIENTS"].advice)
    else:
        yield ok(text)


def _span(seconds: int) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
