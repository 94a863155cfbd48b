"""The README's tests of an app, run as they stand there: in memory, and on real processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from kit import SOURCE, environ

README = (SOURCE / "README.md").read_text("utf-8")


def files() -> dict[str, str]:
    """The files that the section on testing shows, by name."""
    section = README.partition("## Testing your app\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```", section, flags=re.M | re.S)
    return dict(shown)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The README's files, where a user would have them."""
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path, *options: str) -> str:
    command = (sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    done = subprocess.run(
        (*command, *options),
        cwd=folder,
        env=environ("", "readme"),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    return done.stdout + done.stderr


def test_each_of_the_readmes_tests_has_less_than_ten_lines() -> None:
    tests = files()["test_shop.py"].split("\ndef ")[1:]
    assert len(tests) == 4
    assert all(len(test.strip().splitlines()) < 10 for test in tests)


def test_the_readmes_tests_pass_in_memory(folder: Path) -> None:
    assert "4 passed" in run(folder)


@pytest.mark.timeout(160)
def test_the_readmes_tests_pass_on_real_processes(folder: Path) -> None:
    assert "4 passed" in run(folder, "--rqproc-real")


def test_a_readers_test_that_fails_says_what_happened(folder: Path) -> None:
    text = (folder / "test_shop.py").read_text()
    broken = text.replace("rqproc_cluster.advance(30)", "rqproc_cluster.advance(29)")
    (folder / "test_shop.py").write_text(broken)
    said = run(folder)
    assert "1 failed, 3 passed" in said
    assert re.search(r"last events of the rqproc cluster", said)
    assert re.search(r"^ +29\.000 s  node-\d +price 42 +answered .* hit ", said, flags=re.M)
