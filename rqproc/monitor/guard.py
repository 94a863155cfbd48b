"""Who may see the page, and who may change anything by it.

Knows requests as ASGI has them. Must not know what is served.

* A page of another site, opened in the same browser, can send requests here. So what changes
  anything is a POST with a header of our own, which a browser sends for other sites only after a
  preflight that nobody answers; and where the browser says from where it comes (Fetch Metadata,
  Origin), that must be here.
* A name of another site may be made to resolve to this address (DNS rebinding): its pages would be
  of the same origin then. So the Host must be one that this page has.
* Off loopback, everything needs the token.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

COOKIE = "rqproc_token"
"""Beginning of the cookie's name, see ``cookie_name``."""
HEADER = "x-rqproc"
LOOPBACK = ("localhost", "127.0.0.1", "::1")

SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Denial(NamedTuple):
    """Why a request is not served."""

    status: int
    reason: str


class Asked(NamedTuple):
    """What of a request decides.

    Attributes:
        headers: by name in lower case, the last of each.
        query: as it stands behind the "?".
    """

    method: str
    headers: Mapping[str, str]
    query: str = ""


class Guard:
    """Decides.

    Args:
        hosts: names that the page has; none: any, which needs a token.
        token: what everyone must know; None for nothing.
    """

    def __init__(self, *, hosts: Collection[str], token: str | None) -> None:
        if not hosts and not token:
            raise ValueError("any name needs a token")
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = token.encode() if token else None

    def refusal(self, asked: Asked) -> Denial | None:
        """Return why a request must not be served; None where it may."""
        host = asked.headers.get("host", "")
        if self._hosts and host_name(host) not in self._hosts:
            return Denial(421, f"this page has another name than {host[:100]!r}")
        if self._token and not self._knows_token(asked):
            return Denial(401, "it needs the token: open /?token=TOKEN, or send it as a bearer")
        if asked.method in ("GET", "HEAD"):
            return None
        return self._cross_site(asked, host)

    @staticmethod
    def _cross_site(asked: Asked, host: str) -> Denial | None:
        if asked.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return Denial(403, "it comes from another site")
        origin = asked.headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return Denial(403, "it comes from another origin")
        if asked.headers.get(HEADER) is None:
            return Denial(403, f"it has no header {HEADER}")
        return None

    def _knows_token(self, asked: Asked) -> bool:
        scheme, _, bearer = asked.headers.get("authorization", "").partition(" ")
        given = [bearer.strip()] if scheme.lower() == "bearer" else []
        name = cookie_name(asked.headers.get("host", ""))
        given += _cookies(asked.headers.get("cookie", ""), name)
        given += parse_qs(asked.query).get("token", []) if asked.method == "GET" else []
        return any(map(self.is_token, given))

    def is_token(self, given: str) -> bool:
        """Compare in a time that does not depend on what is given."""
        if self._token is None:
            return False
        return hmac.compare_digest(given.encode(errors="surrogatepass"), self._token)


def cookie_name(host: str) -> str:
    """Return the name of the cookie with the token, for a Host header.

    It has the port: cookies are of a host, and several pages may be reached by one.
    """
    port = host.rpartition(":")[2]
    return f"{COOKIE}_{port}" if port.isascii() and port.isdigit() else COOKIE


def _cookies(header: str, name: str) -> Iterator[str]:
    """Yield the values of a cookie; odd ones of other applications on the host are passed over."""
    for pair in header.split(";"):
        found, _, value = pair.strip().partition("=")
        if found == name:
            yield unquote(value)


def host_name(host: str) -> str:
    """Return a Host header's name, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
