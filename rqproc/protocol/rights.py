"""What a user of a server's ACL must be allowed, by what it does: caller, node or operator.

Knows keys, channels and the commands that the functions run, which the server checks by the rights
of who calls them. Pure.
"""

from __future__ import annotations

from typing import Literal, get_args

from rqproc.protocol.keys import RQ_PREFIX, Keys

Role = Literal["caller", "node", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)

CONNECT = ("auth", "hello", "ping", "select")

WITHIN: dict[Role, list[str]] = {
    "caller": (
        "del exists get hdel hexists hget hgetall hincrby hlen hmget hset incrby lindex llen "
        "lpos lpush lrange lrem pexpire pttl rpush sadd set srem strlen time zadd zcard zcount "
        "zrange zrangebyscore zrem zscore"
    ).split(),
    "node": (
        "del exists expire get hdel hexists hget hgetall hincrby hlen hmget hset hsetnx incr "
        "incrby lindex llen lpop lpos lpush lrange lrem persist pexpire pttl publish rpush sadd "
        "set srem time xadd zadd zcard zcount zrange zrangebyscore zrem zremrangebyscore zscore"
    ).split(),
    "operator": (
        "del exists get hdel hget hgetall hincrby hlen hmget hset incrby llen lpos lpush "
        "lrange pexpire rpush set srem time zadd zcard zcount zrange zrangebyscore zrem zscore"
    ).split(),
}
"""Commands that the functions of a role run."""

BESIDE: dict[Role, tuple[str, ...]] = {
    "caller": ("fcall", "subscribe", "get"),
    "node": ("fcall", "function|load", "info", "blmpop", "blmove", "hget", "subscribe"),
    "operator": ("fcall",),
}
"""Commands that it sends itself. Callers never publish, load functions or take from queues, and
answers they may only read and remove."""


def rules(role: Role, keys: Keys) -> tuple[str, ...]:
    """Return what ACL SETUSER takes, but for the name and the password.

    A node that serves jobs with dependents, callbacks or retries runs RQ's own code for them: that
    needs ``+@transaction`` and what else RQ's documentation asks for.
    """
    answers = keys.answer("*")
    commands = sorted({*CONNECT, *WITHIN[role], *BESIDE[role]})
    return (
        "on",
        "resetkeys",
        "resetchannels",
        "-@all",
        *(f"+{command}" for command in commands),
        *(f"~{pattern}" for pattern in _patterns(keys)),
        *(f"&{keys.state}{name}" for name in ("reply:*", "dropped")),
        *((f"&{keys.commands('*')}",) if role == "node" else ()),
        *((f"%R~{answers}", f"(+unlink ~{answers})") if role == "caller" else (f"~{answers}",)),
        # What a dead node has published is deleted by whoever finds it dead.
        f"%W~{keys.stats('*')}" if role == "caller" else f"~{keys.stats('*')}",
        *((f"~{keys.kept_state('*')}", f"~{keys.entries('*')}") if role == "node" else ()),
    )


def _patterns(keys: Keys) -> tuple[str, ...]:
    own = f"rqproc:{keys.namespace}:*"
    rq = (
        "job:*", "results:*", "queues", "workers", "workers:*", "wip:*", "finished:*", "failed:*",
        "scheduled:*", "execution:*", "executions:*", "suspended",
    )  # fmt: skip
    return (
        own,
        *(f"{RQ_PREFIX}:{name}" for name in rq),
        f"{RQ_PREFIX}:worker:{keys.node_queues}*",
        keys.queue("*"),
        f"{keys.ingress_queue}*",
    )
