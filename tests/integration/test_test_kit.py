"""The kit as its users have it: what it promises about a test, and what it says when one fails."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from rq import Queue
from rq.job import JobStatus
from rq.rate_limit import RateLimit

import rqproc
from rqproc import App
from rqproc.errors import (
    ConfigError,
    HandlerFailed,
    NameTaken,
    NoLiveNode,
    RequestTimeout,
    RqprocError,
)
from rqproc.testing import LocalCluster

app = App()


@app.resource(ttl=30)
def price(id: int) -> dict[str, int]:
    return {"id": id}


@app.resource(ttl=0)
def slow(id: int) -> float:
    rqproc.current().sleep(2.0)
    return rqproc.current().now()


ASKED_ON: list[str] = []


@app.resource(ttl=0)
def asks_on(id: int) -> None:
    rqproc.current().sleep(1.0)
    slow.with_options(on_lost="local").request(id)
    ASKED_ON.append(rqproc.current().node)


@app.resource(ttl=0)
async def waits(id: int) -> None:
    await asyncio.get_running_loop().create_future()


@app.resource(ttl=0)
def leaves(id: int) -> None:
    raise SystemExit(3)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(app) as found:
        yield found


# --- time ---


def test_a_handler_s_time_is_the_cluster_s(cluster: LocalCluster) -> None:
    before = cluster.request(slow, 1)
    assert cluster.now_s == 2.0
    cluster.advance(10)
    assert cluster.request(slow, 1) - before == 12.0


def test_what_the_test_s_process_does_itself_takes_the_cluster_s_time_too(
    cluster: LocalCluster,
) -> None:
    cluster.redis_down()
    here = slow.with_options(on_lost="local", timeout=8.0)
    began = cluster.now_s
    assert [here.reply(1).source, here.reply(1).source] == ["local", "local"]
    one = cluster.now_s
    assert asyncio.run(here.arequest(1)) > 0
    assert 4.0 <= one - began <= 12.0
    assert 2.0 <= cluster.now_s - one <= 6.0
    with pytest.raises(RequestTimeout):
        slow.with_options(on_lost="local", timeout=2.5).request(1)


def test_what_a_node_s_process_does_itself_ends_with_that_alone(cluster: LocalCluster) -> None:
    pending = cluster.start(asks_on, 1, timeout=60.0)
    cluster.redis_down()
    cluster.advance(20)
    node = ASKED_ON[-1]
    cluster.kill(node)
    assert slow.with_options(on_lost="local").reply(1).source == "local"
    assert not pending.done


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e9])
def test_time_passes_forward_and_not_for_ever(cluster: LocalCluster, seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds, 0 to 86400"):
        cluster.advance(seconds)
    assert cluster.now_s == 0.0


def test_a_test_s_own_threads_ask_before_time_passes(cluster: LocalCluster) -> None:
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda id: cluster.request(price, id % 5), range(200)))
    assert [cluster.computations(price, id) for id in range(5)] == [1] * 5
    assert cluster.now_s < 0.5, "a thread that a busy machine starts late finds some has passed"


def test_the_same_test_takes_the_same_course() -> None:
    def course() -> list[object]:
        with LocalCluster(app, nodes=4) as cluster:
            calls = [cluster.start(which, id) for id in range(8) for which in (price, slow)]
            cluster.advance(1.5)
            cluster.kill("node-2")
            cluster.partition("node-3")
            cluster.lose_reply("node-1")
            calls += [cluster.start(which, id) for id in range(8) for which in (price, slow)]
            cluster.advance(20)
            cluster.heal()
            cluster.assert_nothing_lost()
            cluster.assert_serial()
            return [event._replace(token=0, text="") for event in cluster.history]

    assert course() == course()


def test_what_policies_leave_to_chance_is_the_same_by_the_same_seed() -> None:
    """Ttls with a jitter, and pauses between tries."""
    shop = App()

    @shop.resource(ttl=60, ttl_jitter=0.5, retries=2, retry_on=(LookupError,), backoff=1.0)
    def offer(id: int) -> int:
        tries[id] += 1
        if tries[id] < 3:
            raise LookupError
        return id

    def course(seed: int) -> list[object]:
        tries.clear()
        with LocalCluster(shop, seed=seed) as cluster:
            replies = [cluster.reply(offer, id, timeout=60) for id in range(5)]
            return [cluster.now_s, *(reply.expires_in_s for reply in replies)]

    tries: Counter[int] = Counter()
    assert course(1) == course(1)
    assert course(1) != course(2)


# --- what cannot be ---


def test_an_unknown_node_is_named_with_those_that_are_there(cluster: LocalCluster) -> None:
    for call in (cluster.kill, cluster.pause, cluster.resume, cluster.leave,
                 cluster.partition, cluster.heal, cluster.lose_reply):  # fmt: skip
        with pytest.raises(ConfigError, match="no node 'node-9' here; there are node-1, node-2"):
            call("node-9")
    assert {event.kind for event in cluster.history} == {"joined"}


def test_what_has_not_happened_is_not_told(cluster: LocalCluster) -> None:
    with pytest.raises(ConfigError, match="'node-1' is running: it is not paused"):
        cluster.resume("node-1")
    cluster.pause("node-1")
    with pytest.raises(ConfigError, match="paused already"):
        cluster.pause("node-1")
    with pytest.raises(ConfigError, match=r"resume\(\) or kill\(\)"):
        cluster.leave("node-1")
    with pytest.raises(ConfigError, match="the server runs"):
        cluster.redis_up()
    cluster.redis_down()
    with pytest.raises(ConfigError, match="down already"):
        cluster.redis_down()
    kinds = [event.kind for event in cluster.history if event.kind not in ("joined", "note")]
    assert kinds == ["paused", "server down"]


def test_a_name_is_one_node_s(cluster: LocalCluster) -> None:
    with pytest.raises(NameTaken):
        cluster.join("node-2")
    with pytest.raises(ConfigError, match="the test's own side"):
        cluster.join("client")
    cluster.kill("node-2")
    assert cluster.join("node-2") == "node-2"


def test_what_is_no_resource_is_refused(cluster: LocalCluster) -> None:
    with pytest.raises(ConfigError, match="not a resource"):
        cluster.request(price.handler, 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"no resource 'prise'; it has .*price"):
        cluster.computations("prise", 1)
    with pytest.raises(ConfigError, match="no resource 'prise'"), cluster.hold("prise", 1):
        pass


def test_a_cluster_is_of_an_app_and_entered_first() -> None:
    with pytest.raises(ConfigError, match="an App's"):
        LocalCluster(price)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="0 or more"):
        LocalCluster(app, nodes=-1)
    with pytest.raises(ConfigError, match="no_such"):
        LocalCluster(app, no_such=1)
    early = LocalCluster(app)
    for call in (early.join, early.members, lambda: early.request(price, 1)):
        with pytest.raises(ConfigError, match="enter it"):
            call()


# --- holding ---


def test_a_hold_tells_how_many_it_has_met(cluster: LocalCluster) -> None:
    with cluster.hold(price, 42) as held:
        calls = [cluster.start(price, 42) for _ in range(3)]
        held.wait()
        with pytest.raises(AssertionError, match="1 of 2 runs of price 42 held within 60 s"):
            held.wait(2)
    assert not any(isinstance(call.error, AssertionError) for call in calls)


def fail_in_a_hold() -> None:
    with LocalCluster(app) as cluster, cluster.hold(price, 42) as held:
        cluster.start(price, 42)
        held.wait()
        raise ZeroDivisionError


def test_a_test_that_fails_in_a_hold_leaves_nothing_behind() -> None:
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        fail_in_a_hold()
    assert threading.active_count() <= threads, "fewer, where one of another test has ended"
    with LocalCluster(app) as cluster:
        assert cluster.request(price, 42) == {"id": 42}


# --- handlers ---


def test_a_handler_that_ends_the_process_fails_its_callers_alone(cluster: LocalCluster) -> None:
    with pytest.raises(HandlerFailed, match="SystemExit"):
        cluster.request(leaves, 1)
    cluster.request(price, 1)
    assert len(cluster.members()) == 3


def test_a_handler_that_never_ends_is_gone_with_the_cluster(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LocalCluster(app) as cluster:
        with pytest.raises(rqproc.errors.RequestTimeout):
            cluster.request(waits, 1)
        history = cluster.history
    gc.collect()
    assert [event.kind for event in history].count("raised") == 0
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_the_event_loop_of_a_killed_node_ends_with_the_cluster() -> None:
    before = set(threading.enumerate())
    with LocalCluster(app) as cluster:
        cluster.start(waits, 1, timeout=60.0)
        (looping,) = (new for new in set(threading.enumerate()) - before if "async" in new.name)
        cluster.kill(cluster.owner(1) or "")
    looping.join(5.0)
    assert not looping.is_alive()


# --- other ways in ---


def test_a_plain_rq_app_s_job_is_done(cluster: LocalCluster) -> None:
    connection = cluster.enqueue(price, 1).connection
    job = Queue("rqproc.test", connection=connection).enqueue(
        "rqproc.request", 42, resource="price"
    )
    result = job.latest_result(timeout=5)
    assert result is not None
    assert result.return_value == {"id": 42}
    assert cluster.computations(price, 42) == 1


def test_nodes_maintain_rqs_registries(cluster: LocalCluster) -> None:
    """A job is canceled while it runs, so it keeps its place under its rate limit, and then its
    node dies: nobody is left to give that place back.
    """
    connection = cluster.enqueue(price, 1).connection
    queue, limit = Queue("rqproc.test", connection=connection), RateLimit("one", 1)
    running = queue.enqueue("asks_on", 1, rate_limit=limit)
    waiting = queue.enqueue("price", 2, rate_limit=limit)
    cluster.advance(0.5)
    running.cancel()
    cluster.kill(cluster.owner(1))
    cluster.advance(30)
    assert waiting.get_status() == JobStatus.RATE_LIMITED
    cluster.advance(60)
    assert waiting.get_status() == JobStatus.FINISHED


def test_all_tasks_of_a_loop_are_under_way_at_once(cluster: LocalCluster) -> None:
    async def crowd() -> list[object]:
        mine = [price.arequest(7) for _ in range(50)]
        return await asyncio.gather(*mine, *(cluster.arequest(price, 7) for _ in range(50)))

    assert len(asyncio.run(crowd())) == 100
    assert cluster.computations(price, 7) == 1


def test_two_clusters_are_two() -> None:
    other = App()
    other.resource(ttl=30, name="price")(price.handler)
    with LocalCluster(app, nodes=0) as one, LocalCluster(other) as two:
        one.advance(10)
        assert two.now_s == 0.0
        assert two.request("price", 1) == {"id": 1}
        with pytest.raises(NoLiveNode):
            price.request(1)
        one.join()
        one.redis_down()
        one.advance(1)
        assert [event for event in one.history if event.kind == "note"]
        assert not [event for event in two.history if event.kind == "note"]


def test_after_its_cluster_an_app_asks_as_before() -> None:
    before = app._clients
    with LocalCluster(app):
        assert app._clients is not before
    assert app._clients is before


# --- what a failure says ---


def test_an_error_in_the_context_tells_the_last_events() -> None:
    with pytest.raises(RqprocError) as caught, LocalCluster(app, nodes=0) as cluster:
        cluster.request(price, 42)
    (note,) = caught.value.__notes__
    assert "price 42          refused      NoLiveNode" in note


def test_two_runs_at_once_are_shown_with_what_happened_to_the_id(cluster: LocalCluster) -> None:
    owner = cluster.owner(42)
    assert owner
    with cluster.hold(price, 42) as held:
        cluster.start(price, 42)
        held.wait()
        cluster.pause(owner)
    cluster.advance(10)
    cluster.resume(owner)
    cluster.assert_serial()
    with pytest.raises(AssertionError, match=r"two runs of one id at once: price 42 on node-\d"):
        cluster.assert_serial(strict=True)


# --- the plugin ---

APP = """
import pytest
from rqproc import App

app = App()

@app.resource(ttl=30)
def price(id):
    return {"id": id}
"""

MARKED = """
import pytest
from shop import app, price

pytestmark = pytest.mark.rqproc(app, nodes=2, lease_s=1.0, heartbeat_s=0.2)
"""


@pytest.fixture
def shop(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(shop=APP)
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = --strict-markers")
    pytester.syspathinsert()
    return pytester


def run(shop: pytest.Pytester, test: str) -> pytest.RunResult:
    shop.makepyfile(test)
    return shop.runpytest_subprocess("-q", "-p", "no:cacheprovider")


def test_the_marker_names_app_nodes_and_settings(shop: pytest.Pytester) -> None:
    test = """
def test_it(rqproc_cluster):
    assert rqproc_cluster.members() == ("node-1", "node-2")
    assert rqproc_cluster.settings.lease_s == 1.0
    assert rqproc_cluster.request(price, 42) == {"id": 42}

@pytest.mark.rqproc(app, 1)
def test_the_nearest_counts(rqproc_cluster):
    assert rqproc_cluster.members() == ("node-1",)
"""
    run(shop, MARKED + test).assert_outcomes(passed=2)


def test_the_app_s_fixture_can_be_overridden(shop: pytest.Pytester) -> None:
    test = """
import pytest
import shop

@pytest.fixture
def rqproc_app():
    return shop.app

def test_it(rqproc_cluster):
    assert len(rqproc_cluster.members()) == 3
    assert rqproc_cluster.request("price", 42) == {"id": 42}

@pytest.mark.rqproc(nodes=1)
def test_the_marker_says_the_rest(rqproc_cluster):
    assert len(rqproc_cluster.members()) == 1
"""
    run(shop, test).assert_outcomes(passed=2)


def test_a_test_s_own_marker_comes_before_a_fixture_of_all(shop: pytest.Pytester) -> None:
    shop.makeconftest("""
import pytest
import rqproc

@pytest.fixture
def rqproc_app():
    return rqproc.App()
""")
    test = """
def test_it(rqproc_cluster):
    assert rqproc_cluster.request(price, 42) == {"id": 42}
"""
    run(shop, MARKED + test).assert_outcomes(passed=1)


def test_a_setting_that_there_is_not_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"nods; there are concurrency, .*lease_s"):
        LocalCluster(app, nods=3)


def test_where_the_kit_s_packages_are_missing_the_extra_is_named(shop: pytest.Pytester) -> None:
    shop.makeconftest("import sys; sys.modules['fakeredis'] = None")
    result = run(shop, MARKED + "def test_it(rqproc_cluster): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pip install 'rqproc?testing?'*"])


def test_without_an_app_the_test_is_told_what_to_do(shop: pytest.Pytester) -> None:
    result = run(shop, "def test_it(rqproc_cluster): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*does not know which app*@pytest.mark.rqproc(app)*rqproc_app*"])


def test_a_failing_test_says_what_happened(shop: pytest.Pytester) -> None:
    test = """
def test_it(rqproc_cluster):
    rqproc_cluster.request(price, 42)
    rqproc_cluster.advance(5)
    rqproc_cluster.kill("node-1")
    assert rqproc_cluster.computations(price, 42) == 2
"""
    result = run(shop, MARKED + test)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*last events of the rqproc cluster*",
            "*0.000 s  node-1*price 42*started*token*",
            "*0.000 s  node-1*price 42*answered*miss*",
            "*5.000 s  node-1*killed*",
        ]
    )


def test_a_passing_test_says_nothing_of_its_cluster(shop: pytest.Pytester) -> None:
    result = run(shop, MARKED + "def test_it(rqproc_cluster): pass")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*last events*")


def test_the_plugin_imports_no_more_than_pytest_until_it_is_asked(shop: pytest.Pytester) -> None:
    test = """
import sys

def test_it():
    assert not {"fakeredis", "redis", "rq"} & set(sys.modules)
"""
    run(shop, test).assert_outcomes(passed=1)


def test_a_coroutine_that_nothing_else_refers_to_runs_on(cluster: LocalCluster) -> None:
    """An event loop alone does not keep its tasks from the garbage collector."""
    call = cluster.start(waits, 1, timeout=5.0)
    gc.collect()
    cluster.advance(2.0)
    assert not call.done
