"""What this user may do, compared with what a caller, a node and an operator must.

Knows ACL DRYRUN, which tells what a user might run without running it; where this user may not ask
that, commands that change nothing are tried. Must not know more of the rights than
``protocol.rights`` says.
"""

from __future__ import annotations

from collections.abc import Iterator

from rqproc.monitor.doctor.findings import Findings, fault, listed, ok, skipped
from rqproc.monitor.doctor.server_view import NotAllowed, ServerView
from rqproc.protocol.keys import Keys
from rqproc.protocol.rights import CONNECT, ROLES, Role, rules
from rqproc.transport.connection import Refused

KEY = "{key}"
NOTHING = "rqproc-doctor"
"""A member, a field, a value."""

READS: dict[str, tuple[str, ...]] = {
    "exists": (KEY,), "get": (KEY,), "hexists": (KEY, "f"), "hget": (KEY, "f"), "hgetall": (KEY,),
    "hlen": (KEY,), "hmget": (KEY, "f"), "lindex": (KEY, "0"), "llen": (KEY,), "lpos": (KEY, "v"),
    "lrange": (KEY, "0", "0"), "pttl": (KEY,), "strlen": (KEY,), "time": (), "zcard": (KEY,),
    "zcount": (KEY, "0", "0"), "zrange": (KEY, "0", "0"), "zrangebyscore": (KEY, "0", "0"),
    "zscore": (KEY, "m"), "ping": (), "info": ("server",),
    # These change nothing where there is no such key.
    "del": (KEY,), "expire": (KEY, "1"), "pexpire": (KEY, "1"), "persist": (KEY,),
    "hdel": (KEY, "f"), "lrem": (KEY, "0", "v"), "srem": (KEY, "m"), "zrem": (KEY, "m"),
    "zremrangebyscore": (KEY, "0", "0"), "blmpop": ("0.01", "1", KEY, "LEFT"),
    "blmove": (KEY, KEY, "LEFT", "RIGHT", "0.01"),
}  # fmt: skip
"""Arguments with which a command changes nothing, so that it may be tried."""

WRITES: dict[str, tuple[str, ...]] = {
    "hincrby": (KEY, "f", "1"), "hset": (KEY, "f", "v"), "hsetnx": (KEY, "f", "v"),
    "incr": (KEY,), "incrby": (KEY, "1"), "lpop": (KEY,), "lpush": (KEY, "v"), "rpush": (KEY, "v"),
    "sadd": (KEY, "m"), "set": (KEY, "v"), "xadd": (KEY, "*", "f", "v"), "zadd": (KEY, "0", "m"),
    "publish": (NOTHING, "v"), "subscribe": (NOTHING,), "unlink": (KEY,),
    "select": ("0",), "fcall": ("f", "1", KEY), "function|load": ("LOAD", "f"),
}  # fmt: skip
"""Arguments of others, which are only asked about."""

UNASKED = ("auth", "hello")
"""Everyone may."""

NO_RIGHTS = ("on", "resetkeys", "resetchannels", "-@all")
"""Rules that take rights away, or let a user in."""


def rights(view: ServerView, *, user: str | None = None, role: Role | None = None) -> Findings:
    """What a user lacks for each role.

    Args:
        user: of the server's ACL; by default the one that asks.
        role: which it should be able to have; by default any.
    """
    try:
        name = user or view.ask("ACL", "WHOAMI").decode()
        lacks = {one: list(_lacking(view, name, one)) for one in (role and (role,)) or ROLES}
    except NotAllowed as error:
        yield from _tried(view, error, role)
        return
    except Refused as error:
        yield fault(str(error), "ACL LIST shows the users there are")
        return
    able = [one for one, missing in lacks.items() if not missing]
    closest = min(lacks, key=lambda one: len(lacks[one]))
    if not able:
        yield fault(
            f"user {name} lacks what {_article(closest)} needs: {listed(lacks[closest])}",
            f"ACL SETUSER {name} {' '.join(lacks[closest])}",
        )
        return
    others = [
        f"{_article(one)} needs {listed(missing, most=3)} besides"
        for one, missing in lacks.items()
        if missing
    ]
    yield ok("; ".join([f"user {name} may act as {', '.join(map(_article, able))}", *others]))


def _lacking(view: ServerView, user: str, role: Role) -> Iterator[str]:
    """Rules of a role that a user has not. Raises: NotAllowed: this user may not ask."""
    asked = [
        (rule, command, word)
        for rule in rules(role, view.keys)
        for command, word in questions(view.keys, rule)
    ]
    replies = view.ask_all([("ACL", "DRYRUN", user, *command) for _, command, _ in asked])
    told = zip(asked, (reply.decode(errors="replace") for reply in replies), strict=True)
    refused = [rule for (rule, _, word), text in told if text != "OK" and word in text]
    yield from dict.fromkeys(refused)


def questions(keys: Keys, rule: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Commands that a rule allows, each with a word that the refusal has if it is for this rule."""
    key = f"{keys.state}{NOTHING}"
    kind, pattern = rule[0], rule[1:].replace("*", NOTHING)
    if rule.startswith("(+unlink"):
        yield ("UNLINK", rule.split("~")[1].rstrip(")").replace("*", NOTHING)), "permissions"
    elif rule.startswith("%R~"):
        yield ("GET", pattern.removeprefix("R~")), "access"
    elif rule.startswith("%W~"):
        yield ("SET", pattern.removeprefix("W~"), NOTHING), "access"
    elif kind == "~":
        yield ("GET", pattern), "access"
        yield ("SET", pattern, NOTHING), "access"
    elif kind == "&":
        yield ("SUBSCRIBE", pattern), "access"
    elif kind == "+" and rule[1:] in {**READS, **WRITES}:
        yield _sample(rule[1:], key), "run"


def _sample(name: str, key: str) -> tuple[str, ...]:
    args = READS[name] if name in READS else WRITES[name]
    return (name.partition("|")[0], *(key if arg == KEY else arg for arg in args))


def _tried(view: ServerView, error: NotAllowed, role: Role | None) -> Findings:
    """This user may not ask what it may do: try what changes nothing."""
    key = f"{view.keys.state}{NOTHING}"
    needed = {rule[1:] for one in ROLES if role in (None, one) for rule in rules(one, view.keys)}
    names = sorted(needed & READS.keys() - set(CONNECT))
    replies = view.answers([_sample(name, key) for name in names])
    refused = [
        f"+{name}"
        for name, reply in zip(names, replies, strict=True)
        if isinstance(reply, Refused) and reply.code == "NOPERM"
    ]
    text = f"this user may not run {error.command}, so that only some rights could be tried"
    if refused:
        text += f"; it lacks {listed(refused)}"
    yield skipped(text, "ACL SETUSER ... +acl|whoami +acl|dryrun, or ask as another one: --user")


def _article(role: Role) -> str:
    return f"an {role}" if role == "operator" else f"a {role}"
