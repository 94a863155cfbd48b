"""What README and the pages show, run as it stands there: an app, and its tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from kit import RQPROC, SOURCE, Running, environ

from rqproc.lab.servers import ServerProcess

README = Path(__file__).parents[2] / "README.md"
TESTING = SOURCE / "rqproc" / "docs" / "testing.md"


def files(page: Path) -> dict[str, str]:
    """The files that a page shows, by name."""
    text = page.read_text("utf-8")
    shown = re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```", text, flags=re.M | re.S)
    return dict(shown)


def laid_out(page: Path, folder: Path) -> Path:
    """The page's files, where a user would have them."""
    for name, text in files(page).items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return laid_out(TESTING, tmp_path)


def run(folder: Path, *options: str) -> str:
    command = (sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    done = subprocess.run(
        (*command, *options),
        cwd=folder,
        env=environ("", "shown"),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    return done.stdout + done.stderr


def test_each_of_the_shown_tests_has_less_than_ten_lines() -> None:
    tests = files(TESTING)["test_shop.py"].split("\ndef ")[1:]
    assert len(tests) == 4
    assert all(len(test.strip().splitlines()) < 10 for test in tests)


def test_the_shown_tests_pass_in_memory(folder: Path) -> None:
    assert "4 passed" in run(folder)


@pytest.mark.slow
@pytest.mark.timeout(160)
def test_the_shown_tests_pass_on_real_processes(folder: Path) -> None:
    assert "4 passed" in run(folder, "--rqproc-real")


def test_a_readers_test_that_fails_says_what_happened(folder: Path) -> None:
    text = (folder / "test_shop.py").read_text()
    broken = text.replace("rqproc_cluster.advance(30)", "rqproc_cluster.advance(29)")
    (folder / "test_shop.py").write_text(broken)
    said = run(folder)
    assert "1 failed, 3 passed" in said
    assert re.search(r"last events of the rqproc cluster", said)
    assert re.search(r"^ +29\.000 s  node-\d +price 42 +answered .* hit ", said, flags=re.M)


# --- README's own code ---


def test_readmes_own_code_is_served_and_asked_as_it_says(
    shop_server: ServerProcess, tmp_path: Path
) -> None:
    folder = laid_out(README, tmp_path)
    section = README.read_text("utf-8").partition("## Your own code\n")[2].partition("\n## ")[0]
    command, value = re.findall(r"^\$ (rqproc request .*)\n(.*)", section, flags=re.M)[0]
    caller = re.findall(r"^```python\n(from prices .*?)^```", section, flags=re.M | re.S)[0]
    env = environ(shop_server.url, "readme")

    def done(*arguments: str) -> str:
        ended = subprocess.run(
            arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=30, check=True
        )
        return ended.stdout

    with Running((*RQPROC, "node", "start", "prices:app"), env=env, cwd=folder) as node:
        node.ready()
        assert done(*RQPROC, *command.split()[1:]) == f"{value}\n"
        asked = 'print(charge.request("tenant-7", amount=5))'
        assert (
            done(sys.executable, "-W", "error", "-c", caller + asked) == "charged 5 to tenant-7\n"
        )
