"""Programs that gevent or eventlet has patched: all that threads can do, greenlets can."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration import kit
from integration.fixtures import Fresh
from integration.tls import TlsFront
from watch import Watch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_first_ids = itertools.count(10**6, 1000)
NO_NUDGE_S = 1.5
"""Sooner than anyone sends its calls again."""

CASES = (
    "many", "slow", "groups", "jobs", "in_asyncio", "killed", "timed_out", "killed_anywhere",
    "near", "local", "node", "forked", "in_memory",
)  # fmt: skip


def cases(*names: str) -> list[str]:
    """Cases with ids that nobody else uses: they may be played again, beside the same server."""
    bare = ("local", "node", "in_memory")
    return [name if name in bare else f"{name}:{next(_first_ids)}" for name in names]


@pytest.fixture(scope="module")
def played(shop: str, library: str) -> dict[str, Any]:
    """What came of most cases, played in one process."""
    names = (*CASES, "threads") if library == "gevent" else CASES
    with kit.greenlets(shop, "shop", library, *cases(*names)) as program:
        return kit.played(program)


def test_500_greenlets_share_one_connection_and_one_computation_per_id(
    played: dict[str, Any],
) -> None:
    found = played["many"]
    assert Counter(found["asked"]).most_common()[-1][1] == 10
    assert found["runs"] == [1] * 500
    assert found["again"] == ["hit"]
    assert found["connections"] == 1


def test_a_slow_id_holds_up_no_other_greenlet(played: dict[str, Any]) -> None:
    assert played["slow"] == {"works": True, "slow": 1}


def test_many_greenlets_ask_for_many_ids_each(played: dict[str, Any]) -> None:
    assert played["groups"] == {"ordered": True, "runs": [1]}


def test_greenlets_enqueue_and_ask_about_the_cluster(played: dict[str, Any]) -> None:
    assert played["jobs"] == [[3, 1]] * 20


def test_asyncio_works_in_a_patched_program(played: dict[str, Any]) -> None:
    assert played["in_asyncio"] == [1] * 20


def test_a_greenlet_that_is_killed_costs_the_others_nothing(played: dict[str, Any]) -> None:
    assert played["killed"] == {"others": [1] * 3, "same": True, "works": True}


def test_a_timeout_of_the_librarys_own_ends_its_request_alone(played: dict[str, Any]) -> None:
    found = played["timed_out"]
    assert found == {"timeouts": ["over"] * 6, "one": 1, "same": True, "works": True}


def test_a_client_works_wherever_its_greenlets_were_killed(played: dict[str, Any]) -> None:
    assert played["killed_anywhere"] is True


def test_greenlets_share_a_near_cache(played: dict[str, Any]) -> None:
    assert played["near"] == {"connections": 2}


def test_handlers_of_local_mode_run_in_greenlets(played: dict[str, Any]) -> None:
    found = played["local"]
    assert found["values"] == [*range(10)] * 10
    assert found["runs"] == [*range(10)], "each once"
    assert found["late"] == ["RequestTimeout"]
    assert found["asleep"] == [*range(10)]
    assert found["job"] == 3
    assert found["waits"] is True
    kind, text = found["beside"]
    assert kind == "HandlerFailed"
    assert "one event loop in a thread" in text


def test_a_node_is_refused_where_there_are_no_threads(played: dict[str, Any], library: str) -> None:
    kind, text = played["node"]
    assert kind == "ConfigError"
    assert library in text


def test_the_test_kit_works_in_a_patched_program(played: dict[str, Any]) -> None:
    assert played["in_memory"] == ["miss", "hit", "miss"]


def test_a_forked_child_asks_beside_its_parent(played: dict[str, Any]) -> None:
    assert played["forked"] == {"child": 0, "works": True, "slow": 1}


def test_native_threads_share_a_client_with_greenlets_in_each(
    played: dict[str, Any], library: str
) -> None:
    if library == "eventlet":
        pytest.skip("it has no loop but in one thread")
    assert played["threads"] == {"works": [True] * 5, "slow": 1}


def test_each_greenlet_has_its_own_timeout(shop: str, library: str) -> None:
    with kit.greenlets(shop, "shop", library, *cases("deadlines")) as program:
        program.says("asking alone")
        watch = Watch()
        program.says("over alone")
        took = [watch.stop()]
        program.says("asking together")
        watch = Watch()
        for i in range(1, 5):
            program.says(f"over {i}")
            took.append(watch.s)
        watch.stop()
        found = kit.played(program)["deadlines"]
    assert found == {"errors": ["RequestTimeout"] * 5, "one": 1}
    allowed = (0.2, 0.2, 0.4, 0.6, 0.8)
    assert all(one < timeout + 0.3 for one, timeout in zip(took, allowed, strict=True)), took


def test_python_may_be_patched_when_rqproc_is_there(shop: str, library: str, ids: Fresh) -> None:
    """By gevent. eventlet takes from under redis-py what that has found."""
    with kit.greenlets(shop, "shop", library, f"late:{ids(1)[0]}") as program:
        if library == "eventlet":
            program.wait()
            assert "ConfigError" in program.stdout
            assert "before any other import" in program.stdout
            return
        for name in ("used", "idle"):
            program.says(f"asking {name}")
            watch = Watch()
            program.says(f"answered {name}")
            assert watch.stop() < NO_NUDGE_S, "one that waits would else hold up all"
        found = kit.played(program)["late"]
    assert found["used"] is True
    assert found["idle"] is True
    assert found["connections"] == [2, 2], "one that was idle, or listens, and the shared one"
    assert found["local"] == [*range(10)] * 10


def test_sockets_may_not_be_patched_without_threads(shop: str, library: str) -> None:
    with kit.greenlets(shop, "shop", library, "halfway") as program:
        kind, text = kit.played(program)["halfway"]
    assert kind == "ConfigError"
    assert f"{library} has patched Python's sockets, but not its threads" in text


@pytest.fixture
def front(shop: str, tmp_path: Path) -> Iterator[TlsFront]:
    with TlsFront(shop, tmp_path) as front:
        yield front


def test_it_goes_over_tls(front: TlsFront, shop: str, library: str) -> None:
    url = f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={front.certificate}"
    names = cases("many", "slow", "groups", "killed")
    with kit.greenlets(url, "shop", library, *names, SHOP_URL=shop) as program:
        found = kit.played(program)
    assert found["many"]["runs"] == [1] * 500
    assert found["slow"] == {"works": True, "slow": 1}
    assert found["groups"] == {"ordered": True, "runs": [1]}
    assert found["killed"] == {"others": [1] * 3, "same": True, "works": True}


def test_greenlets_start_the_embedded_server_together(library: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        places = {"XDG_RUNTIME_DIR": folder, "XDG_STATE_HOME": f"{folder}/state"}
        nobody = {"SHOP_URL": "redis://nowhere", **places}
        with kit.greenlets("embedded", "green", library, "embedded", **nobody) as program:
            found = kit.played(program)["embedded"]
        kit.eventually(lambda: not [*Path(folder).glob("*/server.sock")], what="the server's end")
        shutil.rmtree(folder, ignore_errors=True)  # it may still be writing
        Path(folder).mkdir(exist_ok=True)
    (server,) = {server for server, _, _ in found}
    assert folder in server
    assert [rest for _, *rest in found] == [[[], "NoLiveNode"]] * 10


PATCHED = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore')\n"
    "import eventlet; eventlet.monkey_patch()",
}


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_node_whose_app_patches_ends_with_an_explanation(
    shop: str, library: str, tmp_path: Path, count: str
) -> None:
    Path(tmp_path, "patched.py").write_text(
        f"{PATCHED[library]}\nfrom rqproc import App\napp = App()\n"
    )
    with kit.node(shop, "green", "a", "--count", count, app="patched:app", cwd=tmp_path) as node:
        assert node.wait() == 2
    assert f"error: a node needs threads, and {library} has put greenlets" in node.stderr
