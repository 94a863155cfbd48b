"""Every exit code, what is said with it, and that nobody is shown a stack trace."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Line, Running
from watch import Watch


def _ends(running: Running, *, within_s: float = 20.0) -> tuple[int, str]:
    """Return the exit code and stderr of a command that has to tell its trouble in words."""
    code = running.wait(within_s=within_s)
    assert "Traceback" not in running.stderr
    return code, running.stderr


def _fails(url: str, namespace: str, *args: str) -> tuple[int, str]:
    with kit.command(url, namespace, *args) as running:
        return _ends(running)


def test_0_where_all_is_well(shop: str) -> None:
    assert _fails(shop, "shop", "request", "1", "2", "-r", "price") == (0, "")


def test_1_where_a_handler_failed(shop: str, ids: Fresh) -> None:
    code, err = _fails(shop, "shop", "request", str(ids(1)[0]), "-r", "explode")
    assert code == 1
    assert "ValueError: no such id" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("request",), "Missing argument"),
        (("request", "1", "--nonsense"), "--nonsense"),
        (("nonsense",), "nonsense"),
        (("request", ""), "an id has 1 to 200 characters"),
        (("request", "a\nb"), "no control characters"),
        (("request", "1", "--timeout", "0"), "timeout"),
        (("request", "1", "-r", "no name"), "invalid resource name"),
        (("request", "1", "-r", "prize"), "the node serves"),
        (("--namespace", "a b", "request", "1"), "invalid namespace"),
        (("--url", "http://localhost", "request", "1"), "redis://"),
        (("--url", "redis://localhost:port", "request", "1"), "invalid server URL"),
        (("node", "drain", "n9"), "n9"),
        (("node", "start", "--count", "0"), "--count"),
        (("node", "start", "--metrics-port", "0"), "--metrics-port"),
    ],
)
def test_2_where_the_command_was_wrong(line: Line, args: tuple[str, ...], says: str) -> None:
    code, _, err = line(*args)
    assert code == 2
    assert says in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--lease", "0.1"), "--lease"),
        (("--lease", "1", "--heartbeat", "0.8"), "--heartbeat"),
        (("--name", "a b"), "invalid node name"),
    ],
)
def test_2_where_a_node_was_started_wrong(shop: str, options: tuple[str, ...], says: str) -> None:
    code, err = _fails(shop, "shop", "node", "start", *options)
    assert code == 2
    assert says in err


def test_2_where_a_lease_has_no_end(shop: str) -> None:
    code, _ = _fails(shop, "shop", "node", "start", "--name", "endless", "--lease", "inf")
    assert code == 2


@pytest.mark.parametrize(
    "args",
    [
        ("request", "1"),
        ("invalidate", "1"),
        ("owner", "1"),
        ("node", "check"),
        ("node", "drain", "x"),
    ],
    ids=" ".join,
)
def test_3_where_no_node_is_alive(line: Line, args: tuple[str, ...]) -> None:
    watch = Watch()
    code, _, err = line("--namespace", "empty", *args)
    assert code == 3
    assert "rqproc node start" in err
    assert watch.stop() < 3


def test_3_where_the_node_that_is_checked_is_not_alive(line: Line) -> None:
    assert line("node", "check", "n9") == (3, "", "error: n9 is not alive\n")


def test_4_where_no_answer_came_in_time(line: Line, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    code, _, err = line("request", str(id), "-r", "gated", "-t", "0.3")
    assert code == 4
    assert f"no answer for gated {id} within 0.3 s" in err
    book.release("gated", id)


def test_6_where_the_queue_is_full(cluster: Cluster, line: Line, book: Book, ids: Fresh) -> None:
    cluster.start("a", options=("--max-queue", "2"))
    (id,) = ids(1)
    jobs, _ = kit.fill(cluster.client, id)
    code, _, err = line("--namespace", cluster.namespace, "request", str(id), "-r", "charge")
    book.release("gated", id, times=len(jobs))
    assert code == 6
    assert "node a is overloaded" in err
    assert "--max-queue" in err
    kit.eventually(lambda: book.count("gated", id) == len(jobs))


def test_130_on_ctrl_c(shop: str, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    with kit.command(shop, "shop", "request", str(id), "-r", "gated") as running:
        book.started("gated", id)
        running.signal(signal.SIGINT)
        code, err = _ends(running)
    assert (code, running.stdout) == (130, "")
    assert "interrupted" in err
    book.release("gated", id)


UNREACHABLE = [
    ("request", "1", "--timeout", "60"),
    ("request", "1", "--timeout", "1"),
    ("node", "list"),
    ("node", "start"),
    ("node", "start", "--count", "2"),
]


class Trial:
    """All commands at once against a server that cannot be had: they wait side by side."""

    def __init__(self, url: str, pool: ThreadPoolExecutor) -> None:
        self._ended = {args: pool.submit(self._run, url, args) for args in UNREACHABLE}

    def _run(self, url: str, args: tuple[str, ...]) -> tuple[int | None, float, str]:
        watch = Watch()
        with kit.command(url, "shop", *args) as running:
            try:
                code: int | None = running.wait(within_s=40)
            except subprocess.TimeoutExpired:
                code = None
                running.signal(signal.SIGTERM)  # a supervisor ends its children
        return code, watch.stop(), running.stderr

    def check(self, args: tuple[str, ...]) -> None:
        code, took_s, err = self._ended[args].result()
        assert "Traceback" not in err
        assert code == 5, err
        assert "is not available" in err
        assert took_s < 30  # 5 s, and ten processes that start at once; half of the longest timeout


@pytest.fixture(scope="module")
def trials() -> Iterator[dict[str, Trial]]:
    """A port that nobody listens on, and a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        refusing = nobody.getsockname()[1]
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as listening,
        ThreadPoolExecutor(2 * len(UNREACHABLE)) as pool,
    ):
        silent = listening.getsockname()[1]
        ports = {"refusing": refusing, "silent": silent}
        yield {name: Trial(f"redis://127.0.0.1:{port}", pool) for name, port in ports.items()}


@pytest.mark.parametrize("args", UNREACHABLE, ids=" ".join)
def test_5_where_redis_refuses_the_connection(
    trials: dict[str, Trial], args: tuple[str, ...]
) -> None:
    trials["refusing"].check(args)


@pytest.mark.parametrize("args", UNREACHABLE, ids=" ".join)
def test_5_where_redis_never_answers(trials: dict[str, Trial], args: tuple[str, ...]) -> None:
    trials["silent"].check(args)


def test_a_wrong_password_is_not_shown(shop: str, line: Line) -> None:
    code, _, err = line("--url", shop.replace("//", "//user:s3cret@"), "request", "1")
    assert code == 5
    assert "s3cret" not in err


def test_a_password_in_an_unreadable_url_is_not_shown(line: Line) -> None:
    code, _, err = line("--url", "redis://user:s3cret@localhost:port/0", "request", "1")
    assert code == 2
    assert "s3cret" not in err
