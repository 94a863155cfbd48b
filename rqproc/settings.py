"""Every knob, its default and its bounds.

Knows names of environment variables and what a sensible value is. Must not open anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from rqproc.errors import ConfigError
from rqproc.model import DEFAULT_NAMESPACE
from rqproc.placement import PLACEMENTS, Placement

URL_VARIABLES = ("RQPROC_REDIS_URL", "RQPROC_URL", "RQ_REDIS_URL", "REDIS_URL")
"""Where a server's URL is looked for after an explicit one, in this order."""

MAX_LEASE_S = 3600.0

AT_LEAST_ONE = (
    "concurrency", "max_entries", "max_bytes", "max_queue", "max_waiters", "max_age_s",
    "max_rss_mib", "max_requests",
)  # fmt: skip
"""Settings of a node that are 1 or more."""

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")

EMBEDDED = "embedded"
"""The URL that stands for the server which rqproc starts itself."""

LOCAL = "local://"
"""The URL that stands for no server at all: this process alone."""


def resolve_url(url: str | None, environ: Mapping[str, str] | None = None) -> str:
    """Return the server's URL: the one given, else the environment's, else ``"embedded"``.

    Raises:
        ConfigError: its scheme is none that rqproc knows.
    """
    values = os.environ if environ is None else environ
    found = url or next((values[name] for name in URL_VARIABLES if values.get(name)), EMBEDDED)
    scheme, separator, _ = found.partition("://")
    if found in (EMBEDDED, LOCAL) or (separator and scheme in SCHEMES):
        return found
    raise ConfigError(
        f"invalid server URL {without_password(found)!r}: give redis://HOST:PORT/DB, rediss://..., "
        f"unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/NAME, {EMBEDDED!r}, or {LOCAL!r} for "
        "no server at all"
    )


def server_url(url: str | None) -> str:
    """Return what ``resolve_url`` does, for what cannot be done without a server.

    Raises:
        ConfigError: as ``resolve_url``; or it is ``local://``.
    """
    found = resolve_url(url)
    if found == LOCAL:
        raise ConfigError(
            f"{LOCAL} is one process without a server, and so without nodes: give --url "
            "redis://HOST:6379 (or RQPROC_REDIS_URL), or none at all for the embedded server"
        )
    return found


def without_password(url: str) -> str:
    """Return a URL as people may see it, be it malformed: all before the last ``@`` may be one."""
    shown = re.sub(r"^([a-z+]*:?/{0,2}).*@", r"\1***@", url, flags=re.DOTALL)
    if "@" not in url:
        shown = re.sub(r"//:[^/?]*", "//:***", url)
    return re.sub(r"(password=)[^&]*", r"\1***", shown)


def resolve_namespace(namespace: str | None, environ: Mapping[str, str] | None = None) -> str:
    """Return the namespace given, else ``RQPROC_NAMESPACE``, else ``"default"``."""
    values = os.environ if environ is None else environ
    return namespace or values.get("RQPROC_NAMESPACE") or DEFAULT_NAMESPACE


class NodeOptions(TypedDict, total=False):
    """What ``App.node`` takes: all of ``NodeSettings`` but what ends the process."""

    concurrency: int
    lease_s: float
    heartbeat_s: float
    max_entries: int
    max_bytes: int | None
    max_queue: int
    max_waiters: int
    drain_s: float
    placement: Placement
    handoff: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """How one node serves.

    Attributes:
        concurrency: lanes that run side by side.
        lease_s: seconds without a heartbeat after which the cluster gives a node up.
        heartbeat_s: seconds between heartbeats.
        max_entries: values kept; past it one that was not used lately goes.
        max_bytes: memory that they take, with about 250 bytes beside each; None for no bound.
        max_queue: requests that may wait for this node, past which callers get Overloaded; as many
            again may be held in it.
        max_waiters: requests of one id that may be under way here, past which its callers get
            Overloaded.
        drain_s: seconds that a graceful stop may take before it is a hard one.
        placement: how the owner of an id is found, "modulo" or "slots"; the same for all nodes of a
            namespace.
        handoff: give what is kept of ids that move to their next owners, if these have it too.
        strict: end the process where a handler still runs when the lease may not be relied on.
        max_age_s, max_rss_mib, max_requests: seconds of service, mebibytes of memory, requests
            answered, at which a node drains and ends, to be started anew; None for no bound.
    """

    concurrency: int = 32
    lease_s: float = 5.0
    heartbeat_s: float = 1.0
    max_entries: int = 100_000
    max_bytes: int | None = None
    max_queue: int = 10_000
    max_waiters: int = 10_000
    drain_s: float = 60.0
    placement: Placement = "modulo"
    handoff: bool = False
    strict: bool = False
    max_age_s: float | None = None
    max_rss_mib: int | None = None
    max_requests: int | None = None

    def __post_init__(self) -> None:
        for name in AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ConfigError(f"--{_option(name)} must be at least 1")
        if self.placement not in PLACEMENTS:
            raise ConfigError(f"--placement is one of {', '.join(PLACEMENTS)}")
        if not 0.2 <= self.lease_s <= MAX_LEASE_S:
            raise ConfigError(f"--lease must be 0.2 to {MAX_LEASE_S:g} s")
        if not 0 < self.heartbeat_s <= self.lease_s / 2:
            raise ConfigError("--heartbeat must be positive and at most half of --lease")

    @property
    def ends_process(self) -> bool:
        """Whether it is for a process that is the node's alone."""
        return self.strict or self.is_recycled

    @property
    def is_recycled(self) -> bool:
        """Whether there is a limit at which it ends, to be started anew."""
        return any((self.max_age_s, self.max_rss_mib, self.max_requests))

    @property
    def beat_timeout_s(self) -> float:
        """Seconds for a heartbeat's answer: one that is lost leaves time for others.

        A second at the least, where the lease has room for it: who beats often does not make a
        server that is busy any faster.
        """
        return min(max(self.heartbeat_s, 1.0), (self.lease_s - self.heartbeat_s) / 3)

    @property
    def trust_s(self) -> float:
        """Seconds, from the sending of the last acknowledged beat, that a lease is relied on.

        Four fifths of the lease, so that a node stops before the cluster gives its ids away.
        """
        return self.lease_s * 0.8


def _option(setting: str) -> str:
    """Return the name of a setting's option, which has its unit in its help."""
    return setting.removesuffix("_s").removesuffix("_mib").replace("_", "-")
