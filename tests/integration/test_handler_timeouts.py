"""A handler that takes longer than its resource allows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book
from watch import Watch

from rqproc import App
from rqproc.errors import HandlerTimeout
from rqproc.node import stuck


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def _have_it_run(cluster: Cluster, id: int) -> None:
    """Ask; on a busy machine it may take too long for its caller, though the gate is open."""
    with suppress(HandlerTimeout):
        cluster.client.request(id, "overlong")


def _stuck(cluster: Cluster) -> int:
    (node,) = cluster.client.membership().nodes
    return node.stuck


def _refused_s(cluster: Cluster, id: int) -> float:
    """Seconds until a request is refused because its id is stuck."""
    watch = Watch()
    with pytest.raises(HandlerTimeout):
        cluster.client.request(id, "overlong")
    return watch.stop()


def test_a_thread_past_its_timeout_is_stuck_and_its_id_waits_for_it(
    cluster: Cluster, book: Book, ids: Fresh, threads: ThreadPoolExecutor
) -> None:
    cluster.start("a", options=(*kit.PATIENT, "--concurrency", "1"))
    id, other = ids(2)
    first = threads.submit(cluster.client.request, id, "overlong", args=("first",))
    book.started("overlong", id)
    behind = threads.submit(cluster.client.request, id, "overlong", args=("behind",))
    for asked in (first, behind):
        error = asked.exception()
        assert isinstance(error, HandlerTimeout)
        assert (error.id, error.timeout_s, error.stuck) == (id, 0.3, True)
    assert any(_refused_s(cluster, id) < 0.3 for _ in range(5)), "at once"
    assert cluster.client.locate([id], "overlong")[0].holder == "a", "nobody else may run it"
    assert cluster.client.request(other, "charge")["n"] == 1, "its slot is free"
    kit.eventually(lambda: _stuck(cluster) == 1)
    check = kit.finished(cluster.url, cluster.namespace, "node", "check", "a")
    assert (check.returncode, "1 stuck" in check.stderr) == (1, True)
    book.release("overlong", id, times=2)
    kit.eventually(lambda: _stuck(cluster) == 0)
    kit.eventually(lambda: cluster.client.locate([id], "overlong")[0].holder is None)
    _have_it_run(cluster, id)
    kit.eventually(lambda: book.count("overlong", id) == 2)
    assert book.order("overlong", id) == ["first", "-"]


def test_a_coroutine_past_its_timeout_is_cancelled(
    cluster: Cluster, ids: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck, "STUCK_AFTER_S", 5.0)  # a busy machine may be late with its end
    app = App(cluster.url, namespace=cluster.namespace)

    @app.resource(ttl=0, timeout=0.3)
    async def aoverlong(id: int) -> None:
        await asyncio.sleep(30)

    (id,) = ids(1)
    with app.client, app.node(name="a"):
        with pytest.raises(HandlerTimeout) as caught:
            aoverlong.request(id)
        assert not caught.value.stuck
        assert cluster.client.locate([id], "aoverlong")[0].holder is None
        assert _stuck(cluster) == 0


def test_a_job_past_its_timeout_has_failed(cluster: Cluster, book: Book, ids: Fresh) -> None:
    cluster.start("a")
    (id,) = ids(1)
    job = cluster.client.enqueue(id, "overlong")
    result = job.latest_result(timeout=4)
    assert result
    assert "HandlerTimeout" in str(result.exc_string)
    assert job.get_status() == "failed"
    book.release("overlong", id)
    kit.eventually(lambda: cluster.client.locate([id], "overlong")[0].holder is None)
    assert job.get_status() == "failed"


def test_what_is_stuck_when_its_node_dies_is_free_for_others(
    cluster: Cluster, book: Book, ids: Fresh
) -> None:
    (node,) = cluster.start("a", options=kit.BRISK)
    (id,) = ids(1)
    with pytest.raises(HandlerTimeout):
        cluster.client.request(id, "overlong")
    node.kill()
    cluster.start("b", options=kit.BRISK)
    kit.eventually(lambda: cluster.client.members() == ("b",))
    book.release("overlong", id, on="b")
    _have_it_run(cluster, id)
    kit.eventually(lambda: ("end", "-", "b") in book.log("overlong", id))
