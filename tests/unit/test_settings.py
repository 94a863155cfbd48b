"""Knobs: where a URL is looked for, and what a sensible value is."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

import pytest

from rqproc.errors import ConfigError
from rqproc.settings import (
    EMBEDDED,
    URL_VARIABLES,
    NodeOptions,
    NodeSettings,
    resolve_namespace,
    resolve_url,
    without_password,
)

ALL = {name: f"redis://{name.lower()}" for name in URL_VARIABLES}


def test_a_given_url_comes_before_the_environments() -> None:
    assert resolve_url("redis://given", ALL) == "redis://given"
    assert resolve_url(EMBEDDED, ALL) == EMBEDDED


def test_the_environments_urls_have_an_order() -> None:
    assert URL_VARIABLES.index("RQPROC_REDIS_URL") == 0
    assert [*URL_VARIABLES][-2:] == ["RQ_REDIS_URL", "REDIS_URL"]
    left = dict(ALL)
    for name in URL_VARIABLES:
        assert resolve_url(None, left) == f"redis://{name.lower()}"
        del left[name]
    assert resolve_url(None, left) == EMBEDDED


@pytest.mark.parametrize("nothing", [None, ""])
def test_what_is_empty_counts_as_not_given(nothing: str | None) -> None:
    environ = {"RQPROC_REDIS_URL": "", "REDIS_URL": "redis://h"}
    assert resolve_url(nothing, environ) == "redis://h"


@pytest.mark.parametrize("url", ["redis://h:1/2", "rediss://u:p@h", "unix:///run/s", "embedded"])
def test_known_schemes_are_taken_as_they_are(url: str) -> None:
    assert resolve_url(url, {}) == url


@pytest.mark.parametrize("url", ["localhost:6379", "http://h", "Embedded", "redis:/h"])
def test_another_scheme_is_refused_with_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://HOST:PORT/DB"):
        resolve_url(url, {})


def test_the_namespace_given_comes_before_the_environments() -> None:
    environ = {"RQPROC_NAMESPACE": "there"}
    assert resolve_namespace("here", environ) == "here"
    assert resolve_namespace(None, environ) == "there"
    assert resolve_namespace(None, {}) == "default"


def test_the_process_environment_is_read_where_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RQPROC_REDIS_URL", "redis://from-process")
    monkeypatch.setenv("RQPROC_NAMESPACE", "shop")
    assert resolve_url(None) == "redis://from-process"
    assert resolve_namespace(None) == "shop"


def test_the_defaults_are_the_documented_ones() -> None:
    settings = NodeSettings()
    assert (settings.lease_s, settings.heartbeat_s, settings.trust_s) == (5.0, 1.0, 4.0)
    assert (settings.concurrency, settings.drain_s) == (32, 60.0)
    assert (settings.max_entries, settings.max_queue) == (100_000, 10_000)


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"concurrency": 0}, "--concurrency"),
        ({"max_entries": 0}, "--max-entries"),
        ({"max_queue": -1}, "--max-queue"),
        ({"lease_s": 0.19}, "--lease"),
        ({"heartbeat_s": 0.0}, "--heartbeat"),
        ({"heartbeat_s": 2.6}, "--heartbeat"),
        ({"lease_s": float("nan")}, "--"),
        ({"max_age_s": 0.5}, "--max-age must"),
        ({"max_age_s": float("nan")}, "--max-age must"),
        ({"max_rss_mib": 0}, "--max-rss must"),
        ({"max_requests": 0}, "--max-requests must"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_options_name(
    wrong: dict[str, float], option: str
) -> None:
    with pytest.raises(ConfigError, match=option):
        NodeSettings(**wrong)  # type: ignore[arg-type]


def test_values_at_the_bounds_are_taken() -> None:
    NodeSettings(concurrency=1, max_entries=1, max_queue=1, lease_s=0.2, heartbeat_s=0.1)
    NodeSettings(max_age_s=1, max_rss_mib=1, max_requests=1)


def test_a_node_stops_before_the_cluster_gives_its_ids_away() -> None:
    """Even if it beats at the slowest: it has time for one more beat while it is trusted."""
    for lease_s in (0.2, 1.0, 5.0, 60.0):
        settings = NodeSettings(lease_s=lease_s, heartbeat_s=lease_s / 2)
        assert settings.heartbeat_s < settings.trust_s < lease_s


@pytest.mark.parametrize(
    ("lease_s", "heartbeat_s", "timeout_s"), [(5, 1, 1), (10, 0.2, 1), (60, 3, 3), (1, 0.4, 0.2)]
)
def test_a_heartbeat_may_take_a_second_where_the_lease_has_room_for_three(
    lease_s: float, heartbeat_s: float, timeout_s: float
) -> None:
    settings = NodeSettings(lease_s=lease_s, heartbeat_s=heartbeat_s)
    assert settings.beat_timeout_s == pytest.approx(timeout_s)


def test_an_embedded_node_takes_every_setting_but_those_that_end_its_process() -> None:
    typed = get_type_hints(NodeOptions)
    known = get_type_hints(NodeSettings)
    assert known.keys() == {field.name for field in fields(NodeSettings)}
    for of_a_process in ("strict", "max_age_s", "max_rss_mib", "max_requests"):
        assert known.pop(of_a_process)
    assert typed == known


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("user:secret@host:6379", "user:***@host:6379"),
        ("redis//:secret@host:6379", "redis//***@host:6379"),
        ("redis:/user:secret@host", "redis:/***@host"),
        ("redis://:se/cr#et@host:6379/0", "redis://***@host:6379/0"),
        ("redis://:s@cret@host", "redis://***@host"),
        ("redis://:secret", "redis://:***"),
        ("unix:///run/r.sock?password=secret&db=1", "unix:///run/r.sock?password=***&db=1"),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_no_password_is_shown_however_the_url_is_mistyped(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_placement_is_one_of_those_there_are() -> None:
    assert NodeSettings().placement == "modulo"
    with pytest.raises(ConfigError, match="--placement is one of modulo, slots"):
        NodeSettings(placement="ring")  # type: ignore[arg-type]
