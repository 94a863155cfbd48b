"""Asking sentinels where the primary is.

Knows Sentinel's URL and its one question. Must not know what is done on the primary, nor how often
it is asked for: whoever connects asks anew, so that a failover is found by connecting again.

The steps are those of Redis' guidelines for clients of Sentinel: one sentinel after the other, a
short timeout each, and the one that answered is asked first the next time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from rqproc.errors import ConfigError
from rqproc.settings import without_password
from rqproc.transport import replies as trouble

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
FORM = "redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/NAME?db=0"
DEFAULT_PORT = 26379
SHORTEST_ASK_S = 0.25
LONGEST_ASK_S = 1.0

Address = tuple[str, int]
Why = Literal["refused", "down", "silent"]
"""Why a sentinel names no primary. What is told is the first of these that any of them has."""


class NoPrimary(Exception):
    """No sentinel names a primary that is up."""

    def __init__(self, why: Why, reason: str, *, advice: str) -> None:
        super().__init__(reason)
        self.why = why
        self.advice = advice

    @property
    def passing(self) -> bool:
        """Whether one may, a moment later."""
        return self.why != "refused"


class Sentinels:
    """Those that watch one primary.

    Args:
        name: under which they watch it.
        options: redis-py's, for connections to them.
    """

    def __init__(
        self, name: str, addresses: Sequence[Address], options: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self._addresses = tuple(addresses)  # replaced whole: threads share it
        self._options = dict(options or {})

    def __str__(self) -> str:
        places = ", ".join(f"{host}:{port}" for host, port in sorted(self._addresses))
        return f"{self.name} (sentinels {places})"

    def primary(self, *, timeout_s: float) -> Address:
        """Return the primary's address.

        Raises:
            NoPrimary: none of them could be asked within the timeout, or none knows it to be up.
        """
        each_s = timeout_s / len(self._addresses)
        each_s = max(SHORTEST_ASK_S, min(each_s, LONGEST_ASK_S))
        failures = []
        for sentinel in self._addresses:
            try:
                found = self._ask(sentinel, each_s)
            except NoPrimary as failure:
                failures.append(failure)
                continue
            self._addresses = (sentinel, *(other for other in self._addresses if other != sentinel))
            return found
        raise min(failures, key=lambda failure: get_args(Why).index(failure.why))

    def client(self, options: Mapping[str, Any], *, secure: bool) -> redis.Redis:
        """Return a redis-py client that asks for the primary whenever it connects."""
        once = {"retry": Retry(NoBackoff(), 0)}
        asked = {**self._options, **once, **_within(LONGEST_ASK_S)}
        manager: Any = redis.sentinel.Sentinel(self._addresses, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
        found: redis.Redis = manager.master_for(self.name, **{**options, **once, "ssl": secure})
        return found

    def _ask(self, sentinel: Address, timeout_s: float) -> Address:
        """Raises: NoPrimary."""
        host, port = sentinel
        once = Retry(NoBackoff(), 0)
        client = redis.Redis(host, port, **self._options, **_within(timeout_s), retry=once)
        with closing(client):
            try:
                state: Any = client.sentinel_master(self.name)
            except redis.AuthenticationError as error:
                raise _locked(sentinel, error) from error
            except redis.ResponseError as error:
                raise self._refused(sentinel, client, error) from error
            except (redis.RedisError, OSError) as error:
                raise _silent(sentinel, error) from error
        if state["is_sdown"] or state["is_odown"]:
            raise _down(self.name, state)
        return str(state["ip"]), int(state["port"])

    def _refused(
        self, sentinel: Address, client: redis.Redis, error: redis.ResponseError
    ) -> NoPrimary:
        host, port = sentinel
        if "No such" not in str(error):
            return NoPrimary(
                "refused",
                f"{host}:{port} does not answer as a sentinel does: {trouble.shown(str(error))}",
                advice=f"Give the sentinels' own ports (usually {DEFAULT_PORT}): --url {FORM}",
            )
        try:
            states: Any = client.sentinel_masters()
            known = ", ".join(sorted(states)) or "none"
        except (redis.RedisError, OSError):
            known = "others"
        return NoPrimary(
            "refused",
            f"the sentinel at {host}:{port} watches no primary named {self.name!r}, but: {known}",
            advice=f"Check the name in the URL: --url {FORM}",
        )


def of_manager(name: str, manager: Any) -> Sentinels:
    """Return the sentinels that redis-py's own ``Sentinel`` asks."""
    pools = [client.connection_pool for client in manager.sentinels]
    kwargs = pools[0].connection_kwargs
    wanted = ("username", "password", "credential_provider")
    options = {k: v for k, v in kwargs.items() if k in wanted or k.startswith("ssl_")}
    options["ssl"] = issubclass(pools[0].connection_class, redis.SSLConnection)
    places = [(p.connection_kwargs["host"], p.connection_kwargs["port"]) for p in pools]
    return Sentinels(name, places, options)


def _within(timeout_s: float) -> dict[str, Any]:
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}


def _locked(sentinel: Address, error: Exception) -> NoPrimary:
    host, port = sentinel
    return NoPrimary(
        "refused",
        f"the sentinel at {host}:{port} refused the password: {trouble.shown(str(error))}",
        advice="Give the sentinels' own in the URL: ?sentinel_password=... and, if they have "
        "users, &sentinel_username=...",
    )


def _silent(sentinel: Address, error: Exception) -> NoPrimary:
    host, port = sentinel
    return NoPrimary(
        "silent",
        f"no sentinel answers at {host}:{port}: {trouble.shown(str(error))}",
        advice="Check that the sentinels run, and their addresses in the URL (--url, "
        "RQPROC_REDIS_URL)",
    )


def _down(name: str, state: Mapping[str, Any]) -> NoPrimary:
    return NoPrimary(
        "down",
        f"the sentinels have lost {name}'s primary at {state['ip']}:{state['port']}",
        advice="A failover takes their `down-after-milliseconds` and a few seconds; `SENTINEL "
        f"CKQUORUM {name}` says whether they can do one",
    )


# --- URLs -------------------------------------------------------------------------------------


_FORM = re.compile(
    r"(?P<scheme>\w+\+sentinel)://(?P<credentials>[^/?#]*@)?(?P<hosts>[^/?#@]+)"
    r"/(?P<name>[^/?#]+)/?(\?(?P<query>[^#]*))?"
)


def is_url(url: str) -> bool:
    """Whether a URL names sentinels."""
    return url.partition("://")[0] in SCHEMES


def read_url(url: str) -> tuple[Sentinels, str]:
    """Return the sentinels that a URL names, and a URL for redis-py with all but the host.

    Sentinels are asked without the credentials of the data: they have their own. With TLS they are
    asked by TLS too, unless ``sentinel_tls=no``.

    Raises:
        ConfigError: malformed. ValueError: an option is.
    """
    parts = _FORM.fullmatch(url)
    addresses = [_address(host) for host in parts["hosts"].split(",")] if parts else []
    if parts is None or None in addresses:
        raise ConfigError(f"invalid server URL {without_password(url)!r}: give {FORM}")
    scheme = SCHEMES[parts["scheme"]]
    theirs, query = _sorted_out(parts["query"] or "", secure=scheme == "rediss")
    found = Sentinels(unquote(parts["name"]), [a for a in addresses if a], theirs)
    return found, f"{scheme}://{parts['credentials'] or ''}?{query}"


def _address(text: str) -> Address | None:
    try:
        parts = urlsplit(f"//{text}")
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def _sorted_out(query: str, *, secure: bool) -> tuple[dict[str, Any], str]:
    """Return the options of connections to sentinels, and the rest of the query."""
    pairs = dict(parse_qsl(query))
    username = pairs.pop("sentinel_username", None)
    password = pairs.pop("sentinel_password", None)
    theirs: dict[str, Any] = {"username": username, "password": password}
    if pairs.pop("sentinel_tls", "yes") != "no" and secure:
        pool = redis.ConnectionPool.from_url(f"rediss://?{urlencode(pairs)}")
        given = {k: v for k, v in pool.connection_kwargs.items() if k.startswith("ssl_")}
        theirs |= {"ssl": True, **given}
    return theirs, urlencode(pairs)
