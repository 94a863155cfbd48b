"""``rqproc request --stdin`` as a process: in a pipe, on a terminal, and when it is interrupted."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book


@contextmanager
def asking(
    shop: str, *arguments: str, err: int | None = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """The command, with its input open."""
    process = subprocess.Popen(
        (*kit.RQPROC, "request", "--stdin", *arguments),
        env=kit.environ(shop, "shop", PYTHONUNBUFFERED="1", TERM="xterm"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def pipe(of: IO[str] | None) -> IO[str]:
    assert of
    return of


def write(process: subprocess.Popen[str], text: str) -> None:
    pipe(process.stdin).write(text)
    pipe(process.stdin).flush()


def test_a_line_is_answered_while_the_input_is_still_open(shop: str, ids: Fresh) -> None:
    one, other = ids(2)
    with asking(shop, "-r", "instant") as process:
        for id in (one, other):
            write(process, f"{id}\n")
            assert pipe(process.stdout).readline() == f'{id}\t{{"id": {id}}}\n'
        pipe(process.stdin).close()
        assert process.wait(20) == 0
        assert pipe(process.stdout).read() == pipe(process.stderr).read() == ""


def test_the_json_of_each_line_and_the_code_of_the_first_failure(shop: str, ids: Fresh) -> None:
    good, bad = ids(2)
    text = f"{good}\n\x01\n{bad}\n"
    done = kit.finished(shop, "shop", "request", "--stdin", "-r", "echo", "--json", text=text)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["id"], line["ok"]) for line in lines] == [
        (good, True), ("\x01", False), (bad, True),
    ]  # fmt: skip
    assert (lines[1]["error"]["type"], done.returncode, done.stderr) == ("InvalidId", 2, "")
    done = kit.finished(shop, "shop", "request", "--stdin", "-r", "explode", text=f"{bad}\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "ValueError" in done.stderr


def test_without_a_server_the_code_is_that_of_redis(ids: Fresh) -> None:
    done = kit.finished("redis://localhost:1", "shop", "request", "--stdin", text="1\n2\n")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("error:") == 1


def test_ctrl_c_ends_it_and_what_was_answered_stays(shop: str, book: Book, ids: Fresh) -> None:
    """While it reads, and while it waits for an answer."""
    one, slow = ids(2)
    for waits in (False, True):
        with asking(shop, "-r", "slow_price") as process:
            book.release("slow_price", one)
            write(process, f"{one}\n")
            assert pipe(process.stdout).readline().startswith(f"{one}\t")
            if waits:
                write(process, f"{slow}\n")
                book.started("slow_price", slow)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert pipe(process.stderr).read().strip() == "interrupted"
    book.release("slow_price", slow)


def test_progress_is_shown_on_a_terminal_where_results_go_elsewhere(
    shop: str, ids: Fresh, tmp_path: Path
) -> None:
    good, bad = ids(2)
    source = tmp_path / "ids.txt"
    source.write_text(f"{good}\n{bad}\n{'x' * 201}\n")
    for elsewhere in (True, False):
        ours, theirs = pty.openpty()
        with source.open() as lines:
            process = subprocess.Popen(
                (*kit.RQPROC, "request", "--stdin", "-r", "instant"),
                env=kit.environ(shop, "shop", TERM="xterm", COLUMNS="120"),
                stdin=lines, stdout=subprocess.PIPE if elsewhere else theirs, stderr=theirs,
            )  # fmt: skip
        os.close(theirs)
        written = kit.read_terminal(ours)
        assert process.wait(20) == 2
        shown = written.decode()
        assert "error: invalid id" in shown
        assert ("3 ids, 1 failed" in shown) is elsewhere
        assert ("100%" in shown) is elsewhere
        if process.stdout:
            with process.stdout as out:
                assert out.read().count(b"\n") == 2


def test_nothing_is_shown_where_there_is_no_terminal(shop: str, ids: Fresh) -> None:
    done = kit.finished(shop, "shop", "request", "--stdin", "-r", "instant", text=f"{ids(1)[0]}\n")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_ids_of_a_pipe_may_be_asked_for_without_a_server() -> None:
    done = kit.finished("", "t", "--url", "local://", "request", "--stdin", text="1\n2\n1\n")
    assert done.returncode == 0
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["1", "2", "1"]


def test_a_standard_input_that_is_closed_is_a_usage_error(shop: str) -> None:
    done = subprocess.run(
        ("sh", "-c", 'exec "$@" <&-', "sh", *kit.RQPROC, "request", "--stdin"),
        env=kit.environ(shop, "shop"), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input is closed" in done.stderr
    assert "Traceback" not in done.stderr
