"""What a caller has said is to be done where no node can answer, and that it is done."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Line
from watch import Watch

from rqproc import App, AsyncClient, Client, Reply, current
from rqproc.calls.multiplexer import Multiplexer
from rqproc.calls.retry import OUTAGE_S
from rqproc.errors import (
    ConfigError,
    HandlerFailed,
    NoLiveNode,
    RedisUnavailable,
    RequestCycle,
    RequestTimeout,
    UnknownResource,
)
from rqproc.local import fallback

NOWHERE = "redis://127.0.0.1:1"
HERE = f"{socket.gethostname()}:{os.getpid()}"


class Here:
    """An app with the shop's names, whose handlers run in the tests' own process."""

    def __init__(self, url: str, namespace: str) -> None:
        self.app = App(url, namespace=namespace)
        self.runs: list[object] = []
        self.price = self.app.resource(ttl=60)(self._named("price"))
        self.charge = self.app.resource(ttl=0)(self._named("charge"))
        self.explode = self.app.resource(ttl=0)(self._named("explode"))

        @self.app.resource(ttl=60)
        async def aprice(id: object) -> dict[str, object]:
            await asyncio.sleep(0)
            return self._run(id)

        self.aprice = aprice

    def close(self) -> None:
        self.app.client.close()

    def _named(self, name: str) -> Callable[..., dict[str, object]]:
        def handler(id: object, *args: object) -> dict[str, object]:
            return self._run(id)

        handler.__name__ = name
        return handler

    def _run(self, id: object) -> dict[str, object]:
        self.runs.append(id)
        return {"id": id, "node": current().node}


@pytest.fixture
def here(cluster: Cluster) -> Iterator[Here]:
    made = Here(cluster.url, cluster.namespace)
    yield made
    made.close()


@pytest.fixture
def away() -> Iterator[Here]:
    """Its server does not exist."""
    made = Here(NOWHERE, "away")
    yield made
    made.close()


def took(play: Callable[[], Any]) -> tuple[float, Any]:
    watch = Watch()
    found = play()
    return watch.stop(), found


# --- no node ----------------------------------------------------------------------------------


def test_where_no_node_lives_the_handler_runs_here_at_once(here: Here, ids: Fresh) -> None:
    (id,) = ids(1)
    took_s, reply = took(lambda: here.price.with_options(on_lost="local").reply(id))
    value = {"id": id, "node": HERE}
    assert reply == Reply(id, value, HERE, "local", age_s=0.0, expires_in_s=0.0, token=0)
    assert took_s < 1.0


@pytest.mark.parametrize("on_lost", ["wait", "error"])
def test_else_it_is_an_error_at_once(here: Here, ids: Fresh, on_lost: Any) -> None:
    with pytest.raises(NoLiveNode):
        here.price.with_options(on_lost=on_lost).request(ids(1)[0])
    assert here.runs == []


def test_arguments_come_along(here: Here, ids: Fresh) -> None:
    (id,) = ids(1)
    assert here.charge.with_options(on_lost="local").request(id, 5)["id"] == id


def test_many_ids_are_answered_here_in_the_order_asked(here: Here, ids: Fresh) -> None:
    asked = ids(40)
    found = here.price.with_options(on_lost="local").request_many(asked)
    assert list(found) == asked
    assert [value["id"] for value in found.values()] == asked


def test_with_asyncio_too(here: Here, ids: Fresh) -> None:
    one, other = ids(2)

    async def play() -> list[Any]:
        local = {"on_lost": "local", "app": here.app}
        async with AsyncClient(here.app.url, namespace=here.app.namespace, **local) as client:  # type: ignore[arg-type]
            return [
                await client.reply(one, "aprice"),
                await client.reply(one, "price"),
                await client.request_many([one, other], "aprice"),
            ]

    *replies, many = asyncio.run(play())
    assert [(reply.source, reply.node) for reply in replies] == [("local", HERE)] * 2
    assert [value["id"] for value in many.values()] == [one, other]


def test_coroutines_run_for_blocking_callers_too(here: Here, ids: Fresh) -> None:
    (id,) = ids(1)
    assert here.aprice.with_options(on_lost="local").request(id)["id"] == id


def test_fifty_callers_of_one_id_are_one_computation(cluster: Cluster, ids: Fresh) -> None:
    (id,) = ids(1)
    app = App(cluster.url, namespace=cluster.namespace)
    go, runs = threading.Event(), []

    @app.resource(ttl=60, on_lost="local")
    def slow(id: int) -> int:
        runs.append(id)
        assert go.wait(10)
        return len(runs)

    with app.client, ThreadPoolExecutor(50) as threads:
        waiting = [threads.submit(slow.reply, id) for _ in range(50)]
        kit.eventually(lambda: fallback._PROCESS.worker.survey().held == 50, what="all of them")
        go.set()
        replies = [caller.result(10) for caller in waiting]
    assert {(reply.value, reply.source) for reply in replies} == {(1, "local")}
    assert runs == [id]


@pytest.mark.parametrize("length", [1, 3])
def test_a_circle_is_told_at_once(cluster: Cluster, length: int) -> None:
    app = App(cluster.url, namespace=cluster.namespace)
    told: list[object] = []

    @app.resource(ttl=60, on_lost="local")
    def chain(id: int) -> int:
        try:
            return int(chain.request((id + 1) % length))
        except RequestCycle as error:
            told.extend(error.way)
            return id

    with app.client:
        took_s, last = took(lambda: chain.request(0))
    assert (last, told) == (length - 1, [("chain", str(id)) for id in range(length)])
    assert took_s < 2.0


@pytest.mark.parametrize("is_async", [False, True])
def test_handlers_may_ask_each_other_in_longer_chains_than_may_run_at_once(
    cluster: Cluster, is_async: bool
) -> None:
    app = App(cluster.url, namespace=cluster.namespace)

    @app.resource(ttl=0, on_lost="local")
    def chain(id: int) -> int:
        return 1 + int(chain.request(id - 1)) if id else 0

    @app.resource(ttl=0, on_lost="local")
    async def achain(id: int) -> int:
        return 1 + int(await achain.arequest(id - 1)) if id else 0

    with app.client:
        found = asyncio.run(achain.arequest(20)) if is_async else chain.request(20)
    assert found == 20


# --- no server --------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [1.0, 4.0, 20.0])
def test_where_no_server_answers_the_handler_runs_here_soon(away: Here, timeout: float) -> None:
    price = away.price.with_options(on_lost="local", timeout=timeout)
    took_s, reply = took(lambda: price.reply(1))
    assert (reply.source, reply.value["id"]) == ("local", 1)
    assert took_s <= min(timeout / 2, OUTAGE_S) + 0.2


def test_for_asyncio_too(away: Here) -> None:
    price = away.price.with_options(on_lost="local", timeout=2.0)
    assert asyncio.run(price.arequest(1))["id"] == 1
    assert list(asyncio.run(away.aprice.with_options(on_lost="local").arequest_many([1, 2]))) == [
        1,
        2,
    ]


def test_who_wants_an_error_has_it_as_soon(away: Here) -> None:
    price = away.price.with_options(on_lost="error", timeout=4.0)

    def play() -> None:
        with pytest.raises(RedisUnavailable):
            price.request(1)

    assert took(play)[0] <= 2.2
    assert away.runs == []


# --- what is no loss --------------------------------------------------------------------------


def test_a_node_that_can_answer_does(shop: str, ids: Fresh) -> None:
    here = Here(shop, "shop")
    (id,) = ids(1)
    reply = here.price.with_options(on_lost="local").reply(id)
    assert (reply.source, reply.node) == ("miss", f"n{id % 3 + 1}")
    assert here.runs == []
    here.close()


def test_a_handlers_error_there_is_not_tried_here(shop: str, ids: Fresh) -> None:
    here = Here(shop, "shop")
    with pytest.raises(HandlerFailed):
        here.explode.with_options(on_lost="local").request(ids(1)[0], "value")
    assert here.runs == []
    here.close()


def test_nor_is_a_resource_that_the_nodes_do_not_know(shop: str, ids: Fresh) -> None:
    app = App(shop, namespace="shop")

    @app.resource(ttl=0, on_lost="local")
    def unheard_of(id: object) -> object:
        raise AssertionError("it ran")

    with app.client, pytest.raises(UnknownResource):
        unheard_of.request(ids(1)[0])


def _seen_withdrawals(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What servers have said of calls of this process that were to be taken back."""
    said: list[object] = []
    take_in = Multiplexer._withdrawn

    def withdrawn(core: Multiplexer, reply: Any, places: Any) -> None:
        take_in(core, reply, places)
        said.append(reply)

    monkeypatch.setattr(Multiplexer, "_withdrawn", withdrawn)
    return said


def test_a_slow_node_that_beats_is_waited_for(
    shop: str, book: Book, ids: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id,) = ids(1)
    tried = _seen_withdrawals(monkeypatch)
    app = App(shop, namespace="shop")

    @app.resource(ttl=0, on_lost="local")
    def gated(id: object, tag: object = "-") -> object:
        raise AssertionError("it ran")

    with app.client, ThreadPoolExecutor() as threads:
        waiting = threads.submit(gated.with_options(timeout=8.0).reply, id)
        book.started("gated", id)
        kit.eventually(lambda: tried, what="half of its timeout, where it is taken back if lost")
        book.release("gated", id)
        reply = waiting.result(5)
        assert (reply.source, reply.value["n"]) == ("miss", 1)
        with pytest.raises(RequestTimeout):
            gated.with_options(timeout=1.0).request(id)
        book.release("gated", id)


# --- who decides ------------------------------------------------------------------------------


def test_a_request_decides_before_its_resource_before_the_client(away: Here) -> None:
    app = App(NOWHERE, namespace="away")

    @app.resource(ttl=0, on_lost="local")
    def mild(id: object) -> object:
        return id

    @app.resource(ttl=0)
    def plain(id: object) -> object:
        return id

    def answers(client: Client, resource: str, on_lost: Any = None) -> bool:
        try:
            return bool(client.request(1, resource, timeout=1.5, on_lost=on_lost))
        except RedisUnavailable:
            return False

    with Client(NOWHERE, on_lost="error", app=app) as client:
        assert answers(client, "mild")
        assert not answers(client, "mild", "error")
        assert not answers(client, "plain")
        assert answers(client, "plain", "local")
    with Client(NOWHERE, on_lost="local", app={"plain": plain}) as client:
        assert answers(client, "plain")
    with app.client:
        assert mild.with_options(timeout=1.5).request(1) == 1
        with pytest.raises(RedisUnavailable):
            mild.with_options(timeout=1.5, on_lost="error").request(1)


def test_without_the_handler_local_is_a_mistake_at_once(shop: str, away: Here) -> None:
    with Client(shop, namespace="shop") as client:
        with pytest.raises(ConfigError, match=r"'price'.*Client\(app=\.\.\.\)"):
            client.request(1, "price", on_lost="local")
        with pytest.raises(ConfigError, match="one of wait, local, error"):
            client.request(1, "price", on_lost="maybe")  # type: ignore[arg-type]
        assert client.request(1, "price", on_lost="error")
    with pytest.raises(ConfigError, match="neither an App nor a mapping"):
        Client(shop, app="prices:app")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one of wait, local, error"):
        Client(shop, on_lost="never")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one of wait, local, error"):
        away.app.resource(ttl=1, on_lost="x")(lambda id: id)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one of wait, local, error"):
        away.price.with_options(on_lost="x")  # type: ignore[arg-type]


def test_an_invalidation_is_never_local(away: Here) -> None:
    client = Client(NOWHERE, on_lost="local", app=away.app)
    with pytest.raises(RedisUnavailable):
        client.invalidate(1, "price", timeout=0.5)
    assert away.runs == []


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "lost_prices.py").write_text(
        "import sys\nfrom rqproc import App, current\n"
        f"app = App({NOWHERE!r}, namespace='away')\n"
        "@app.resource(ttl=30)\ndef price(id):\n    return [id, current().node]\n"
        "@app.resource(ttl=0, on_lost='local')\ndef charge(id):\n    raise ValueError('broke')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("RQPROC_REDIS_URL", "RQ_REDIS_URL", "REDIS_URL", "RQPROC_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    return "lost_prices:app"


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Line:
    return Line(capsys)


SOON = ("-t", "2")


def test_the_command_runs_the_apps_handler(typed: Line, prices: str) -> None:
    asked = ("request", "7", "-r", "price", *SOON, "--on-lost", "local", "--app", prices)
    code, out, err = typed(*asked, "-v")
    assert (code, json.loads(out)) == (0, [7, HERE])
    assert f"7: local from {HERE}" in err
    (line,) = typed.json(*asked)
    assert (line["source"], line["node"], line["value"]) == ("local", HERE, [7, HERE])


def test_the_command_serves_the_default_resource_without_an_app(
    typed: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = typed("--url", NOWHERE, "request", "7", *SOON, "--on-lost", "local")
    assert code == 0
    assert json.loads(out)["node"] == HERE


def test_the_command_does_as_the_app_says(typed: Line, prices: str) -> None:
    code, _, err = typed("request", "7", "-r", "charge", *SOON, "--app", prices)
    assert (code, "ValueError: broke" in err) == (1, True)
    code, _, err = typed("request", "7", "-r", "price", *SOON, "--app", prices)
    assert (code, "127.0.0.1:1 is not available" in err) == (5, True)


def test_the_command_needs_the_app_that_has_the_handler(typed: Line, prices: str) -> None:
    code, _, err = typed("request", "7", "-r", "price", "--on-lost", "local")
    assert code == 2
    assert "--app MODULE:APP" in err
    assert "'price'" in err
    code, _, err = typed("request", "7", "-r", "x", "--on-lost", "local", "--app", prices)
    assert code == 2
    assert "charge, demo, price" in err
    assert typed("request", "7", "--on-lost", "sometimes")[0] == 2


def test_the_command_with_the_policy_error(typed: Line, cluster: Cluster) -> None:
    where = ("--url", cluster.url, "--namespace", cluster.namespace)
    code, out, err = typed(*where, "request", "7", "--on-lost", "error")
    assert (code, out) == (3, "")
    assert "no live node" in err
    assert typed("--url", NOWHERE, "request", "7", *SOON, "--on-lost", "error")[0] == 5
