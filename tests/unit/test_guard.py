"""Who may see the page, and who may change anything by it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from rqproc.errors import ConfigError
from rqproc.monitor.guard import COOKIE, LOOPBACK, SECURITY_HEADERS, Asked, Guard
from rqproc.monitor.serving import as_bound, is_loopback

HOST = "127.0.0.1:8420"
TOKEN = "a-long-token"


def status(
    headers: Mapping[str, str] | None = None, *, method: str = "GET", query: str = "",
    token: str | None = None, host: str | None = HOST,
) -> int:  # fmt: skip
    guard = Guard(hosts=LOOPBACK, token=token)
    given = {**({"host": host} if host is not None else {}), **(headers or {})}
    refused = guard.refusal(Asked(method, given, query))
    return refused.status if refused else 200


@pytest.mark.parametrize("host", ["localhost:8420", "127.0.0.1", "[::1]:8420", "LOCALHOST"])
def test_the_page_is_served_by_its_own_names(host: str) -> None:
    assert status(host=host) == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8420", "", None])
def test_a_name_of_another_site_that_leads_here_is_refused(host: str | None) -> None:
    assert status(host=host) == 421


def test_a_post_needs_the_header_that_other_sites_cannot_send() -> None:
    assert status(method="POST") == 403
    assert status({"x-rqproc": "drain"}, method="POST") == 200


@pytest.mark.parametrize(
    "extra",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_post_from_elsewhere_is_refused(extra: dict[str, str]) -> None:
    assert status({"x-rqproc": "drain", **extra}, method="POST") == 403


def test_a_post_of_the_page_itself_is_served() -> None:
    own = {"x-rqproc": "drain", "origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}
    assert status(own, method="POST") == 200


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, ""),
        ({"cookie": f"other=1; {COOKIE}_8420={TOKEN}"}, ""),
        ({"cookie": f'a={{"x":1}}; {COOKIE}_8420={TOKEN}'}, ""),
        ({"cookie": f"a=b c; a[0]=1; a; \u00fc=1; {COOKIE}_8420={TOKEN}"}, ""),
        ({"cookie": f"{COOKIE}_8420=another; {COOKIE}_8420={TOKEN}"}, ""),
        ({}, f"token={TOKEN}"),
    ],
)
def test_who_has_the_token_is_served(headers: dict[str, str], query: str) -> None:
    assert status(headers, query=query, token=TOKEN) == 200


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({"authorization": "Bearer another"}, ""),
        ({"authorization": f"Basic {TOKEN}"}, ""),
        ({"authorization": "Bearer "}, ""),
        ({"cookie": f"{COOKIE}_8420=x"}, "token="),
        ({"cookie": f"{COOKIE}_8421={TOKEN}"}, ""),
        ({"cookie": '"\\'}, "token=%ff"),
        ({}, f"token={TOKEN}x"),
    ],
)
def test_who_has_not_is_not(headers: dict[str, str], query: str) -> None:
    assert status(headers, query=query, token=TOKEN) == 401


def test_a_post_takes_no_token_from_its_address() -> None:
    assert status({"x-rqproc": "drain"}, method="POST", query=f"token={TOKEN}", token=TOKEN) == 401


def test_any_name_goes_with_a_token_alone() -> None:
    with pytest.raises(ValueError, match="needs a token"):
        Guard(hosts=(), token=None)
    guard = Guard(hosts=(), token=TOKEN)
    headers = {"host": "web-1:8420", "authorization": f"Bearer {TOKEN}"}
    assert guard.refusal(Asked("GET", headers)) is None


def test_no_page_may_frame_this_one_nor_run_what_is_not_from_here() -> None:
    policy = SECURITY_HEADERS["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert SECURITY_HEADERS["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_told_from_other_addresses(host: str) -> None:
    assert is_loopback(host)
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.4", "web-1", "")))


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("127.1", "127.0.0.1"), ("0", "0.0.0.0"), ("::0", "::"), ("127.0.0.1", "127.0.0.1"),
        ("some.host", "some.host"),
    ],
)  # fmt: skip
def test_an_address_is_named_as_browsers_name_it(host: str, bound: str) -> None:
    assert as_bound(host) == bound


def test_an_empty_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="is empty"):
        as_bound("")
