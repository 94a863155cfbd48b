"""The test kit's cluster of real processes: what it does to them, and that nothing of it stays.

What tests see of it, whichever kind of cluster they run on, is told where both kinds are tested.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.kit import eventually

from rqproc import App
from rqproc.errors import (
    ConfigError,
    HandlerFailed,
    NameTaken,
    NoLiveNode,
    RedisUnavailable,
    RequestTimeout,
)
from rqproc.testing.processes.cluster import RealCluster

pytestmark = pytest.mark.slow

BRISK: dict[str, Any] = {"lease_s": 1.0, "heartbeat_s": 0.2}

app = App()


@app.resource(ttl=30)
def price(id: int) -> dict[str, int]:
    return {"id": id, "pid": os.getpid()}


@app.resource(ttl=30)
async def rate(id: int) -> int:
    await asyncio.sleep(0)
    return id


@app.resource(ttl=0)
def charge(id: int, amount: int) -> int:
    if amount < 0:
        raise ValueError("less than nothing")
    return amount


@app.resource(ttl=0)
def total(id: int) -> list[int]:
    """Asks other ids, on whichever node."""
    return [charge.request(each, each) for each in range(id)]


@app.resource(ttl=0)
def chatter(id: int) -> None:
    sys.stdout.write("said by a handler\n")
    os.write(2, b"and by C code\n")


@app.resource(ttl=0)
def crash(id: int) -> None:
    os._exit(3)


@pytest.fixture
def cluster() -> Iterator[RealCluster]:
    with RealCluster(app, nodes=2, lease_s=2.5, heartbeat_s=0.2) as running:
        yield running
    running.assert_serial()


def names(cluster: RealCluster, id: int) -> tuple[str, str]:
    """The owner of an id, and the other of two nodes."""
    owner = cluster.owner(id)
    (other,) = set(cluster.members()) - {owner}
    assert owner
    return owner, other


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- asking ---


def test_nodes_are_processes_and_handlers_are_ordinary(cluster: RealCluster) -> None:
    pids = {cluster.request(price, id)["pid"] for id in range(4)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert price.request(1)["pid"] in pids
    assert cluster.request("demo", 1)["node"] in cluster.members()


def test_a_handler_may_be_a_closure() -> None:
    inner, found = App(), [40]

    @inner.resource(ttl=0)
    def add(id: int) -> int:
        found.append(id)
        return sum(found)

    with RealCluster(inner, nodes=1, **BRISK) as cluster:
        assert cluster.request(add, 2) == 42
        assert found == [40]  # what a node does to its memory, nobody else sees


def test_all_ways_to_ask(cluster: RealCluster) -> None:
    assert cluster.request_many(rate, [1, 2, 3]) == {1: 1, 2: 2, 3: 3}
    job = cluster.enqueue(charge, 7, amount=3)
    with pytest.raises(HandlerFailed, match="less than nothing"):
        cluster.request(charge, 7, -1)
    cluster.assert_nothing_lost()
    assert job.return_value(refresh=True) == 3
    assert cluster.reply(rate, 1).source == "hit"
    assert cluster.invalidate(rate, 1)
    assert cluster.reply(rate, 1).source == "miss"
    assert cluster.computations(rate, 1) == 2


def test_tasks_that_ask_at_once_are_under_way_at_once(cluster: RealCluster) -> None:
    async def ask() -> list[Any]:
        with cluster.hold(rate, 1) as held:
            tasks = [asyncio.create_task(cluster.arequest(rate, 1)) for _ in range(40)]
            await asyncio.to_thread(held.wait)
            assert await cluster.arequest(rate, 2) == 2
            assert not any(task.done() for task in tasks)
            held.release()
            return await asyncio.gather(*tasks)

    assert asyncio.run(ask()) == [1] * 40
    assert cluster.computations(rate, 1) == 1


def test_a_call_that_was_started_is_at_its_node(cluster: RealCluster) -> None:
    with cluster.hold(price, 1):
        calls = [cluster.start(price, 1) for _ in range(5)]
        assert not any(call.done for call in calls)
        node = next(n for n in cluster.client.membership().nodes if n.name == cluster.owner(1))
        assert node.queued == 0
        assert node.held == 5
    assert len({call.result()["pid"] for call in calls}) == 1


def test_handlers_ask_through_the_port_of_their_node(cluster: RealCluster) -> None:
    assert cluster.request(total, 5) == [0, 1, 2, 3, 4]
    node, other = names(cluster, 6)
    with cluster.hold(total, 6) as held:
        call = cluster.start(total, 6)
        held.wait()
        cluster.partition(node)
    assert call.reply().node == other
    assert [run.node for run in cluster.history.runs() if run.resource == "total"][1:] == [
        node,
        other,
    ]
    assert cluster.computations(charge, 5) == 1  # none for the one that was cut off


# --- holding ---


def test_runs_are_held_until_they_are_released(cluster: RealCluster) -> None:
    with cluster.hold(price, 1) as held:
        call = cluster.start(price, 1)
        held.wait()
        cluster.request(price, 2)
        assert not call.done
        held.release()
        assert call.result()["id"] == 1
        cluster.invalidate(price, 1)
        cluster.request(price, 1)
    kinds = [event.kind for event in cluster.history.of("price", 1)]
    assert kinds == ["asked", "started", "returned", "answered"] * 2


def test_holds_of_one_id_nest(cluster: RealCluster) -> None:
    with cluster.hold(charge, 1) as outer:
        first = cluster.start(charge, 1, 10)
        outer.wait()
        with cluster.hold(charge, 1) as inner:
            second = cluster.start(charge, 1, 20)
            outer.release()
            assert first.result() == 10
            inner.wait()
            assert not second.done
        assert second.result() == 20


# --- nodes come and go ---


def test_a_killed_node_is_replaced_when_its_lease_has_run_out(cluster: RealCluster) -> None:
    owner, other = names(cluster, 1)
    with cluster.hold(price, 1) as held:
        call = cluster.start(price, 1)
        held.wait()
        cluster.kill(owner)
        held.wait(2)
    assert call.reply().node == other
    assert cluster.members() == (other,)
    first, second = cluster.history.runs()
    assert (first.node, first.dead, second.node) == (owner, True, other)


def test_the_name_of_a_killed_node_is_waited_for(cluster: RealCluster) -> None:
    cluster.partition("node-1")
    cluster.kill("node-1")
    began_s = cluster.now_s
    assert cluster.join("node-1") == "node-1"
    assert cluster.now_s - began_s > 0.5
    assert cluster.members() == ("node-1", "node-2")


def test_the_name_of_a_live_node_is_taken(cluster: RealCluster) -> None:
    with pytest.raises(NameTaken) as raised:
        cluster.join("node-1")
    assert raised.value.name == "node-1"
    assert raised.value.lease_left_s > 0
    cluster.request(price, 1)
    assert cluster.join() == "node-3"


def test_a_node_that_leaves_finishes_what_it_holds(cluster: RealCluster) -> None:
    owner, other = names(cluster, 1)
    with cluster.hold(price, 1) as held:
        call = cluster.start(price, 1)
        held.wait()
        left = threading.Event()
        cluster._callers.start(lambda: (cluster.leave(owner), left.set()))
        eventually(lambda: cluster.members() == (other,))
        assert not call.done
    assert call.reply().node == owner
    assert left.wait(15), "it ends when that is answered"
    cluster.leave(other)
    assert cluster.members() == ()
    with pytest.raises(NoLiveNode):
        cluster.request(price, 1)


def test_a_paused_node_does_not_know_that_it_stood_still(cluster: RealCluster) -> None:
    owner, other = names(cluster, 1)
    before = cluster.request(price, 1)["pid"]
    cluster.pause(owner)
    assert cluster.request(price, 1)["pid"] != before
    assert cluster.members() == (other,)
    cluster.resume(owner)
    eventually(lambda: len(cluster.members()) == 2)
    assert cluster.request(price, 1)["pid"] == before
    assert cluster.computations(price, 1) == 3  # it has dropped its entries


def test_a_node_that_ends_by_itself_is_told_of() -> None:
    with RealCluster(app, nodes=2, lease_s=10.0, heartbeat_s=0.2) as cluster:  # one dies, not two
        call = cluster.start(crash, 1, timeout=2.0)
        with pytest.raises(AssertionError, match=r"node-\d has died"):
            eventually(lambda: cluster.advance(0.05))
        with pytest.raises(RequestTimeout):
            call.result()
        assert "by itself, with exit code 3" in str(cluster.history)
        cluster.advance(0.1)  # it was told of once


def test_a_strict_node_may_end_by_itself() -> None:
    with RealCluster(app, nodes=1, strict=True, **BRISK) as cluster:
        with cluster.hold(price, 1) as held:
            call = cluster.start(price, 1)
            held.wait()
            cluster.partition("node-1")
            cluster.advance(1.3)
        cluster.join()
        assert call.reply().node == "node-2"
    (run, _) = cluster.history.runs()
    assert run.dead
    cluster.assert_serial(strict=True)


# --- the network and the server ---


def test_a_node_that_is_cut_off_hears_nothing_until_it_is_healed(cluster: RealCluster) -> None:
    owner, other = names(cluster, 1)
    cluster.partition(owner)
    assert cluster.request(rate, 1) == 1
    assert cluster.members() == (other,)
    cluster.heal(owner)
    eventually(lambda: len(cluster.members()) == 2)
    assert [event.node for event in cluster.history if event.kind == "started"] == [other]


def test_the_client_may_be_cut_off_too(cluster: RealCluster) -> None:
    cluster.partition("client")
    call = cluster.start(rate, 1)
    cluster.advance(0.3)
    assert not call.done
    assert cluster.computations(rate, 1) == 0
    cluster.heal()
    assert call.result() == 1


def test_a_lost_reply_costs_no_second_run(cluster: RealCluster) -> None:
    cluster.lose_reply()
    assert cluster.request(charge, 1, 5) == 5
    for name in cluster.members():
        cluster.lose_reply(name)
    assert cluster.request(charge, 1, 6) == 6
    assert cluster.computations(charge, 1) == 2


def test_a_reply_is_lost_of_a_script_that_was_carried_out(cluster: RealCluster) -> None:
    cluster.request(charge, 1, 1)
    with cluster.hold(charge, 1) as held:
        cluster.lose_reply()
        before = cluster._network.functions("client")
        call = cluster.start(charge, 1, 2)
        held.wait()
        assert cluster._network.functions("client") > before
    assert call.result() == 2


def test_a_server_that_was_down_has_its_data_again(cluster: RealCluster) -> None:
    before = cluster.client.membership()
    with cluster.hold(charge, 1) as held:
        job = cluster.enqueue(charge, 1, 5)
        held.wait()
        cluster.redis_down()
        with pytest.raises(RedisUnavailable):
            cluster.request(price, 1, timeout=0.5)
        with pytest.raises(RedisUnavailable, match="is not available: "):
            cluster.join()
        cluster.redis_up()
    cluster.assert_nothing_lost()
    assert job.return_value(refresh=True) == 5
    eventually(lambda: cluster.members() == before.members)
    assert cluster.computations(charge, 1) == 1


def test_a_fault_takes_nothing_from_the_history(cluster: RealCluster) -> None:
    owner, _ = names(cluster, 1)
    with cluster.hold(price, 1) as held:
        call = cluster.start(price, 1)
        held.wait()
        cluster.redis_down()
        held.release()
        eventually(lambda: cluster.history.runs()[0].ended_s is not None)
        cluster.redis_up()
    assert call.result()["id"] == 1
    kinds = [(e.kind, e.node) for e in cluster.history.of("price", 1)]
    assert kinds[:3] == [("asked", ""), ("started", owner), ("returned", owner)]
    assert any(event.kind == "note" and event.node == owner for event in cluster.history)


# --- what is told ---


def test_wrong_words_are_refused(cluster: RealCluster) -> None:
    for wrong in (cluster.leave, cluster.kill, cluster.pause, cluster.partition):
        with pytest.raises(ConfigError, match="no node 'node-9' here; there are node-1, node-2"):
            wrong("node-9")
    with pytest.raises(ValueError, match="does not go back"):
        cluster.advance(-1)


def test_what_nodes_say_does_not_reach_the_tests_own_output(
    cluster: RealCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    node = cluster.reply(chatter, 1).node
    assert capfd.readouterr() == ("", "")
    assert cluster._said(node) == "said by a handler\nand by C code"


class Broken(App):
    """Its nodes die before they have joined: but for the first."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._mark = folder / "one has started"
        self._home = os.getpid()

    @property
    def resources(self) -> Any:
        if os.getpid() != self._home:
            if self._mark.exists():
                raise RuntimeError("out of order")
            self._mark.touch()
        return super().resources


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    cluster = RealCluster(Broken(tmp_path), nodes=3, **BRISK)
    with (
        left_nothing(cluster),
        pytest.raises(AssertionError, match=r"(?s)node-2 did not start:.*out of order"),
        cluster,
    ):
        pytest.fail("it has started")


# --- nothing is left behind ---


class left_nothing:  # noqa: N801
    """Around a cluster: its processes end, and its files and descriptors are given back."""

    def __init__(self, cluster: RealCluster) -> None:
        self._cluster = cluster

    def __enter__(self) -> None:
        self._before = descriptors()

    def __exit__(self, *exc: object) -> None:
        cluster = self._cluster
        folder = cluster._server.places.state.parent
        assert not folder.exists()
        pids = [cluster._spawner.pid, cluster._network.pid, *cluster._event_log._children]
        assert not [pid for pid in pids if alive(pid)]
        assert not processes(os.fsencode(folder), of="cmdline")
        # Fewer, where a call that another test has left under way has ended meanwhile.
        eventually(lambda: descriptors() <= self._before)


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def processes(text: bytes, *, of: str) -> list[int]:
    """The processes of whose command line, or environment, this is a part."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and text in (process / of).read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return [pid for pid in found if alive(pid)]


def test_a_cluster_leaves_nothing_whatever_was_done_to_it() -> None:
    cluster = RealCluster(app, nodes=4, **BRISK)
    with left_nothing(cluster):
        with cluster:
            hold = cluster.hold(price, 1)
            hold.__enter__().wait(0)
            call = cluster.start(price, 1, timeout=0.5)
            assert cluster.request(price, 2)["id"] == 2
            cluster.kill("node-1")
            cluster.pause("node-2")
            cluster.partition("node-3")
            cluster.redis_down()
        hold.__exit__(None, None, None)
        eventually(lambda: call.done)
    killed = [event.node for event in cluster.history if event.kind == "killed"]
    assert killed == ["node-1"]


def test_a_test_that_fails_leaves_nothing_but_its_history() -> None:
    cluster = RealCluster(app, nodes=1, **BRISK)
    with left_nothing(cluster), pytest.raises(HandlerFailed) as raised, cluster:
        cluster.request(charge, 7, -1)
    (note,) = raised.value.__notes__
    assert "charge 7          raised" in note


def test_clusters_may_follow_each_other_and_stand_side_by_side() -> None:
    for _ in range(2):
        one, two = RealCluster(app, nodes=1, **BRISK), RealCluster(App(), nodes=1, **BRISK)
        with left_nothing(two), left_nothing(one), one:
            with two:
                assert two.request("demo", 1)
                assert one.request(rate, 1) == 1
            assert one.request(rate, 2) == 2


TEST = """
    import time
    from pathlib import Path
    from rqproc import App
    from rqproc.testing.processes.cluster import RealCluster

    app = App()

    @app.resource(ttl=0)
    def slow(id):
        time.sleep(60)

    def test_it():
        with RealCluster(app, nodes=2, lease_s=1.0, heartbeat_s=0.2) as cluster:
            with cluster.hold(slow, 1) as held:
                cluster.start(slow, 1)
                cluster.start(slow, 2)
                held.wait()
                cluster.pause("node-1")
                Path("folder").write_text(str(cluster._server.places.state.parent))
                Path("ready").touch()
                time.sleep(60)
"""


@pytest.mark.timeout(100)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_tests_that_are_interrupted_leave_nothing(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(textwrap.dedent(TEST))
    mark = f"RQPROC_TEST_RUN={tmp_path.name}-{os.getpid()}"
    name, _, value = mark.partition("=")
    tests = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )

    def left() -> list[int]:
        folder = (tmp_path / "folder").read_bytes()  # a server writes over its environment
        return [*processes(mark.encode(), of="environ"), *processes(folder, of="cmdline")]

    try:
        eventually((tmp_path / "ready").exists, within_s=40)
        assert len(left()) >= 7
    finally:
        os.killpg(tests.pid, number)
        said, _ = tests.communicate(timeout=30)
    assert number == signal.SIGKILL or b"KeyboardInterrupt" in said
    eventually(lambda: not left(), within_s=0.0 if number == signal.SIGINT else 10.0)
    assert not Path((tmp_path / "folder").read_text()).exists()
