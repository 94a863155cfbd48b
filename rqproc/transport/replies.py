"""What the error of a server or a connection means: whether it passes, and what to do about it.

Pure. Knows the errors of Redis and Valkey by their first words. Must not know who asked, nor how
often.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rqproc.errors import DEFAULT_ADVICE

_CLUSTER = "rqproc needs one primary, not a Redis Cluster: give a server without cluster mode"
_REPLICA = (
    "If a failover is under way it will pass; else give the address of the primary, or of its "
    "sentinels (--url redis+sentinel://HOST:26379/NAME)"
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One kind of error.

    Attributes:
        passing: the server may accept the same command a moment later.
        moved: another server may be the primary by now, so every connection is made anew.
    """

    advice: str = DEFAULT_ADVICE
    passing: bool = False
    moved: bool = False


TROUBLES = {
    "BUSY": Trouble("A script of someone's runs there for long: end it with SCRIPT KILL", True),
    "CLUSTERDOWN": Trouble(_CLUSTER, True),
    "LOADING": Trouble("It is reading its data after a start: ask again when it has", True),
    "MASTERDOWN": Trouble(_REPLICA, True, moved=True),
    "MAXCLIENTS": Trouble("Close connections that nobody uses, or raise its `maxclients`", True),
    "NOFUNCTION": Trouble(
        "Start a node of this version, whose user may load functions (`FUNCTION LOAD`), or let "
        "this one",
        True,
    ),
    "NOREPLICAS": Trouble("Start its replicas, or lower its `min-replicas-to-write`", True),
    "NOSCRIPT": Trouble(passing=True),
    "READONLY": Trouble(_REPLICA, True, moved=True),
    "TRYAGAIN": Trouble(_CLUSTER, True),
    "UNBLOCKED": Trouble(_REPLICA, True, moved=True),
    "CROSSSLOT": Trouble(_CLUSTER),
    "DENIED": Trouble("Set a password there and give it: --url redis://:PASSWORD@HOST"),
    "MISCONF": Trouble("It takes no writes because it cannot save: see its log, free its disk"),
    "MOVED": Trouble(_CLUSTER),
    "NOAUTH": Trouble("Give its password: --url redis://USER:PASSWORD@HOST"),
    "NOPERM": Trouble("Let the URL's user do this: `ACL LOG` there says what was refused"),
    "OOM": Trouble("Free some of its memory, or raise its `maxmemory`"),
    "WRONGPASS": Trouble("Check the user and the password in the URL"),
}

_OTHER = Trouble()

_LOSSES = (
    (
        "it does not answer|Timeout",
        "It is stopped, busy with a long command (`SLOWLOG GET`), or the network loses packets; or "
        "TLS is on one side alone: --url rediss://... asks with it, redis://... without",
    ),
    ("not ready yet", "Its start goes on: ask again, or allow more with `timeout`"),
    ("no Redis", "Check the port in the URL; a server that wants TLS needs --url rediss://..."),
    (
        "WRONG_VERSION|UNEXPECTED_EOF",
        "Does it want TLS? If not, redis://... instead of rediss://... reaches it",
    ),
    ("CERTIFICATE", "Name its authority in the URL: --url 'rediss://...?ssl_ca_certs=FILE'"),
    ("[Nn]ame or service|[Nn]o address|[Nn]ame resolution", "Check the host name in the URL"),
)
"""What to do about connections that broke or were not made, by words of the reason."""


def code(reason: str) -> str:
    """Return an error's first word; for an error from within a script, of the error there.

    Up to Redis 6.2 that stands at the end: ``ERR Error running script (...): -OOM ...``.
    """
    if "max number of clients" in reason:
        return "MAXCLIENTS"
    if "Function not found" in reason:
        return "NOFUNCTION"
    inner = re.search(r": -([A-Z]+) ", reason)
    return inner[1] if inner else reason.partition(" ")[0]


def trouble(reason: str) -> Trouble:
    """Return what an error's text stands for."""
    return TROUBLES.get(code(reason), _OTHER)


def loss_advice(reason: str) -> str:
    """Return what to do about a connection that failed for this reason."""
    found = (advice for words, advice in _LOSSES if re.search(words, reason))
    return next(found, DEFAULT_ADVICE)


def shown(reason: str) -> str:
    """Return an error's text as people want it: one line, without the place in a script."""
    text = " ".join(reason.split())
    return re.sub(r"\.? script: [^ ]* ?on @user_(script|function).*$", "", text).rstrip(".")
