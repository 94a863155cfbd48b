"""``rqproc docs`` as a process: on a narrow terminal, and in a pipe that knows Latin-1 alone."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios

from integration import kit

from rqproc.cli.docs import TOPICS, page

COLUMNS = 40


def in_terminal(*arguments: str, **env: str) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code and all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    clean = {k: v for k, v in kit.environ("", "docs").items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        (*kit.RQPROC, *arguments),
        env={**clean, "TERM": "xterm", **env},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    written = kit.read_terminal(ours)
    return process.wait(20), written.decode(env.get("PYTHONIOENCODING", "utf-8"))


def test_a_page_on_a_narrow_terminal_goes_through_the_pager_and_keeps_its_width() -> None:
    code, written = in_terminal("docs", "speed", PAGER="cat", NO_COLOR="1")
    assert code == 0
    assert max(map(len, written.splitlines())) <= COLUMNS
    assert "--rows hit-capacity" in written
    assert page("speed")[:10] not in written


def test_a_terminal_without_unicode_is_no_error() -> None:
    code, written = in_terminal("docs", "faults", PAGER="cat", PYTHONIOENCODING="latin-1")
    assert code == 0
    assert " * " in written
    assert "Traceback" not in written


def test_the_list_on_a_narrow_terminal_is_wrapped() -> None:
    code, written = in_terminal("docs")
    assert code == 0
    assert max(map(len, written.splitlines())) <= COLUMNS
    assert not [topic for topic in TOPICS if topic not in written]


def test_a_page_in_a_pipe_of_latin_1_is_its_markdown() -> None:
    done = subprocess.run(
        (*kit.RQPROC, "docs", "speed"),
        env=kit.environ("", "docs", PYTHONIOENCODING="latin-1"),
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.decode("latin-1") == page("speed")
    assert done.stderr == b""
