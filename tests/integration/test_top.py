"""``rqproc top`` over real nodes: in a pipe, as lines, and in a terminal with keys."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pyte
import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Line


class Terminal:
    """A terminal in which ``rqproc top`` runs, read as a person reads it."""

    def __init__(
        self, cluster: Cluster, columns: int, rows: int, kind: str = "xterm-256color"
    ) -> None:
        self._ours, theirs = pty.openpty()
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        self.modes = termios.tcgetattr(theirs)
        self._theirs = theirs
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        environ = {**kit.environ(cluster.url, cluster.namespace), "TERM": kind}
        environ.pop("COLUMNS", None)
        environ.pop("LINES", None)
        self.process = subprocess.Popen(
            (*kit.RQPROC, "top", "--interval", "0.2"), stdin=theirs, stdout=theirs, stderr=theirs,
            env=environ, preexec_fn=os.setsid,
        )  # fmt: skip

    def text(self) -> str:
        self._read(0.05)
        return "\n".join(self._screen.display)

    def _read(self, within_s: float) -> None:
        while select.select([self._ours], [], [], within_s)[0]:
            with suppress(OSError):  # its end
                data = os.read(self._ours, 65536)
                self.raw += data
                self._stream.feed(data)
                within_s = 0.0
                continue
            return

    def shows(self, *texts: str, within_s: float = 30.0) -> str:
        """Wait until all of this is on the screen; return what is."""
        end = time.monotonic() + within_s
        while not all(text in (found := self.text()) for text in texts):
            assert time.monotonic() < end, f"{texts} did not show:\n{found}"
        return found

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def ends(self) -> int:
        """Wait for its end; return the exit code."""
        end = time.monotonic() + 20.0
        while self.process.poll() is None:
            assert time.monotonic() < end, self.text()
            self._read(0.05)
        self._read(0.05)
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def modes_now(self) -> Sequence[object]:
        return termios.tcgetattr(self._theirs)


@contextmanager
def terminal(cluster: Cluster, columns: int = 100, rows: int = 30) -> Iterator[Terminal]:
    found = Terminal(cluster, columns, rows)
    try:
        yield found
    finally:
        found.close()


def where(cluster: Cluster) -> tuple[str, ...]:
    return ("--url", cluster.url, "--namespace", cluster.namespace)


def test_a_pipe_has_one_plain_table(line: Line, ids: Fresh) -> None:
    line("request", str(ids(1)[0]), "-r", "price")
    code, out, err = line("top", "-i", "0.1")
    assert (code, err) == (0, "")
    assert "3 nodes, epoch " in out
    assert "\x1b" not in out
    assert [text.split()[0] for text in out.splitlines() if text.startswith("n")][:4] == [
        "node", "n1", "n2", "n3",
    ]  # fmt: skip


def test_the_lines_for_programs(line: Line) -> None:
    first, second = line.json("top", "-i", "0.1", "--count", "2")
    for seen in (first, second):
        assert [row["info"]["name"] for row in seen["nodes"]] == ["n1", "n2", "n3"]
        assert seen["trouble"] == ""
    assert second["at_s"] > first["at_s"]


def test_a_namespace_without_nodes_is_a_clear_line(line: Line, cluster: Cluster) -> None:
    code, out, err = line("top", "-i", "0.1", *where(cluster))
    assert (code, err) == (3, "")
    assert f"no live node in namespace {cluster.namespace!r}: start one with" in out


def test_a_server_that_is_not_there_is_a_clear_line(line: Line) -> None:
    code, out, err = line("top", "--url", "redis://127.0.0.1:1")
    assert (code, out) == (5, "")
    assert err.startswith("error: Redis at 127.0.0.1:1 is not available")
    assert err.count("\n") == 1


def test_count_goes_with_json(line: Line) -> None:
    code, _, err = line("top", "--count", "2")
    assert code == 2
    assert "--count goes with --json" in err


def test_the_screen_shows_nodes_as_they_die_and_leaves_the_terminal_as_it_was(
    cluster: Cluster,
) -> None:
    cluster.start("a", "b", options=("--lease", "2", "--heartbeat", "0.3"))
    with terminal(cluster) as shown:
        shown.shows("2 nodes", "a ", "b ")
        cluster.nodes["b"].signal(signal.SIGKILL)
        text = shown.shows("1 node,", "b died: its lease ran out")
        assert "ids moved: members are a" in text
        shown.type("q")
        assert shown.ends() == 0
        assert shown.modes_now == shown.modes
        assert b"\x1b[?1049l" in shown.raw, "it leaves the other screen"
        assert b"\x1b[?25h" in shown.raw, "and shows the cursor"


def test_ctrl_c_leaves_the_terminal_as_it_was(three: Cluster) -> None:
    with terminal(three) as shown:
        shown.shows("3 nodes")
        shown.process.send_signal(signal.SIGINT)
        assert shown.ends() == 130
        assert shown.modes_now == shown.modes
        assert b"Traceback" not in shown.raw


def test_keys_look_an_id_up_and_drain_a_node_once_confirmed(three: Cluster) -> None:
    id = 42
    three.client.request(id, "price")
    owner = three.client.owner(id)
    with terminal(three) as shown:
        shown.shows("3 nodes")
        shown.type(f"/price:{id}\r")
        shown.shows(f"price {id}", f"answered  by {owner}", "any key: back")
        shown.type("x")
        shown.shows("3 nodes", "q quit")
        shown.type("db\r")
        shown.shows("drain b: it takes nothing new and ends. Sure? y/n")
        shown.type("n")
        shown.shows("b was not drained")
        assert "b" in three.client.members()
        shown.type("db\r")
        shown.shows("Sure? y/n")
        shown.type("y")
        shown.shows("2 nodes")
        assert "b" not in three.client.members()


@pytest.mark.parametrize("columns", [40])
def test_forty_columns_are_enough(three: Cluster, columns: int) -> None:
    with terminal(three, columns, 16) as shown:
        text = shown.shows("node ", "req/s", "p99", "a ", "b ", "c ")
        assert "Traceback" not in text


def test_a_terminal_that_cannot_move_its_cursor_has_the_plain_table(three: Cluster) -> None:
    shown = Terminal(three, 100, 30, kind="dumb")
    try:
        assert shown.ends() == 0
        assert "3 nodes" in shown.text()
        assert b"\x1b" not in shown.raw
    finally:
        shown.close()
