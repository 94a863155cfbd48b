"""Users of a real server's ACL: each can do its part with the rights that the page on operations
names, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis
from integration import kit
from integration.kit import Running

from rqproc import Client
from rqproc.errors import RedisUnavailable
from rqproc.lab.servers import ServerProcess
from rqproc.monitor.monitor import Monitor
from rqproc.protocol.keys import Keys
from rqproc.protocol.library import library
from rqproc.protocol.rights import ROLES, rules

KEYS = Keys("guarded")
FORBIDDEN = "NOPERM|permission"


@pytest.fixture
def guarded() -> Iterator[ServerProcess]:
    """A server with a user for each role, whose password is its name."""
    with ServerProcess() as server, server.client() as admin:
        for role in ROLES:
            admin.execute_command("ACL", "SETUSER", role, "reset", f">{role}", *rules(role, KEYS))
        yield server


def url_of(server: ServerProcess, user: str) -> str:
    return server.url.replace("unix://", f"unix://{user}:{user}@")


@pytest.fixture
def node(guarded: ServerProcess) -> Iterator[Running]:
    with ExitStack() as stack:
        running = kit.node(url_of(guarded, "node"), KEYS.namespace, "n1", SHOP_URL=guarded.url)
        yield stack.enter_context(running).ready()


@pytest.fixture
def caller(guarded: ServerProcess, node: Running) -> Iterator[Client]:
    with Client(url_of(guarded, "caller"), namespace=KEYS.namespace) as client:
        yield client


def test_a_caller_requests_enqueues_invalidates_and_sees_members(caller: Client) -> None:
    assert caller.request(1)["node"] == "n1"
    assert set(caller.request_many([1, 2, 3])) == {1, 2, 3}
    assert caller.invalidate(1) is True
    assert caller.members() == ("n1",)
    assert caller.owner(1) == "n1"
    assert caller.enqueue(5).id


def test_a_job_of_a_callers_is_done_by_the_node(caller: Client, guarded: ServerProcess) -> None:
    job = caller.enqueue(6)
    with guarded.client() as admin:
        done = kit.eventually(lambda: admin.hget(f"rq:job:{job.id}", "status") == b"finished")
    assert done


def test_a_caller_takes_the_calls_of_a_dead_node_to_those_that_are_left(
    caller: Client, node: Running, guarded: ServerProcess
) -> None:
    node.kill()
    with kit.node(url_of(guarded, "node"), KEYS.namespace, "n2", SHOP_URL=guarded.url) as other:
        other.ready()
        assert caller.request(1, timeout=10)["node"] == "n2"


def test_a_node_keeps_the_states_of_stateful_ids(guarded: ServerProcess) -> None:
    url = url_of(guarded, "node")
    with (
        kit.node(url, KEYS.namespace, "n1", app="bank:app", SHOP_URL=guarded.url) as node,
        Client(url_of(guarded, "caller"), namespace=KEYS.namespace) as caller,
    ):
        node.ready()
        assert caller.request(1, "Account", args=("deposit_safely", 5)) == 5
        assert caller.request(1, "Account", args=("deposit", 1)) == 6
        assert node.stop() == 0
    with guarded.client() as admin:
        assert admin.hget(KEYS.kept_state("1-Account-1"), "state") == b"6"


def test_an_operator_lists_and_drains(guarded: ServerProcess, node: Running) -> None:
    with Client(url_of(guarded, "operator"), namespace=KEYS.namespace) as operator:
        assert operator.members() == ("n1",)
        assert operator.drain("n1") is True
    assert node.wait() == 0


def test_a_caller_explains_an_id(caller: Client) -> None:
    caller.request(1)
    found = caller.explain(1)
    assert found.told
    assert found.told.kept


def test_an_operator_watches_and_is_told_why_a_node_cannot_be_asked(
    guarded: ServerProcess, node: Running
) -> None:
    with Client(url_of(guarded, "operator"), namespace=KEYS.namespace) as operator:
        seen = Monitor(operator).look()
        assert [row.info.name for row in seen.nodes] == ["n1"]
        found = operator.explain(1)
    assert found.told is None
    assert found.location.owner == "n1"
    assert "NOPERM" in found.silence


@pytest.mark.parametrize(
    "command",
    [
        ("FUNCTION", "LOAD", "REPLACE", library().text),
        ("PUBLISH", KEYS.reply("r1"), "r1-c0-1-demo-1 hit 0 0 0 n1 1"),
        ("BLMPOP", "0.1", "1", KEYS.queue("n1"), "LEFT"),
        ("LPOP", KEYS.queue("n1")),
        ("EVAL", "return 1", "0"),
        ("SET", KEYS.answer("r1-c0-1-demo-1"), "r1-c0-1-demo-1 hit 0 0 0 n1 1"),
        ("HSET", KEYS.kept_state("1-Account-1"), "state", "1"),
        ("GET", "somebody-elses"),
        ("SUBSCRIBE", "somebody-elses"),
    ],
    ids=lambda command: command[0].lower(),
)
def test_a_caller_cannot_load_functions_forge_an_answer_or_a_state_or_take_jobs(
    caller: Client, guarded: ServerProcess, command: tuple[str, ...]
) -> None:
    assert caller.members() == ("n1",)
    with (
        redis.Redis.from_url(url_of(guarded, "caller")) as raw,
        pytest.raises(redis.ResponseError, match=FORBIDDEN),
    ):
        raw.execute_command(*command)


def test_a_caller_without_functions_on_the_server_is_told_what_is_missing(
    guarded: ServerProcess,
) -> None:
    with (
        Client(url_of(guarded, "caller"), namespace=KEYS.namespace) as client,
        pytest.raises(RedisUnavailable, match="load functions"),
    ):
        client.request(1, timeout=4)


def test_a_user_without_rights_hears_which_one_is_missing(
    guarded: ServerProcess, node: Running
) -> None:
    with guarded.client() as admin:
        admin.execute_command("ACL", "SETUSER", "caller", "-zadd")
    with (
        Client(url_of(guarded, "caller"), namespace=KEYS.namespace) as client,
        pytest.raises(RedisUnavailable, match=FORBIDDEN),
    ):
        client.request(1)


def test_a_node_that_may_not_look_for_jobs_warns_and_names_the_right_until_it_has_it(
    guarded: ServerProcess,
) -> None:
    with guarded.client() as admin:
        admin.execute_command("ACL", "SETUSER", "node", "-subscribe")
        with kit.node(url_of(guarded, "node"), KEYS.namespace, "n1", SHOP_URL=guarded.url) as node:
            node.says("looking for jobs: .*subscribe")
            admin.execute_command("ACL", "SETUSER", "node", "+subscribe")
            node.says("looking for jobs: works again")
            assert node.stop() == 0
    assert len(node.lines) < 10, "once for each reason"


def test_a_node_that_may_not_run_info_does_not_join_and_says_why(guarded: ServerProcess) -> None:
    """It could not tell a server that has forgotten from the one that it knows."""
    with guarded.client() as admin:
        admin.execute_command("ACL", "SETUSER", "node", "-info")
    with kit.node(url_of(guarded, "node"), KEYS.namespace, "n1", SHOP_URL=guarded.url) as running:
        assert running.wait() == 5
    assert "NOPERM" in running.stderr
    assert "info" in running.stderr
    with guarded.client() as admin:
        assert admin.keys("rqproc:*") == [], "it has joined nothing"
