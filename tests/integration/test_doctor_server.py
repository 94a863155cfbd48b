"""`rqproc doctor` and servers, each broken in one way."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import redis
from fault.clock import ClockServer, why_not
from integration import kit
from integration.doctoring import NAMESPACE, Diagnosis, Doctor, run_doctor
from watch import Watch

from rqproc.calls.functions import connector
from rqproc.lab.proxy import ConnectionState, Proxy
from rqproc.lab.servers import ServerProcess
from rqproc.monitor.doctor import Finding, diagnose
from rqproc.protocol.keys import Keys
from rqproc.protocol.rights import ROLES, Role, rules

KEYS = Keys(NAMESPACE)
ALWAYS = ("on", "resetkeys", "resetchannels", "-@all", "+auth", "+hello", f"~{KEYS.queue('*')}")
"""Rules that take nothing away with them: what the last allows, that of the ingress does too."""
MIB = 2**20
BUSY = "local began = os.clock() while os.clock() - began < tonumber(ARGV[1]) do end"


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    return partial(run_doctor, capsys)


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """A server that keeps what it is told."""
    with ServerProcess(keeps=True) as running:
        yield running


@pytest.fixture
def admin(server: ServerProcess) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


def _diagnosed(
    url: str, check: str, *, user: str | None = None, role: Role | None = None
) -> list[Finding]:
    """What one check finds."""
    found = diagnose(
        connector(url), KEYS, timeout_s=60, begun=lambda name: None, user=user, role=role,
        only=(check,),
    )  # fmt: skip
    return list(found)


# --- the server itself ---


def test_nothing_is_wrong_with_a_server_as_it_should_be(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    admin.config_set("slowlog-log-slower-than", -1)  # any is slow while the machine is busy
    found = doctor(server.url)
    for check in (
        "version", "role", "eviction", "memory", "persistence", "latency", "slow commands",
        "buffers", "connections", "rights", "keys", "clock",
    ):  # fmt: skip
        found.only(check, "ok")


def test_a_replica_is_a_fault(server: ServerProcess, admin: redis.Redis, doctor: Doctor) -> None:
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    found = doctor(server.url)
    assert found.code == 2
    assert found.only("role", "fault") == "it is a replica of 127.0.0.1:1"


def test_a_cluster_is_a_fault(doctor: Doctor) -> None:
    with ServerProcess("--cluster-enabled", "yes") as server:
        found = doctor(server.url)
    assert found.only("role", "fault") == "it is part of a Redis Cluster"


def test_a_primary_without_the_replicas_that_it_wants_is_a_fault(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    admin.config_set("min-replicas-to-write", 1)
    assert "`min-replicas-to-write` is 1" in doctor(server.url).only("role", "fault")


@pytest.mark.parametrize(
    ("policy", "bound", "level"),
    [
        ("allkeys-lru", "1gb", "fault"),
        ("allkeys-random", "0", "warning"),
        ("volatile-ttl", "1gb", "warning"),
    ],
)
def test_a_policy_that_evicts_is_told(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor, policy: str, bound: str, level: str
) -> None:
    admin.config_set("maxmemory", bound)
    admin.config_set("maxmemory-policy", policy)
    assert policy in doctor(server.url).only("eviction", level)


def test_a_server_that_is_nearly_full_is_warned_of_and_one_that_is_full_a_fault(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    admin.setrange("much", 20 * MIB, b"x")  # in no buffer, of which the server lets go later
    used = admin.info("memory")["used_memory"]
    admin.config_set("maxmemory", used + 2 * MIB)
    assert "of maxmemory" in doctor(server.url).only("memory", "warning")
    admin.config_set("maxmemory", MIB)
    found = doctor(server.url)
    assert "it refuses writes" in found.only("memory", "fault")


def test_a_server_that_keeps_nothing_is_warned_of(doctor: Doctor) -> None:
    with ServerProcess() as server:
        found = doctor(server.url)
    assert found.code == 1
    assert found.only("persistence", "warning").startswith("it keeps nothing")


def test_a_server_that_cannot_save_is_a_fault_where_it_takes_no_writes_for_it(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    (server.folder / "dump.rdb").mkdir()  # nothing can be put in its place
    admin.config_set("save", "3600 1000")
    admin.bgsave()
    kit.eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    found = doctor(server.url)
    assert found.code == 2
    assert "MISCONF" in found.only("connection", "fault")
    admin.config_set("stop-writes-on-bgsave-error", "no")
    assert doctor(server.url).only("persistence", "warning") == "its last snapshot failed"


def test_a_way_that_is_slow_is_warned_of(server: ServerProcess) -> None:
    with Proxy(server.path) as proxy:
        url = proxy.url("doctor")
        proxy.set_state("doctor", ConnectionState(delay_s=0.3))
        (found,) = _diagnosed(url, "latency")
    assert found.level == "warning"
    assert "an answer takes" in found.text


def test_commands_that_kept_others_waiting_are_named(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    admin.eval(BUSY, 0, "0.15")
    assert "eval (1)" in doctor(server.url).only("slow commands", "warning").lower()
    admin.config_set("slowlog-log-slower-than", -1)  # any is slow while the machine is busy
    admin.slowlog_reset()
    doctor(server.url).only("slow commands", "ok")


def test_a_script_that_runs_on_is_a_fault(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    admin.config_set("busy-reply-threshold", 50)

    def hold() -> None:
        with suppress(redis.RedisError), server.client() as client:
            client.eval("while true do end", 0)

    def is_busy() -> bool:
        with suppress(redis.RedisError):
            admin.ping()
            return False
        return True

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        kit.eventually(is_busy)
        found = doctor(server.url)
    finally:
        admin.script_kill()
        holding.join()
    assert found.code == 2
    assert "BUSY" in found.only("connection", "fault")


@pytest.mark.parametrize(
    ("kind", "limit"), [("pubsub", "1mb 0 0"), ("pubsub", "0 512kb 10"), ("normal", "1mb 0 0")]
)
def test_buffers_that_are_too_small_are_told(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor, kind: str, limit: str
) -> None:
    admin.config_set("client-output-buffer-limit", f"{kind} {limit}")
    assert f"client-output-buffer-limit for {kind}" in doctor(server.url).only("buffers", "warning")


def test_a_short_timeout_of_connections_is_told(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    admin.config_set("timeout", 5)
    assert "timeout is 5 s" in doctor(server.url).only("buffers", "warning")
    admin.config_set("timeout", 300)
    doctor(server.url).only("buffers", "ok")


def test_connections_that_run_out_are_told(doctor: Doctor) -> None:
    with ServerProcess("--maxclients", "5") as server:
        clients = [server.client() for _ in range(3)]
        for client in clients:
            client.ping()
        found = doctor(server.url)
        for client in clients:
            client.close()
    assert "of 5 connections are open" in found.only("connections", "warning")


# --- rights ---


def _url_of(server: ServerProcess, user: str) -> str:
    return server.url.replace("unix://", f"unix://{user}:secret@")


def _let(admin: redis.Redis, *allowed: str, user: str = "u") -> None:
    admin.execute_command("ACL", "SETUSER", user, "reset", ">secret", *allowed)


@pytest.mark.parametrize("role", ROLES)
def test_a_user_with_the_rights_of_a_role_may_act_as_one(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor, role: Role
) -> None:
    _let(admin, *rules(role, KEYS))
    found = doctor(server.url, "--user", "u", "--role", role)
    assert found.only("rights", "ok").endswith(f" {role}")


@pytest.mark.parametrize("role", ROLES)
def test_each_right_that_a_role_lacks_is_named(
    server: ServerProcess, admin: redis.Redis, role: Role
) -> None:
    """One after the other, whichever it is."""
    needed = rules(role, KEYS)
    tried = 0
    for missing in needed:
        if missing in ALWAYS or (missing.startswith("&") and role == "operator"):
            continue  # an operator may listen, and never does
        _let(admin, *(rule for rule in needed if rule != missing))
        (found,) = _diagnosed(server.url, "rights", user="u", role=role)
        assert (found.level, found.advice) == ("fault", f"ACL SETUSER u {missing}")
        tried += 1
    assert tried > 40


def test_a_user_that_may_not_ask_is_told_what_it_lacks_by_trying(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    _let(admin, *(rule for rule in rules("caller", KEYS) if rule != "+hget"))
    found = doctor(_url_of(server, "u"), "--role", "caller")
    said = found.only("rights", "skipped")
    assert "may not run acl|whoami" in said
    assert said.endswith("it lacks +hget")


def test_an_operator_with_the_documented_rights_looks_at_everything(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    page = Path(kit.rqproc.__file__).parent.joinpath("docs", "operations.md").read_text("utf-8")
    text = page.split("ACL SETUSER operator +info", 1)[1].split("```", 1)[0]
    more = ["+info", *text.replace("\\\n", " ").split()]
    _let(admin, *rules("operator", KEYS), *more)
    found = doctor(_url_of(server, "u"))
    assert [one for one in found.findings if one.level == "skipped"] == []
    assert "errorstat_NOPERM" not in admin.info("errorstats")


def test_what_an_ordinary_operator_may_not_look_at_is_skipped_and_said(
    server: ServerProcess, admin: redis.Redis, doctor: Doctor
) -> None:
    _let(admin, *rules("operator", KEYS))
    found = doctor(_url_of(server, "u"))
    (skipped,) = found.of("memory")
    assert (skipped.level, skipped.text) == ("skipped", "this user may not run info")
    assert skipped.advice == "ACL SETUSER ... +info"
    found.only("nodes", "warning")


def test_a_user_that_does_not_exist_is_a_fault(server: ServerProcess, doctor: Doctor) -> None:
    assert "nobody" in doctor(server.url, "--user", "nobody").only("rights", "fault")


# --- the clock ---


@pytest.fixture
def set_server(tmp_path: Path) -> Iterator[ClockServer]:
    if reason := why_not():
        pytest.skip(reason)
    with ClockServer(tmp_path, "process") as server:
        yield server


def test_a_clock_that_was_set_back_is_told(set_server: ClockServer, doctor: Doctor) -> None:
    with kit.node(set_server.url, NAMESPACE, "n", app=None) as node:
        node.ready()
        set_server.set_clock(-600)
        kit.eventually(lambda: "set back by" in str(doctor(set_server.url).of("clock")))
        said = doctor(set_server.url).only("clock", "warning")
    found = re.search(r"set back by (\d+) s", said)
    assert found
    assert 590 <= int(found[1]) <= 600, "less what has passed meanwhile"


def test_a_clock_that_jumps_meanwhile_is_told(set_server: ClockServer) -> None:
    def begun(name: str) -> None:
        if name == "memory":
            set_server.set_clock(5)

    found = diagnose(connector(set_server.url), KEYS, timeout_s=20, begun=begun)
    (said,) = (one for one in found if one.check == "clock")
    assert said.level == "warning"
    assert "has jumped by +5." in said.text or "has jumped by +4.9" in said.text


# --- no server ---


def _no_answer(found: Diagnosis) -> str:
    assert found.code == 2
    assert len(found.findings) == 1
    return found.only("connection", "fault")


def test_no_server_is_one_line_and_2(tmp_path: Path) -> None:
    done = kit.finished(f"unix://{tmp_path}/nothing", NAMESPACE, "doctor")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("fault    connection:")
    assert lines[1].strip().startswith("-> ")
    assert done.stderr.endswith("0 ok, 0 skipped, 0 warning, 1 fault\n")


def test_a_port_where_nobody_listens_is_a_fault(doctor: Doctor) -> None:
    assert "refused" in _no_answer(doctor("redis://127.0.0.1:1"))


def test_a_wrong_password_is_a_fault(server: ServerProcess, doctor: Doctor) -> None:
    assert "WRONGPASS" in _no_answer(doctor(_url_of(server, "nobody")))


def test_what_is_no_redis_is_a_fault(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            there, _ = listening.accept()
            with there:
                there.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                there.recv(1000)

        answering = threading.Thread(target=answer)
        answering.start()
        found = doctor(f"redis://127.0.0.1:{listening.getsockname()[1]}")
        answering.join()
    assert "no Redis" in _no_answer(found)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("local://", "error: local:// is one process without a server"),
        ("http://host", "error: invalid server URL 'http://host'"),
        ("redis://host:port", "error: invalid server URL"),
    ],
)
def test_a_url_that_names_no_server_is_refused(line: kit.Line, url: str, says: str) -> None:
    code, out, err = line("--url", url, "doctor")
    assert (code, out) == (2, "")
    assert err.startswith(says)


def test_a_paused_server_is_told_in_bounded_time_and_what_is_waited_for_meanwhile(
    server: ServerProcess,
) -> None:
    server.pause()
    watch = Watch()
    done = kit.finished(server.url, NAMESPACE, "doctor", "--json")
    assert watch.stop() < 10
    assert done.returncode == 2
    assert done.stderr == "connection ...\n"
    (finding,) = json.loads(done.stdout)["findings"]
    assert "it does not answer" in finding["text"]


def test_a_server_that_is_paused_meanwhile_ends_it_with_what_was_found(
    server: ServerProcess,
) -> None:
    def begun(name: str) -> None:
        if name == "latency":
            server.pause()

    began = time.monotonic()
    found = list(diagnose(connector(server.url), KEYS, timeout_s=1.0, begun=begun))
    assert time.monotonic() - began < 10
    assert [one.check for one in found][:2] == ["version", "role"]
    assert (found[-1].check, found[-1].level) == ("connection", "fault")
    assert "does not answer" in found[-1].text
    assert found[-1].advice


def test_the_text_has_a_line_for_each_check_and_its_advice(
    server: ServerProcess, admin: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.config_set("timeout", 5)
    code, out, err = kit.Line(capsys)("--url", server.url, "-n", NAMESPACE, "doctor")
    assert code == 1
    lines = out.splitlines()
    at = next(i for i, text in enumerate(lines) if text.startswith("warning  buffers:"))
    assert lines[at + 1].strip() == "-> CONFIG SET timeout 0, or 300"
    assert "Traceback" not in err
