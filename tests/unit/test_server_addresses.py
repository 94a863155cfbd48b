"""URLs: which place each names, which are refused, and that no password is ever shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
from fakeredis import FakeRedis

from rqproc.errors import ConfigError
from rqproc.settings import resolve_url, without_password
from rqproc.transport.address import of_client, of_url
from rqproc.transport.connection import ConnectionLost
from rqproc.transport.connector import Connector
from rqproc.transport.sentinel import NoPrimary, Sentinels, read_url

WATCHED = "redis+sentinel://user:p%40ss@one:1,two,[::1]:3/shop?db=4&sentinel_password=hu%26sh"


def test_a_sentinel_url_names_the_data_and_those_who_know_where_it_is() -> None:
    found = of_url(WATCHED)
    assert found.sentinels
    assert str(found) == "shop (sentinels ::1:3, one:1, two:26379)"
    assert (found.given["username"], found.given["password"]) == ("user", "p@ss")
    assert found.given["db"] == 4
    assert "host" not in found.given
    assert "sentinel_password" not in found.given
    assert not found.secure


def test_sentinels_have_credentials_of_their_own() -> None:
    sentinels, plain = read_url(f"{WATCHED}&sentinel_username=watch")
    assert sentinels._options == {"username": "watch", "password": "hu&sh"}
    assert "hu" not in plain


def test_with_tls_the_sentinels_are_asked_by_tls_unless_they_have_none() -> None:
    url = "rediss+sentinel://one/shop?ssl_cert_reqs=none&ssl_check_hostname=no"
    found = of_url(url)
    assert found.secure
    assert found.given["ssl_check_hostname"] is False
    theirs = read_url(url)[0]._options
    assert (theirs["ssl"], theirs["ssl_cert_reqs"]) == (True, "none")
    assert "ssl" not in read_url(f"{url}&sentinel_tls=no")[0]._options
    assert of_url(f"{url}&sentinel_tls=no").secure


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://one:1",
        "redis+sentinel://one:1/",
        "redis+sentinel:///shop",
        "redis+sentinel://one:x/shop",
        "redis+sentinel://one:99999/shop",
        "redis+sentinel://one,,two/shop",
        "redis+sentinel://one/shop/0",
        "redis+sentinel://u:s3cret/x@one/shop",
        "redis+sentinel://one/shop?db=first",
        "redis+sentinel://one/shop?colour=red",
        "rediss+sentinel://one/shop?ssl_cert_reqs=perhaps",
        "redis://h:port",
        "redis://h:99999",
        "redis://h:0",
        "redis+sentinel://one:0/shop",
        "redis://h/shop",
        "redis://h?db=x",
        "redis://h?colour=red",
        "redis://s3cret@h?password=s3cret&colour=red",
        "redis://[::1",
        "unix://",
        "unix://run/s",
        "unix:///run/s?db=x",
        "rediss://h?ssl_cert_reqs=perhaps",
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_forms_that_can(url: str) -> None:
    with pytest.raises(
        ConfigError, match=r"redis\+sentinel://\[USER:PASSWORD@\]HOST:PORT,"
    ) as caught:
        of_url(resolve_url(url, {}))
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "h:6379"),
        ("redis://:p@h:1/2", "h:1"),
        ("redis://h:1/", "h:1"),
        ("rediss://u:p@h:1", "h:1"),
        ("unix:///run/s?db=1", "unix:///run/s"),
        ("unix://u:p@/run/s", "unix:///run/s"),
    ],
)
def test_a_server_is_shown_by_its_address_alone(url: str, shown: str) -> None:
    assert str(of_url(url)) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@h/0", "redis://***@h/0"),
        ("redis://h?password=p&db=1", "redis://h?password=***&db=1"),
        (WATCHED, "redis+sentinel://***@one:1,two,[::1]:3/shop?db=4&sentinel_password=***"),
    ],
)
def test_no_password_of_a_url_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_client_is_gone_where_its_own_connections_go() -> None:
    found = of_client(redis.Redis("h", 7, db=3, password="p"))
    assert (str(found), found.given["db"], found.given["password"]) == ("h:7", 3, "p")


def test_what_waiting_does_not_help_is_told_before_what_it_may() -> None:
    kinds = {
        "a": NoPrimary("silent", "a is silent", advice=""),
        "b": NoPrimary("down", "b has lost it", advice=""),
        "c": NoPrimary("refused", "c refuses", advice=""),
    }

    class Told(Sentinels):
        def _ask(self, sentinel: tuple[str, int], timeout_s: float) -> tuple[str, int]:
            raise kinds[sentinel[0]]

    for names, reason in {"abc": "c refuses", "ab": "b has lost", "a": "a is silent"}.items():
        with pytest.raises(NoPrimary, match=reason) as caught:
            Told("shop", [(name, 1) for name in names]).primary(timeout_s=1)
        assert caught.value.passing == ("c" not in names)


def test_the_sentinel_that_answered_is_asked_first_the_next_time() -> None:
    asked = []

    class Told(Sentinels):
        def _ask(self, sentinel: tuple[str, int], timeout_s: float) -> tuple[str, int]:
            asked.append(sentinel[0])
            if sentinel[0] == "a":
                raise NoPrimary("silent", "a is silent", advice="")
            return "primary", 6379

    sentinels = Told("shop", [("a", 1), ("b", 1)])
    assert sentinels.primary(timeout_s=1) == sentinels.primary(timeout_s=1) == ("primary", 6379)
    assert asked == ["a", "b", "b"]


@pytest.mark.parametrize("url", ["redis://:se/cret@host:6379", "redis://me:se#cret@host:6379/0"])
def test_a_password_that_ends_the_url_early_is_told_to_be_encoded(url: str) -> None:
    with pytest.raises(ConfigError, match="%2F %3F %23 and %40") as caught:
        of_url(url)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "client", [redis.asyncio.Redis(), FakeRedis(), object()], ids=["asyncio", "fake", "other"]
)
def test_what_is_no_blocking_client_of_a_server_is_refused(client: Any) -> None:
    with pytest.raises(ConfigError, match=r"give its URL, or a redis\.Redis"):
        of_client(client)


class TimesOut(redis.UnixDomainSocketConnection):
    """As one of greenlets does, where a socket accepts nobody."""

    def _connect(self) -> Any:
        raise TimeoutError


def test_a_unix_socket_that_times_out_is_a_lost_connection() -> None:
    pool = redis.ConnectionPool(connection_class=TimesOut, path="/nowhere/server.sock")
    with pytest.raises(ConnectionLost, match="Timeout connecting"):
        Connector.like(redis.Redis(connection_pool=pool)).connect(timeout_s=0.1)


def test_what_rq_uses_tells_a_timeout_of_a_unix_socket_as_a_timeout(tmp_path: Path) -> None:
    connection = of_url(f"unix://{tmp_path}/s").client().connection_pool.make_connection()
    connection._connect = TimesOut(path="")._connect
    with pytest.raises(redis.TimeoutError):
        connection.connect()
