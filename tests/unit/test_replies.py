"""Errors of a server: which pass, and what is said about the others."""

from __future__ import annotations

import pytest

from rqproc.transport.connection import ConnectionLost, Refused
from rqproc.transport.replies import TROUBLES, code, shown

PASSING = {
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Connection with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "NOREPLICAS Not enough good replicas to write.",
    "NOSCRIPT No matching script. Please use EVAL.",
    "ERR Function not found",
    "UNBLOCKED force unblock from blocking operation, instance state changed",
    "ERR max number of clients reached",
    "ERR max number of clients + cluster connections reached",
}

LASTING = {
    "OOM command not allowed when used memory > 'maxmemory'.": "maxmemory",
    "NOPERM this user has no permissions to run the 'evalsha' command": "ACL LOG",
    "WRONGPASS invalid username-password pair or user is disabled.": "password in the URL",
    "NOAUTH Authentication required.": "redis://USER:PASSWORD@HOST",
    "MISCONF Redis is configured to save RDB snapshots, but it's unable to persist": "its disk",
    "MOVED 3999 127.0.0.1:6381": "without cluster mode",
    "CROSSSLOT Keys in request don't hash to the same slot": "without cluster mode",
    "DENIED Redis is running in protected mode because no password is set": "Set a password",
    "ERR DB index is out of range": "the URL",
    "BUSYGROUP Consumer Group name already exists": "the URL",
}


@pytest.mark.parametrize("reason", sorted(PASSING))
def test_what_passes_by_itself_is_told_apart(reason: str) -> None:
    assert Refused(reason).passing


@pytest.mark.parametrize("reason", LASTING)
def test_what_does_not_is_told_at_once_with_its_advice(reason: str) -> None:
    refused = Refused(reason)
    assert not refused.passing
    assert LASTING[reason] in refused.advice


def test_only_a_server_that_is_no_primary_any_more_makes_all_connections_useless() -> None:
    moved = {name for name, trouble in TROUBLES.items() if trouble.moved}
    assert moved == {"READONLY", "MASTERDOWN", "UNBLOCKED"}
    assert Refused("READONLY You can't").moved


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("-READONLY You can't write against a read only replica.", "READONLY"),
        ("@user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("@user_script: 1: Unknown Redis command", "ERR"),
    ],
)
def test_up_to_redis_6_the_error_within_a_script_counts(inside: str, expected: str) -> None:
    digest = "f_5f8b3c4e5f8b3c4e5f8b3c4e5f8b3c4e5f8b3c4e"
    reason = f"ERR Error running script (call to {digest}): @user_script:9: {inside}"
    assert code(reason) == expected


@pytest.mark.parametrize("digest", ["5f8b3c4e" * 5 + ", ", " "])
def test_people_are_shown_one_line_without_places_in_scripts(digest: str) -> None:
    assert shown(f"OOM not allowed. script: {digest}on @user_script:23.") == "OOM not allowed"
    assert shown("DENIED one\r\ntwo.") == "DENIED one two"


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("Error 111 connecting to host:1. Connection refused.", "Check that it runs"),
        ("Connection reset by peer", "Check that it runs"),
        ("it does not answer", "SLOWLOG"),
        ("Timeout connecting to server", "TLS is on one side"),
        ("what answers is no Redis: Protocol error, got '<'", "Check the port"),
        ("Error 1 connecting to host:1. [SSL: WRONG_VERSION_NUMBER]", "redis://... instead"),
        ("Error 1 connecting to host:1. [SSL: CERTIFICATE_VERIFY_FAILED]", "ssl_ca_certs"),
        ("Error -2 connecting to nohost:1. Name or service not known.", "the host name"),
        ("Error -3 connecting to h:1. Temporary failure in name resolution.", "the host name"),
    ],
)
def test_why_a_connection_failed_says_what_to_do_about_it(reason: str, advice: str) -> None:
    assert advice in ConnectionLost(reason).advice
