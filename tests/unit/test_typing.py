"""What type checkers know of what an app declares."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CODE = """
from rqproc import App

app = App()


class Account:
    def __init__(self, id: int, state: int | None = None) -> None:
        self.balance = state or 0

    def deposit(self, amount: int) -> int:
        return self.balance + amount

    async def audit(self) -> list[str]:
        return []


accounts = app.stateful(idle=300)(Account)
total: int = accounts.at(42).deposit(5)
made: Account = accounts(42)


async def ask() -> list[str]:
    return await accounts.with_options(timeout=2.0).at(42).audit()


accounts.at(42).deposit("5")
accounts.at(42).depositt(5)
text: str = accounts.at(42).deposit(5)
"""


@pytest.mark.slow
@pytest.mark.timeout(180)  # it reads all of the package
@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is for those who change the code")
def test_calls_of_stateful_ids_are_checked_by_their_methods(tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(CODE)
    cache = ("--cache-dir", os.devnull)
    done = subprocess.run(
        (sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *cache, "bank.py"),
        cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    told = [line.rpartition("[")[2] for line in done.stdout.splitlines() if ": error:" in line]
    assert told == ["arg-type]", "attr-defined]", "assignment]"], done.stdout
